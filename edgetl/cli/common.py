"""What every verb shares: options, output, and errors as one line and an exit code."""

from __future__ import annotations

import codecs
import contextlib
import functools
import inspect
import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any, get_type_hints

import typer

from edgetl.cli.interrupts import INTERRUPTED, noted_interrupts
from edgetl.cli.options import chosen, parameters
from edgetl.errors import EdgetlError
from edgetl.files import encode_json, storage_error
from edgetl.progress import Interrupt

Shown = str | Callable[[], Any]  # a line, or what draws a table
Answer = tuple[Any, Iterable[Shown]]  # the document of --json, and what is shown without it
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
WIDEST = 10_000  # columns of a table in a file or a pipe: no line is broken there


class State:
    """Options that errors need as well, set as they are parsed."""

    json = False
    debug = False


def _noted(parameter: typer.CallbackParam, value: bool) -> bool:
    setattr(State, str(parameter.name), value)
    return value


Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON document on stdout.", callback=_noted, is_eager=True
    ),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show tracebacks of errors.", callback=_noted, is_eager=True),
]


def verb(run: Callable[..., Answer | None]) -> Callable[..., None]:
    """Turn errors of a verb into one line on stderr (and JSON) and exit 1; Ctrl-C is 130.

    What it returns is printed, unless it has printed all by itself. Its parameter `options`, a
    struct of edgetl.options, becomes an option for each field.
    """
    hints = get_type_hints(run, include_extras=True)
    kind = hints.get("options")

    @functools.wraps(run)
    def wrapped(**given: Any) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not fit its encoding
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            with noted_interrupts():
                if kind is not None:
                    given["options"] = chosen(kind, given)
                if answer := run(**given):
                    _print(*answer)
                return
        except KeyboardInterrupt:
            Interrupt.noted = False
            message("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader, such as `head`, has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except EdgetlError as error:
            report(error)
        except OSError as error:
            report(storage_error(error), error)
            try:
                sys.stdout.flush()
            except OSError:  # Python would try it again at its end, and fail by another code
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1)

    typed = []
    for name, given in inspect.signature(run).parameters.items():
        if name == "options":
            typed += parameters(hints[name])
        else:
            typed.append(given.replace(annotation=hints[name], kind=given.KEYWORD_ONLY))
    wrapped.__signature__ = inspect.Signature(typed)  # type: ignore[attr-defined]
    return wrapped


def report(error: EdgetlError, cause: Exception | None = None) -> None:
    """Tell an error in one line on stderr, and with --json as the document on stdout too."""
    if State.debug:
        import traceback

        traceback.print_exception(cause or error, file=sys.stderr)
    if State.json:
        kind = type(error).__name__
        with contextlib.suppress(OSError):  # stdout itself may be what failed
            emit({"error": {"type": kind, "message": error.message, "fix": error.fix}})
    message(f"error: {error}")


# --- what is printed ---------------------------------------------------------------------------


def plain(text: str) -> str:
    """`text` as it is, on one line: what would move a terminal's cursor is shown escaped."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


class _Lines(logging.Formatter):
    """A line of its own for every message of edgetl, whatever file names hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        text = super().formatMessage(record)
        return plain(text) if record.name == "edgetl" else text


def log_to_stderr() -> None:
    """Show warnings as lines of the command."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("edgetl: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def message(text: str) -> None:
    """One line to stderr; after Ctrl-C it ends the verb instead."""
    if Interrupt.noted:
        raise KeyboardInterrupt
    sys.stderr.write(f"edgetl: {plain(text)}\n")
    sys.stderr.flush()


def _print(document: Any, shown: Iterable[Shown]) -> None:
    if State.json:
        emit(document)
    else:
        for item in shown:
            show(item)


def emit(value: Any) -> None:
    """One JSON document to stdout, in UTF-8 whatever stdout's encoding: else in ASCII."""
    text = encode_json(value).decode()
    if not text.isascii() and codecs.lookup(sys.stdout.encoding).name != "utf-8":
        text = json.dumps(json.loads(text))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def show(item: Shown) -> None:
    """A line of text, or a table, to stdout; its letters as they are, none of them markup.

    A table is as wide as the terminal, and as wide as it needs to be where stdout is none.
    """
    if isinstance(item, str):
        text = plain(item) + "\n"
    else:
        from rich.console import Console

        width = None if sys.stdout.isatty() else WIDEST
        console = Console(width=width, highlight=False, markup=False, emoji=False)
        with console.capture() as captured:  # rich would end the program on a broken pipe
            console.print(item())
        text = captured.get()
    sys.stdout.write(text)
    sys.stdout.flush()


def table(title: str, columns: list[str], rows: list[list[str]]) -> Shown:
    """A table; columns whose names end in "#" hold numbers."""
    return functools.partial(_drawn, title, columns, rows)


def _drawn(title: str, columns: list[str], rows: list[list[str]]) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    made = Table(header_style="bold")
    for column in columns:
        made.add_column(
            Text(plain(column.removesuffix("#"))),
            justify="right" if column.endswith("#") else "left",
            no_wrap=column.endswith("#"),
        )
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    return Group(Text(plain(title), style="italic"), made) if title else made


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table cell; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
