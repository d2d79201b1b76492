"""Ctrl-C: noted as it comes, so that it ends the command even where a library swallows it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

from edgetl.progress import Interrupt

INTERRUPTED = 130


@contextlib.contextmanager
def noted_interrupts() -> Iterator[None]:
    """Note Ctrl-C, and raise KeyboardInterrupt where a library made another exception of it.

    A native module, for one, makes an ImportError of what interrupts its import. Where SIGINT is
    ignored from the start (`nohup edgetl … &`), it stays ignored, as Unix has it.
    """

    def note(*_: object) -> None:
        Interrupt.noted = True
        raise KeyboardInterrupt

    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ours = default and threading.current_thread() is threading.main_thread()
    if ours:
        Interrupt.noted = False
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


@contextlib.contextmanager
def ended_by_interrupts() -> Iterator[None]:
    """Make one line and exit code 130 of Ctrl-C."""
    try:
        with noted_interrupts():
            yield
    except KeyboardInterrupt:
        Interrupt.noted = False
        sys.stderr.write("edgetl: interrupted\n")
        sys.exit(INTERRUPTED)
