"""Worker processes: they load, run in turns, and fail in ways that are noticed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.bundle import open_bundle
from edgetl.errors import EngineError
from edgetl.runtime.bench import process
from edgetl.runtime.bench.process import Worker
from edgetl.runtime.bench.worker import MeasureRequest

TURN_NS = 10_000_000


@pytest.fixture
def start(tiny_bundle: Path) -> Callable[..., Worker]:
    def make(*, load_s: float = 60.0, turn_s: float = 30.0, **changes: Any) -> Worker:
        with open_bundle(tiny_bundle) as opened:
            candidate = next(c for c in opened.manifest.candidates if c.name == "ort-fp32")
            job = {"bundle": str(tiny_bundle), "sha256": opened.sha256, "candidate": "ort-fp32"}
        job_ = MeasureRequest(**job | {"threads": 1, "batch": 1} | changes)
        return Worker(candidate, job_, load_s=load_s, turn_s=turn_s)

    return make


def test_a_worker_says_what_it_runs_and_whether_it_computes_right(
    start: Callable[..., Worker],
) -> None:
    with start() as worker:
        assert worker.ready.description is not None
        assert worker.ready.description.engine == "onnxruntime"
        assert worker.ready.check is not None
        assert worker.ready.check.passed
        assert worker.take_turn(TURN_NS).samples_ns
    with start(batch=2) as worker:
        assert worker.ready.check is None


def test_a_worker_that_dies_is_an_error(start: Callable[..., Worker]) -> None:
    with start() as worker:
        worker.take_turn(TURN_NS)
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="measured ort-fp32 died: SIGKILL") as error:
            worker.take_turn(TURN_NS)
        assert error.value.fix


def test_a_worker_that_fails_says_why(start: Callable[..., Worker], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not exist"):
        start(bundle=str(tmp_path / "no.edgetl"))
    with pytest.raises(EngineError, match=r"died: exit code 1, StopIteration"):
        start(candidate="other")
    with pytest.raises(EngineError, match=r"tiny.edgetl was replaced meanwhile"):
        start(sha256="0" * 64)


def test_a_worker_that_hangs_in_its_turn_is_given_up(start: Callable[..., Worker]) -> None:
    with start(turn_s=0.5) as worker:
        worker.take_turn(TURN_NS)
        process = worker._process
        asleep = {signal.SIGCONT: signal.SIGSTOP}  # it is not woken for its turn
        process.send_signal = lambda sig: os.kill(process.pid, asleep.get(sig, sig))  # type: ignore[method-assign]
        begin = time.monotonic()
        with pytest.raises(EngineError, match="measured ort-fp32 gave no answer for") as error:
            worker.take_turn(TURN_NS)
        assert 0.5 <= time.monotonic() - begin < 10
        assert error.value.fix
    assert worker._process.poll() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("program", "told"),
    [("sleep 60", "gave no answer for 1 s"), ("echo hello; exec sleep 60", "does not keep to")],
)
def test_a_process_that_never_gets_ready_is_given_up(
    start: Callable[..., Worker],
    program: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the place of Python, a program that hangs, or that says something else first."""
    if os.name != "posix":
        pytest.skip("no shell here")
    hanging = tmp_path / "python"
    hanging.write_text(f"#!/bin/sh\n{program}\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hanging))
    monkeypatch.setattr(process, "GONE_S", 0.5)
    begin = time.monotonic()
    with pytest.raises(EngineError, match=told) as error:
        start(load_s=1.0)
    assert time.monotonic() - begin < 10
    assert error.value.fix


def test_peak_memory_is_the_workers_own(start: Callable[..., Worker]) -> None:
    """Linux hands a parent's peak down to the processes that it starts."""
    ballast = np.ones(60_000_000)  # 458 MiB
    with start() as worker:
        peak_rss_mib = worker.take_turn(TURN_NS).peak_rss_mib
        assert 20 < peak_rss_mib < ballast.nbytes / 2**20 * 0.75


def test_modules_of_the_working_folder_are_not_imported(
    start: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    with start() as worker:
        assert worker.take_turn(TURN_NS).samples_ns
