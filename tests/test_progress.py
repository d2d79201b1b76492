"""Progress where stderr is no terminal: a line a minute, here a shorter one; else silence."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator

import pytest

from edgetl import progress
from edgetl.progress import progress_bar, status_line

PERIOD_S = 0.2


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(progress, "PERIOD_S", PERIOD_S)
    monkeypatch.setattr(progress._Lines, "due", None)
    yield
    assert not [t for t in threading.enumerate() if t.name == "edgetl-progress"]


def test_a_long_step_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    with progress_bar("reading photos", 80, show=True) as advance:
        advance(20)
        time.sleep(2.5 * PERIOD_S)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= (time.monotonic() - start) / PERIOD_S
    for line in lines:
        assert re.fullmatch(
            r"edgetl: reading photos: 20 of 80 photos, [\d.]+ photos/s, about \d+ s left", line
        )


def test_many_short_steps_share_one_clock(capsys: pytest.CaptureFixture[str]) -> None:
    start, epoch = time.monotonic(), 0
    while not (said := capsys.readouterr().err) and epoch < 100:
        with progress_bar(f"epoch {epoch}", 10, show=True) as advance:
            advance(1)
            time.sleep(0.3 * PERIOD_S)
        epoch += 1
    lines = said.splitlines()
    assert 1 <= len(lines) <= (time.monotonic() - start) / PERIOD_S
    assert lines[-1].startswith(f"edgetl: epoch {epoch - 1}: 1 of 10")


def test_a_status_without_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with status_line(show=True) as say:
        say("measuring one")
        say("measuring two")
        time.sleep(1.5 * PERIOD_S)
    assert capsys.readouterr().err.splitlines()[-1] == "edgetl: measuring two"


def test_quick_steps_and_unasked_ones_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("reading photos", 2, show=True) as advance:
        advance(2)
    with progress_bar("reading photos", 2, show=False) as advance, status_line(show=False) as say:
        advance(1)
        say("reading")
        time.sleep(1.5 * PERIOD_S)
    assert capsys.readouterr().err == ""


def test_an_error_ends_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), progress_bar("reading", 2, show=True):
        raise KeyboardInterrupt
    time.sleep(1.5 * PERIOD_S)
    assert capsys.readouterr().err == ""
