"""The command line: each verb parses, calls and prints."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of `edgetl`."""
    _open_streams()
    from edgetl.cli.interrupts import ended_by_interrupts

    with ended_by_interrupts():  # from here on: what the verbs import takes a while
        from edgetl.cli.app import app

        app(prog_name="edgetl")


def _open_streams() -> None:
    """Open those of stdin, stdout and stderr that the caller closed (`>&-`), on nothing.

    Otherwise the next files that are opened would take their numbers, and with them whatever a
    native library prints.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w"))
