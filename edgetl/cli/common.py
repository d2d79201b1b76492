"""What every verb shares: options, output, and errors as one line and an exit code."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NoReturn, ParamSpec, TypeVar

import typer

from edgetl.errors import EdgetlError
from edgetl.files import encode_json, storage_error
from edgetl.progress import Interrupt

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED = 130


class State:
    """Options that errors need as well, set as they are parsed."""

    json = False
    debug = False


def _set_json(value: bool) -> bool:
    State.json = value
    return value


def _set_debug(value: bool) -> bool:
    State.debug = value
    return value


Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON document on stdout.", callback=_set_json, is_eager=True
    ),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show tracebacks of errors.", callback=_set_debug, is_eager=True),
]
EngineChoice = Literal["auto", "onnxruntime", "openvino", "tensorrt"]
PrecisionChoice = Literal["auto", "fp32", "fp16", "bf16", "int8"]


def verb(run: Callable[P, R]) -> Callable[P, R]:
    """Turn errors of a verb into one line on stderr (and JSON) and exit 1; Ctrl-C is 130."""

    @functools.wraps(run)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        logging.basicConfig(level=logging.WARNING, format="edgetl: %(message)s", stream=sys.stderr)
        if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not fit its encoding
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            with _noted_interrupts():
                return run(*args, **kwargs)
        except KeyboardInterrupt:
            Interrupt.noted = False
            say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader, such as `head`, has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except EdgetlError as error:
            fail(error)
        except OSError as error:
            fail(storage_error(error), error)

    return wrapped


@contextlib.contextmanager
def _noted_interrupts() -> Iterator[None]:
    """Note Ctrl-C, so that it ends the verb even where a library swallows the exception.

    A native module, for one, makes an ImportError of what interrupts its import.
    """

    def note(*_: object) -> None:
        Interrupt.noted = True
        raise KeyboardInterrupt

    Interrupt.noted = False
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ours = default and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception:
        if Interrupt.noted:
            raise KeyboardInterrupt from None
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def fail(error: EdgetlError, cause: Exception | None = None) -> NoReturn:
    """Say an error and leave with exit code 1."""
    if State.debug:
        import traceback

        traceback.print_exception(cause or error, file=sys.stderr)
    if State.json:
        kind = type(error).__name__
        with contextlib.suppress(OSError):  # stdout itself may be what failed
            emit({"error": {"type": kind, "message": error.message, "fix": error.fix}})
    fix = f" Fix: {error.fix}" if error.fix else ""
    say(f"error: {error.message}{fix}")
    raise typer.Exit(1)


def say(text: str) -> None:
    """One line to stderr; after Ctrl-C it ends the verb instead."""
    if Interrupt.noted:
        raise KeyboardInterrupt
    sys.stderr.write(f"edgetl: {text}\n")
    sys.stderr.flush()


def emit(value: Any) -> None:
    """One JSON document to stdout."""
    sys.stdout.write(encode_json(value).decode() + "\n")
    sys.stdout.flush()


def show(renderable: Any) -> None:
    """A rich table or text to stdout; as wide as it needs to be where stdout is no terminal."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    with console.capture() as captured:  # rich would end the program by itself on a broken pipe
        console.print(renderable)
    sys.stdout.write(captured.get())
    sys.stdout.flush()


def table(title: str, columns: list[str], rows: list[list[str]]) -> Any:
    """A rich table; columns whose names end in "#" hold numbers."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(
            column.rstrip("#"),
            justify="right" if column.endswith("#") else "left",
            no_wrap=column.endswith("#"),
        )
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table cell; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
