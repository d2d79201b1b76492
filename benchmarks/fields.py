"""Tables of the fields of stored structs, for docs/bundle.md: name, JSON type, default, meaning.

The structs are found from `Manifest` and `Measurement` by their type hints, wherever they are
defined. The meaning of a field is the comment behind it in the source, or the help of an option.
"""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from edgetl.bundle.manifest import Manifest
from edgetl.inputs.base import INPUTS, Input
from edgetl.options import Option
from edgetl.registry import Registry
from edgetl.spec import Measurement
from edgetl.tasks.base import TASKS, Task

Struct = type[msgspec.Struct]
WORDS: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}
WORDS[Any] = "object or null"
# What a stored `type` chooses from, and where the choices are registered.
UNIONS: dict[Any, Registry[Any]] = {Task: TASKS, Input: INPUTS}


def manifest_fields() -> str:
    """The manifest, then every struct in it under a heading."""
    return _tables(Manifest)


def measurement_fields() -> str:
    """A row of measurements.jsonl."""
    return _tables(Measurement)


def _tables(root: Struct) -> str:
    found: list[Struct] = [root]
    for struct in found:  # grows: breadth first
        found += [each for each in _parts(struct) if each not in found]
    tables = [f"### {kind.__name__}\n\n{_table(kind)}" for kind in dict.fromkeys(found[1:])]
    return "\n".join([_table(root), *tables])


def _parts(struct: Struct) -> Iterator[Struct]:
    """Structs that a struct's fields hold."""
    for field in msgspec.structs.fields(struct):
        yield from _structs(field.type)


def _structs(hint: Any) -> Iterator[Struct]:
    if hint in UNIONS:
        for kind in _choices(hint):
            yield kind
            settings = getattr(kind, "Settings", None)
            if settings is not None:
                yield settings
    elif isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    else:
        for part in get_args(hint):
            yield from _structs(part)


def _choices(base: Any) -> list[Struct]:
    """edgetl's own kinds of a task or an input."""
    return [UNIONS[base].find(name) for name in UNIONS[base].own]


def _table(struct: Struct) -> str:
    lines = [
        (inspect.getdoc(struct) or "").partition("\n\n")[0].replace("\n", " ") + "\n",
        "| Field | Type | Default | Meaning |",
        "|---|---|---|---|",
    ]
    config, meanings = struct.__struct_config__, _meanings(struct)
    if config.tag is not None:
        lines.append(f'| **`{config.tag_field}`** | `"{config.tag}"` | required | its kind |')
    for field in msgspec.structs.fields(struct):
        name, default = field.encode_name, _default(field)
        shown = f"`{name}`" if default else f"**`{name}`**"
        if not meanings.get(field.name):
            raise ValueError(f"{struct.__module__}: {struct.__name__}.{field.name} has no comment")
        cells = (shown, _type(field.type), default or "required", meanings[field.name])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    """A field's default as JSON, or "" where it is required."""
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return ""
    return f"`{msgspec.json.encode(value).decode()}`"


def _type(hint: Any, *, many: bool = False) -> str:
    """A type in the words of JSON, in the plural if there are many."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    base, args, s = get_origin(hint), get_args(hint), "s" * many
    if base in (Union, types.UnionType):
        return " or ".join(map(_type, args))
    if base is Literal:
        return ", ".join(f'`"{choice}"`' for choice in args)
    if base is tuple:
        count = "" if args[-1] is Ellipsis else f"{len(args)} "
        return f"list{s} of {count}{_type(args[0], many=True)}"
    if base is dict:
        return f"object{s} of {_type(args[1], many=True)}"
    if hint in UNIONS:
        return " or ".join(map(_link, _choices(hint)))
    return WORDS[hint] + s if hint in WORDS else _link(hint)


def _link(struct: Struct) -> str:
    return f"[{struct.__name__}](#{struct.__name__.lower()})"


def _meanings(struct: Struct) -> dict[str, str]:
    """What is said of each field, by its name."""
    found: dict[str, str] = {}
    for kind in reversed(struct.__mro__):
        if issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct:
            for field in msgspec.structs.fields(kind):
                for note in get_args(field.type)[1:]:
                    if isinstance(note, Option):
                        found[field.name] = _help(note)
            found |= _comments(kind)
    return found


def _help(option: Option) -> str:
    """What an option says of itself, as a comment would."""
    text = option.help.rstrip(".")
    text = text[0].lower() + text[1:] if text[1].islower() else text
    return f"false: {text}" if any(flag.startswith("--no-") for flag in option.flags) else text


def _comments(kind: type[Any]) -> dict[str, str]:
    """The comment that ends each field's definition."""
    source = textwrap.dedent(inspect.getsource(kind))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {
        token.start[0]: token.string.lstrip("# ").replace("None", "null")
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    (made,) = ast.parse(source).body
    assert isinstance(made, ast.ClassDef)
    return {
        node.target.id: by_line[node.end_lineno]
        for node in made.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.end_lineno in by_line
    }
