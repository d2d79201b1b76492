"""Turns: as many workers as memory allows, and those that hang or die do not stop the others."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgetl.bundle import Bundle, open_bundle
from edgetl.runtime.bench.process import Limits
from edgetl.runtime.bench.turns import ROUNDS, TURNS, Run, Turns

CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children")


@pytest.fixture
def opened(tiny_bundle: Path) -> Iterator[Bundle]:
    with open_bundle(tiny_bundle) as bundle:
        yield bundle


def take(bundle: Bundle, say: Any = lambda _: None, **options: Any) -> list[Run]:
    wanted = [c for c in bundle.manifest.candidates if c.engine == "onnxruntime"]
    wanted += [c for c in bundle.manifest.candidates if c.name == "ov-fp32"]
    given: dict[str, Any] = {"threads": 1, "batch": 1, "duration": 0.08, "progress": say}
    return Turns(bundle, **given | options).take(wanted)


def workers() -> list[int]:
    if not CHILDREN.exists():
        pytest.skip("only Linux lists the children of a process")
    pids = [int(pid) for pid in CHILDREN.read_text().split()]
    return [p for p in pids if b"edgetl.runtime.bench.worker" in _command(p)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(("memory_mib", "together"), [(1.0, 1), (1e6, 3)])
def test_only_as_many_workers_are_open_as_fit(
    opened: Bundle, memory_mib: float, together: int
) -> None:
    most, said = 0, []

    def say(text: str) -> None:
        nonlocal most
        said.append(text.split(maxsplit=1)[0])
        most = max(most, len(workers()))

    runs = take(opened, say, memory_mib=memory_mib)
    assert most == together
    assert said.count("loading") == len(runs) * (1 if together > 1 else ROUNDS)
    for run in runs:
        assert run.error is None
        assert len(run.samples_ns) >= TURNS
        assert 20 < run.peak_rss_mib < 2000
    assert not workers()


def test_two_fit_where_there_is_memory_for_two(opened: Bundle) -> None:
    smallest = min(run.peak_rss_mib for run in take(opened, memory_mib=1.0))
    most = 0

    def say(_: str) -> None:
        nonlocal most
        most = max(most, len(workers()))

    assert all(len(run.samples_ns) >= TURNS for run in take(opened, say, memory_mib=2.5 * smallest))
    assert most == 2


@pytest.mark.parametrize("memory_mib", [1.0, 1e6])
def test_a_worker_that_hangs_does_not_stop_the_others(opened: Bundle, memory_mib: float) -> None:
    """The first one never gets past loading: it is stopped at once, again and again."""
    victims: list[int] = []
    over = threading.Event()

    def hold() -> None:
        while not over.wait(0.001):
            victims[:] = victims or workers()[:1]
            for pid in victims:
                try:
                    os.kill(pid, signal.SIGSTOP)
                except ProcessLookupError:
                    return

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        limits = Limits(load_s=1.0, turn_s=1.0)
        first, *others = take(opened, memory_mib=memory_mib, limits=limits)
    finally:
        over.set()
        thread.join()
    assert first.error is not None
    assert "gave no answer for 2 s and was stopped" in first.error.message
    assert all(run.error is None and len(run.samples_ns) >= TURNS for run in others)
    assert not workers()


def test_one_that_dies_between_rounds_is_told(opened: Bundle) -> None:
    def say(text: str) -> None:
        if text.startswith("turn 4"):
            for pid in workers():
                os.kill(pid, signal.SIGKILL)

    runs = take(opened, say, memory_mib=1.0)
    assert all(run.error is not None and "SIGKILL" in run.error.message for run in runs)
