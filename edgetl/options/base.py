"""What a struct of options is made of, and what is read from it.

    class SliceOptions(Options, frozen=True, kw_only=True):
        \"\"\"Options of `edgetl slice`.\"\"\"

        thickness: Annotated[float, Option("Millimetres.", low=0.1, high=50)] = 5.0

That one field is `--thickness` with its help and default, the key `thickness` of `--config`, the
keyword `thickness` of `edgetl.slice`, and it refuses what is not within 0.1…50, wherever the value
came from. Options that contradict each other are refused by `Options.check`.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import msgspec

from edgetl.errors import UsageError
from edgetl.registry import Registry
from edgetl.spec import Size, Strict

Colours = tuple[float, float, float]
Self = TypeVar("Self", bound="Options")
Run = TypeVar("Run", bound=Callable[..., Any])

KEYWORDS = """Options are keywords, by the names of the fields of edgetl.options.{0}, or one
such struct in `options`, which the keywords change."""


class Option(NamedTuple):
    """What a field says of itself beside its type and its default."""

    help: str
    flags: tuple[str, ...] = ()  # if not --FIELD-NAME; messages have the first, others may be older
    default: str = ""  # in words, where the field's own default is None
    metavar: str | None = None  # what stands for the value in the help, if not the type
    parse: Callable[[str, str], Any] | None = None  # (flag, text) → value, where it has a text form
    low: float = -math.inf
    high: float = math.inf
    step: int = 0  # values are multiples of it
    unit: str = ""
    known: Registry[Any] | None = None  # what may be named beside the default; plug-ins add to it

    @property
    def range(self) -> str:
        """The numbers that are possible, in words."""
        upto = " or more" if self.high == math.inf else f"…{self.high:.10g}{self.unit}"
        steps = f", a multiple of {self.step}" if self.step else ""
        return "" if self.low == -math.inf else f"{self.low:g}{upto}{steps}"

    def admits(self, value: Any) -> bool:
        """Whether a number, or each of several, is possible; NaN never is."""
        if isinstance(value, tuple):
            return not self.range or all(map(self.admits, value))
        if not isinstance(value, (int, float)):
            return True
        return self.low <= value <= self.high and not (self.step and value % self.step)


class Field(NamedTuple):
    """One option of a struct, and how it is written elsewhere."""

    name: str  # of the field, and of the keyword in Python
    type: Any
    default: Any  # msgspec.NODEFAULT where the option is required
    option: Option
    flags: tuple[str, ...]  # on a command line; messages have the first
    keys: tuple[str, ...]  # in a --config file: `--max-drop` is max_drop, `--no-flip` is flip
    literals: tuple[Any, ...]  # the values of a Literal

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values there are, where they can be listed."""
        known = self.option.known
        return tuple(dict.fromkeys([self.default, *known.names()])) if known else self.literals

    def knows(self, value: Any) -> bool:
        """Whether a value names what is registered, which is not listed for it."""
        known = self.option.known
        return known is not None and (value == self.default or value in known)

    def read(self, value: Any) -> Any:
        """The value as the struct holds it: a path as text, a text form as what it means.

        UsageError for one that is not possible.
        """
        value = [*map(_text, value)] if isinstance(value, (list, tuple)) else _text(value)
        option, flag = self.option, self.flags[0]
        if option.parse and isinstance(value, str):
            value = option.parse(flag, value)
        if self.knows(value):
            return value
        choices = self.choices
        try:
            read = msgspec.convert(value, self.type)
            if (read is None or read in choices) if choices else option.admits(read):
                return read
            wanted = option.range or "a number"
        except msgspec.ValidationError as error:
            wanted = option.range or str(error)
        if choices:
            wanted = f"among {', '.join(map(str, choices))}"
        shown = value if choices else repr(value)  # '224', a text, is not 224
        if option.parse is sides and isinstance(value, (list, tuple)):
            shown = "x".join(map(str, value))
        raise UsageError(f"{flag} {shown} is not possible.", fix=f"choose {wanted}.")


class Options(Strict, frozen=True, kw_only=True):
    """Base of the options of a verb: unknown ones are refused."""

    def check(self) -> None:
        """UsageError for options that contradict each other; each by itself is checked before."""

    @classmethod
    def of(cls: type[Self], options: Self | None, changes: dict[str, Any]) -> Self:
        """`options` (all defaults, if None) with `changes` by field name, read and checked.

        TypeError for a name that is no field, UsageError for what is not possible.
        """
        made = cls(**changes) if options is None else msgspec.structs.replace(options, **changes)
        read = {field.name: field.read(getattr(made, field.name)) for field in fields(type(made))}
        made = msgspec.structs.replace(made, **read)
        made.check()
        return made


@functools.cache
def fields(kind: type[Options]) -> tuple[Field, ...]:
    """The options of a struct: its own first, then those of its bases."""
    known = {field.name: field for field in msgspec.structs.fields(kind)}
    found = []
    for name in dict.fromkeys(n for base in kind.__mro__ for n in inspect.get_annotations(base)):
        hint, *notes = (get_args(known[name].type) if name in known else ()) or (None,)
        for option in (note for note in notes if isinstance(note, Option)):
            flags = option.flags or (f"--{name.replace('_', '-')}",)
            plain = (flag.removeprefix("--").removeprefix("no-") for flag in flags)
            keys = tuple(key.replace("-", "_") for key in plain)
            parts = (part for part in (hint, *get_args(hint)) if get_origin(part) is Literal)
            literals = tuple(choice for part in parts for choice in get_args(part))
            found.append(Field(name, hint, known[name].default, option, flags, keys, literals))
    return tuple(found)


def takes(kind: type[Options]) -> Callable[[Run], Run]:
    """Decorator: the signature and text of a function name the options of `kind`."""

    def show(run: Run) -> Run:
        signature = inspect.signature(run)
        kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        shown = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=kept[0].empty if field.default is msgspec.NODEFAULT else field.default,
                annotation=field.type,
            )
            for field in fields(kind)
        ]
        run.__signature__ = signature.replace(parameters=[*kept, *shown])  # type: ignore[attr-defined]
        run.__doc__ = f"{inspect.getdoc(run) or ''}\n\n{KEYWORDS.format(kind.__name__)}"
        return run

    return show


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


# --- text forms: what stands on a command line, and what it means --------------------------------


def seconds(flag: str, text: str) -> float:
    """Seconds of a time such as 90s, 10m or 1h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found:
        raise UsageError(f"{flag} {text} is not a time.", fix="give one such as 90s, 10m or 1h.")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def colours(flag: str, text: str) -> Colours:
    """Three numbers, or one for all three."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise UsageError(f"{flag} {text} is not one number or three.", fix="give R,G,B.")
    return values[0], values[1], values[2]


def sides(flag: str, text: str) -> Size:
    """Pixels a side, or height and width."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    if not found:
        raise UsageError(f"{flag} {text} is not a size.", fix="give 224, or 192x320: height first.")
    height, width = int(found[1]), int(found[2] or found[1])
    return height if height == width else (height, width)


def one_framing(fit: str | None, *, cropped: bool) -> None:
    """UsageError where a share to crop is asked of a fit that shows all of a photo."""
    if cropped and fit not in (None, "crop"):
        raise UsageError(
            f"--crop-pct crops, and --fit {fit} shows all of a photo.",
            fix="leave one of them away.",
        )
