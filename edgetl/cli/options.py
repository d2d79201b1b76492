"""A verb's options on its command line, made from the fields of its struct, and --config."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import typer

from edgetl.errors import UsageError
from edgetl.options.base import Field, Options, fields
from edgetl.recipes import parse_toml

Refusal: Any = typer.BadParameter.__base__  # UsageError of click, wherever typer keeps it
CONFIG = "TOML with these options; the command line goes first. Paths are from where you are."


def parameters(kind: type[Options]) -> list[inspect.Parameter]:
    """What typer is to read for a struct: each of its options, None where it is not given."""
    hints: dict[str, Any] = {
        field.name: Annotated[_typed(field) | None, _option(field)] for field in fields(kind)
    }
    hints["config"] = Annotated[Path | None, typer.Option("--config", help=CONFIG)]
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        for name, hint in hints.items()
    ]


def chosen(kind: type[Options], given: dict[str, Any]) -> Options:
    """The struct of what typer read, taken out of `given`, and of the file behind it."""
    config = given.pop("config")
    changes = {} if config is None else from_file(kind, config)
    for field in fields(kind):
        value = given.pop(field.name)
        if isinstance(field.default, bool):  # a switch says the opposite of its default
            value = not field.default if value else None
        if value not in (None, []):
            spelled = (choice for choice in field.literals if str(choice) == value)
            changes[field.name] = next(spelled, value)
        if field.name not in changes and field.default is msgspec.NODEFAULT:
            raise Refusal(f"Missing option '{field.flags[0]}'.")
    return kind.of(None, changes)


def from_file(kind: type[Options], path: Path) -> dict[str, Any]:
    """The options in a --config file, by field name; UsageError names the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"Cannot read --config {path}: {error.strerror}.", fix="give a TOML file."
        ) from error
    homes = {key: field for field in fields(kind) for key in field.keys}
    for key in parse_toml(data, dict[str, Any], where=str(path)):
        if key not in homes:
            known = ", ".join(sorted(homes))
            raise UsageError(f"{path} has no option {key!r} to give.", fix=f"it may give {known}.")
    partial = msgspec.defstruct(
        kind.__name__,
        [(key, _partial(field), msgspec.UNSET) for key, field in homes.items()],
        forbid_unknown_fields=True,
    )
    read = msgspec.structs.asdict(parse_toml(data, partial, where=str(path)))
    found: dict[str, tuple[str, Any]] = {}
    for key, value in read.items():
        if value is not msgspec.UNSET and found.setdefault(homes[key].name, (key, value))[0] != key:
            raise UsageError(
                f"{path} gives both {found[homes[key].name][0]} and {key}, which are one option.",
                fix="remove one of them.",
            )
    return {name: value for name, (_, value) in found.items()}


def _partial(field: Field) -> Any:
    """A field's type in a file, which need not hold it and may hold its text form."""
    return field.type | msgspec.UnsetType | (str if field.option.parse else msgspec.UnsetType)


def _typed(field: Field) -> Any:
    """What typer converts the text to; the struct converts the rest."""
    if field.literals:
        return Literal[tuple(str(choice) for choice in field.literals)]
    if field.option.parse or field.option.known:
        return str
    if get_origin(field.type) is tuple:
        return list[get_args(field.type)[0]]  # type: ignore[misc]
    return field.type


def _option(field: Field) -> Any:
    option, default = field.option, field.default
    plain = default is not msgspec.NODEFAULT and not isinstance(default, bool)
    words = option.default or (str(default) if plain and default not in (None, "", ()) else "")
    notes = "; ".join(filter(None, (words and f"default: {words}", option.range)))
    text = f"{option.help} [{notes}]" if notes else option.help
    if default is msgspec.NODEFAULT:
        text += " [required]"
    shown: dict[str, Any] = {"help": text, "metavar": option.metavar, "show_default": False}
    if option.known:  # those of plug-ins are looked for when one is named
        names = dict.fromkeys((default, *option.known.own))
        shown |= {"parser": _named(field), "metavar": f"<{'|'.join(names)}>"}
    return typer.Option(*field.flags, **shown)


def _named(field: Field) -> Callable[[str], str]:
    def known(value: str) -> str:
        if not field.knows(value):
            among = ", ".join(map(repr, field.choices))
            raise typer.BadParameter(f"{value!r} is not one of {among}.")
        return value

    return known
