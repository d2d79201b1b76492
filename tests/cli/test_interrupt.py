"""Ctrl-C ends a verb with 130, also where a library swallows or renames the exception."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

import pytest
import typer

from edgetl.cli.common import say, verb
from edgetl.errors import EngineError


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def plain() -> None:
    press()


def swallowed_before_a_step() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        press()
    say("the next step")
    raise AssertionError("it went on")


def renamed() -> None:
    try:
        press()
    except KeyboardInterrupt:
        raise ImportError("initialization failed") from None


def renamed_as_our_own() -> None:
    try:
        renamed()
    except ImportError as error:
        raise EngineError("It cannot be imported.") from error


@pytest.mark.parametrize("run", [plain, swallowed_before_a_step, renamed, renamed_as_our_own])
def test_it_is_130_and_one_line(
    run: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(typer.Exit) as got:
        verb(run)()
    assert got.value.exit_code == 130
    assert capsys.readouterr().err == "edgetl: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is before
    say("the next verb")  # is not ended by what the last one was


def test_errors_without_it_stay_what_they_are() -> None:
    def wrong() -> None:
        raise ImportError("initialization failed")

    with pytest.raises(ImportError, match="initialization failed"):
        verb(wrong)()
