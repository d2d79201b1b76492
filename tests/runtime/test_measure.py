"""Measuring: rows, what is remembered, and workers that fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgetl
from edgetl.bundle import open_bundle
from edgetl.errors import BundleError, EngineError, EngineMissingError, UsageError
from edgetl.machine import available_cores, this_machine
from edgetl.runtime.local import local_p50_ms
from edgetl.runtime.measure import TURNS, Worker, measure
from edgetl.runtime.worker import Job


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))


def sha256(bundle: Path) -> str:
    with open_bundle(bundle) as opened:
        return opened.sha256


def test_rows_say_what_ran(tiny_bundle: Path) -> None:
    said: list[str] = []
    done = edgetl.bench(tiny_bundle, duration=0.2, progress=said.append)
    with open_bundle(tiny_bundle) as opened:
        candidates = {c.recipe: c for c in opened.manifest.candidates}
        bundle = opened.sha256
    assert done.skipped == ()
    assert {row.recipe for row in done.rows} == set(candidates)
    assert [row.p50_ms for row in done.rows] == sorted(row.p50_ms for row in done.rows)
    for row in done.rows:
        candidate = candidates[row.recipe]
        assert (row.engine, row.precision) == (candidate.engine, candidate.precision)
        assert row.engine_version[0].isdigit()
        assert (row.batch, row.threads) == (1, available_cores())
        assert len(row.samples_ns) >= TURNS
        assert all(ns > 0 for ns in row.samples_ns)
        p50, p90, p99 = np.percentile(row.samples_ns, [50, 90, 99]) / 1e6
        assert [row.p50_ms, row.p90_ms, row.p99_ms] == pytest.approx([p50, p90, p99], abs=1e-4)
        each = len(row.samples_ns) / (sum(row.samples_ns) / 1e9)
        assert row.throughput == pytest.approx(each, abs=0.01)
        assert 20 < row.peak_rss_mib < 2000
        assert row.load_ms > 0
        assert row.machine == this_machine().fingerprint
        assert row.bundle_sha256 == bundle
        assert row.utc.endswith("+00:00")
    assert any("turn 1 of" in line for line in said)
    assert local_p50_ms(bundle) == {row.recipe: row.p50_ms for row in done.rows}
    with edgetl.load(tiny_bundle) as opened_model:
        assert opened_model.candidate.recipe == done.rows[0].recipe


@pytest.mark.parametrize(
    "options",
    [{"batch": 2}, {"threads": 1 if available_cores() > 1 else 2}, {"precision": "fp32"}],
    ids=["batch", "threads", "partial"],
)
def test_only_whole_comparable_benches_decide(tiny_bundle: Path, options: Any) -> None:
    done = edgetl.bench(tiny_bundle, engine="onnxruntime", duration=0.05, **options)
    for row in done.rows:
        assert row.engine == "onnxruntime"
        assert row.batch == options.get("batch", 1)
        assert row.threads == options.get("threads", available_cores())
        assert row.precision == options.get("precision", row.precision)
        each = row.batch * len(row.samples_ns) / (sum(row.samples_ns) / 1e9)
        assert row.throughput == pytest.approx(each, abs=0.01)
    assert local_p50_ms(sha256(tiny_bundle)) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "--batch 0 is not possible"),
        ({"batch": 1025}, "--batch 1025 is not possible"),
        ({"threads": -1}, "--threads -1 is not possible"),
        ({"threads": 4 * available_cores() + 1}, r"--threads \d+ is not possible"),
        ({"duration": 0.0}, "--duration 0.0 is not possible"),
        ({"duration": float("nan")}, "--duration nan is not possible"),
        ({"duration": 1e9}, "--duration 1000000000.0 is not possible"),
    ],
)
def test_impossible_options_are_refused(tiny_bundle: Path, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        edgetl.bench(tiny_bundle, **options)
    assert error.value.fix


def test_what_cannot_run_is_listed_with_its_reason(jetson_bundle: Path) -> None:
    from edgetl.engines import tensorrt

    if tensorrt.missing() is None:
        pytest.skip("TensorRT runs here")
    done = edgetl.bench(jetson_bundle, duration=0.05)
    assert [row.recipe for row in done.rows] == ["ort-fp32"]
    assert [item.recipe for item in done.skipped] == ["trt-fp16-weak", "trt-fp16-strong"]
    assert all(item.reason and item.fix for item in done.skipped)
    with pytest.raises(EngineMissingError, match=r"No candidate of .* trt-fp16-weak: ") as error:
        edgetl.bench(jetson_bundle, engine="tensorrt", duration=0.05)
    assert error.value.fix == done.skipped[0].fix


def test_a_candidate_for_another_processor_is_not_measured(
    write_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    other = "aarch64" if this_machine().arch == "x86_64" else "x86_64"
    recipes = ("ort-fp32", "ort-int8")
    path = write_tiny(tmp_path / "b.edgetl", recipes, {"ort-int8": {"arch": (other,)}})
    done = edgetl.bench(path, duration=0.05)
    assert [row.recipe for row in done.rows] == ["ort-fp32"]
    assert [item.recipe for item in done.skipped] == ["ort-int8"]
    assert f"meant for {other}" in done.skipped[0].reason
    assert done.skipped[0].fix == "run it there"


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        edgetl.bench(tmp_path / "no.edgetl")


# --- workers --------------------------------------------------------------------------------------


@pytest.fixture
def start(tiny_bundle: Path) -> Callable[..., Worker]:
    def make(**changes: Any) -> Worker:
        with open_bundle(tiny_bundle) as opened:
            candidate = next(c for c in opened.manifest.candidates if c.recipe == "ort-fp32")
        job = {"bundle": str(tiny_bundle), "recipe": "ort-fp32", "threads": 1, "batch": 1}
        return Worker(candidate, Job(**job | changes))

    return make


def test_a_worker_that_dies_is_an_error(start: Callable[..., Worker]) -> None:
    with start() as worker:
        worker.take_turn(10_000_000)
        os.kill(worker._process.pid, 9)
        with pytest.raises(EngineError, match="measured ort-fp32 died: SIGKILL") as error:
            worker.take_turn(10_000_000)
        assert error.value.fix


def test_a_worker_that_fails_says_why(start: Callable[..., Worker], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not exist"):
        start(bundle=str(tmp_path / "no.edgetl"))
    with pytest.raises(EngineError, match=r"died: exit code 1, StopIteration"):
        start(recipe="other")


def test_one_candidate_that_fails_does_not_stop_the_others(
    write_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    """A candidate whose session options contradict its precision."""
    broken = {"ov-fp32": {"session": {"INFERENCE_PRECISION_HINT": "bf16"}}}
    path = write_tiny(tmp_path / "b.edgetl", ("ort-fp32", "ov-fp32"), broken)
    with open_bundle(path) as opened:
        rows, skipped = measure(
            opened, list(opened.manifest.candidates), threads=0, batch=1, duration=0.05
        )
    assert [row.recipe for row in rows] == ["ort-fp32"]
    assert "ov-fp32" in skipped[0].recipe
    assert "HINT is bf16" in skipped[0].reason or "BF16" in skipped[0].reason


def test_peak_memory_is_the_workers_own(start: Callable[..., Worker]) -> None:
    """Linux hands a parent's peak down to the processes that it starts."""
    ballast = np.ones(60_000_000)  # 458 MiB
    with start() as worker:
        worker.take_turn(10_000_000)
        assert 20 < worker.peak_rss_mib < ballast.nbytes / 2**20 * 0.75


def test_modules_of_the_working_folder_are_not_imported(
    start: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    with start() as worker:
        worker.take_turn(10_000_000)
        assert worker.samples
