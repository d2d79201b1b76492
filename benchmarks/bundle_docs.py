"""Tables of docs/bundle.md: what the manifest of a bundle holds, from the structs themselves.

A field's meaning is the comment beside it in the source, or the comment lines above it; of an
option, its help. A field without one is an error, so that the document can miss no field.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import tokenize
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from benchmarks.common import table
from edgetl.bundle.manifest import Manifest
from edgetl.engines import ENGINES, find_engine
from edgetl.inputs.base import INPUTS, Input
from edgetl.options.base import Option
from edgetl.spec import Measurement
from edgetl.tasks.base import TASKS, Result, Task
from edgetl.tasks.multilabel import LabelPrediction
from edgetl.tasks.scores import Prediction

SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
PLURALS = {str: "strings", int: "integers", float: "numbers"}
# What Python says by Any, or by a base class, is said here.
BY_HAND = {
    ("Candidate", "settings"): "object: settings of the task, or null",
    ("Result", "predictions"): "list of predictions of the task",
}
OPEN = {Task: "[task](#tasks)", Input: "[input](#imageinput)"}


def structs() -> dict[str, type[msgspec.Struct]]:
    """All that a bundle stores, by name: the manifest, and what it reaches through its fields."""
    found: dict[str, type[msgspec.Struct]] = {}
    own = [registry.find(name) for registry in (INPUTS, TASKS) for name in sorted(registry.own)]
    settings = [kind.Settings for kind in own if issubclass(kind, Task)]
    waiting: list[Any] = [Manifest, *own, *settings, Measurement, Result]
    waiting += [Prediction, LabelPrediction]  # what the tasks answer
    while waiting:
        kind = waiting.pop(0)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if kind.__name__ not in found:
                found[kind.__name__] = kind
                waiting += hints(kind).values()
        else:
            waiting += get_args(kind)
    return found


def hints(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Types of a struct's fields."""
    known = get_type_hints(kind, include_extras=True)
    return {field.name: known[field.name] for field in msgspec.structs.fields(kind)}


def fields_of(kind: type[msgspec.Struct]) -> str:
    """The table of one struct."""
    meanings = comments(kind)
    rows = []
    if tag := kind.__struct_config__.tag:
        rows.append(["**`type`**", "string", f'`"{tag}"`'])
    known = hints(kind)
    for field in msgspec.structs.fields(kind):
        stated = known[field.name]
        meaning = meanings.get(field.name) or help_of(stated)
        if not meaning:
            raise SystemExit(f"{kind.__name__}.{field.name} has no comment that says what it is")
        words = BY_HAND.get((kind.__name__, field.name)) or type_in_words(stated)
        name = f"`{field.encode_name}`"
        if field.required:
            rows.append([f"**{name}**", words, meaning])
        else:
            rows.append([name, f"{words} (`{default_of(field)}`)", meaning])
    return table(["Field", "Type (default)", "Meaning"], rows)


def default_of(field: msgspec.structs.FieldInfo) -> str:
    """What stands for a field that is absent, as JSON."""
    factory = field.default_factory
    value = field.default if factory is msgspec.NODEFAULT else factory()
    return msgspec.json.encode(value).decode()


def type_in_words(kind: Any) -> str:
    """A type as somebody who reads JSON says it."""
    inner = get_args(kind)
    if inner:
        return _made_of(get_origin(kind), inner)
    if kind in OPEN:
        return OPEN[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    return SCALARS[kind]


def _made_of(origin: Any, inner: tuple[Any, ...]) -> str:
    if origin is Annotated:
        return type_in_words(inner[0])
    if origin is Literal:
        return ", ".join(f'`"{value}"`' for value in inner)
    if origin is dict:
        return f"object of {plural(inner[1])}"
    if origin is tuple:
        fixed = inner[-1] is not Ellipsis
        return (
            f"list of {len(inner)} {PLURALS[inner[0]]}" if fixed else f"list of {plural(inner[0])}"
        )
    return " or ".join(type_in_words(each) for each in inner)  # a union


def plural(kind: Any) -> str:
    """What a list or an object holds."""
    if get_origin(kind) in (tuple, dict):
        return type_in_words(kind).replace("list", "lists", 1).replace("object", "objects", 1)
    if get_origin(kind) is Annotated:
        return plural(get_args(kind)[0])
    return PLURALS.get(kind) or type_in_words(kind)


def help_of(kind: Any) -> str:
    """The help of an option."""
    found = [part for part in get_args(kind) if isinstance(part, Option)]
    if not found:
        return ""
    switched_off = any(flag.startswith("--no-") for flag in found[0].flags)
    return ("where false: " if switched_off else "") + found[0].help.rstrip(".")


def comments(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The comment of each field, its base classes' too."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("edgetl"):
            found |= _own_comments(base)
    return found


def _own_comments(kind: type) -> dict[str, str]:
    source = inspect.getsource(kind)
    (written,) = ast.parse(source).body
    assert isinstance(written, ast.ClassDef)
    marks = dict(_marks(source))
    found = {}
    for node in written.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        beside = [marks[n][0] for n in range(node.lineno, (node.end_lineno or 0) + 1) if n in marks]
        above: list[str] = []
        line = node.lineno - 1
        while line in marks and marks[line][1]:
            above.insert(0, marks[line][0])
            line -= 1
        text = " ".join(beside or above)
        found[node.target.id] = re.sub(r'("[^"]*")', r"`\1`", text).replace("|", "\\|")
    return found


def _marks(source: str) -> Iterator[tuple[int, tuple[str, bool]]]:
    """Comments by line, and whether each has the line for itself; those for tools are none."""
    for token in tokenize.generate_tokens(StringIO(source).readline):
        text = token.string.lstrip("# ")
        if token.type == tokenize.COMMENT and not text.startswith(("type:", "noqa", "fmt:")):
            yield token.start[0], (text, not token.line[: token.start[1]].strip())


def session_options() -> str:
    """What a candidate may set, by engine."""
    rows = [
        [f"`{engine}`", f"`{option}`", f"`{setting.values}`".replace("|", "\\|")]
        for engine in sorted(ENGINES.own)
        for option, setting in sorted(find_engine(engine).SETTABLE.items())
    ]
    return table(["Engine", "Option", "Values, as a regular expression"], rows)


GENERATED: dict[str, Callable[[], str]] = {
    f"fields-{name}": functools.partial(fields_of, kind) for name, kind in structs().items()
} | {"session-options": session_options}
