"""Ctrl-C ends a verb with 130, also where a library swallows or renames the exception."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from edgetl.cli.common import message, verb
from edgetl.errors import EngineError

pytestmark = pytest.mark.usefixtures("interruptible")


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def plain() -> None:
    press()


def swallowed_before_a_step() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        press()
    message("the next step")
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
    assert before is signal.default_int_handler
    with pytest.raises(typer.Exit) as got:
        verb(run)()
    assert got.value.exit_code == 130
    assert capsys.readouterr().err == "edgetl: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is before
    message("the next verb")  # is not ended by what the last one was


def test_errors_without_it_stay_what_they_are() -> None:
    def wrong() -> None:
        raise ImportError("initialization failed")

    with pytest.raises(ImportError, match="initialization failed"):
        verb(wrong)()


def started(*arguments: str | Path, at: str, **options: object) -> subprocess.Popen[str]:
    """The command line in a process of its own, as soon as it has imported the module `at`."""
    watch = (
        "import sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {at!r}: print('now', file=sys.stderr, flush=True)\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from edgetl.cli import main\n"
        "main()\n"
    )
    process = subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, "-c", watch, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stderr.readline() == "now\n"
    assert isinstance(process, subprocess.Popen)
    return process


@pytest.mark.parametrize("at", ["edgetl.cli.app", "numpy", "edgetl.cli.predict"])
def test_it_is_130_while_the_command_still_starts(at: str) -> None:
    process = started("devices", at=at)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said) == (130, "", "edgetl: interrupted\n")


def test_it_stays_ignored_where_it_was_ignored_from_the_start(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """As after `nohup`, or in a script's background: workers are not ended either."""
    command = ["bench", str(tiny_bundle), "--precision", "fp32", "--duration", "0.5", "--json"]
    shown = tmp_path / "shown.json"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child inherits it
    with (
        shown.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "edgetl", *command], stdout=out, start_new_session=True
        ) as process,
    ):
        signal.signal(signal.SIGINT, before)
        while process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.1)
    assert process.returncode == 0
    assert json.loads(shown.read_bytes())["rows"]
