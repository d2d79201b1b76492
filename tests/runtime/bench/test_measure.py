"""Measuring: rows, what is remembered, and workers that fail."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgetl
from edgetl.bundle import open_bundle
from edgetl.errors import BundleError, EngineMissingError, UsageError
from edgetl.machine import available_cores, this_machine
from edgetl.runtime.bench.measure import measure
from edgetl.runtime.bench.turns import TURNS
from edgetl.runtime.local import known


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
        candidates = {c.name: c for c in opened.manifest.candidates}
        bundle = opened.sha256
    assert done.skipped == ()
    assert done.notes == ()
    assert {row.candidate for row in done.rows} == set(candidates)
    assert [row.p50_ms for row in done.rows] == sorted(row.p50_ms for row in done.rows)
    for row in done.rows:
        candidate = candidates[row.candidate]
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
    kept = known(bundle)
    assert {name: t.p50_ms for name, t in kept.timings.items()} == {
        row.candidate: row.p50_ms for row in done.rows
    }
    assert kept.verdicts.keys() == set(candidates)
    assert all(verdict.passed for verdict in kept.verdicts.values())
    with edgetl.load(tiny_bundle) as opened_model:
        assert opened_model.candidate.name == done.rows[0].recipe


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
    assert known(sha256(tiny_bundle)).timings == {}


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
    assert [row.candidate for row in done.rows] == ["ort-fp32"]
    assert [item.candidate for item in done.skipped] == ["trt-fp16-weak", "trt-fp16-strong"]
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
    assert [row.candidate for row in done.rows] == ["ort-fp32"]
    assert [item.candidate for item in done.skipped] == ["ort-int8"]
    assert f"meant for {other}" in done.skipped[0].reason
    assert done.skipped[0].fix == "run it there"


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        edgetl.bench(tmp_path / "no.edgetl")


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
    assert [row.candidate for row in rows] == ["ort-fp32"]
    assert "ov-fp32" in skipped[0].recipe
    assert "HINT is bf16" in skipped[0].reason or "BF16" in skipped[0].reason


# --- what is remembered -----------------------------------------------------------------------

ONE = ("ort-fp32", "ort-int8")


def test_a_shorter_measurement_does_not_replace_a_longer_one(
    write_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiny(tmp_path / "b.edgetl", ONE)
    first = edgetl.bench(path, duration=0.8)
    kept = known(sha256(path)).timings
    second = edgetl.bench(path, duration=0.05)
    assert first.notes == ()
    assert known(sha256(path)).timings == kept
    (note,) = second.notes
    assert re.search(r"earlier measurement still decides .* it took \S+ s .* one \S+ s;", note)


def test_what_the_export_measured_here_is_not_replaced_by_less(
    write_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    with open_bundle(write_tiny(tmp_path / "a.edgetl", ONE)) as opened:
        rows, _ = measure(
            opened, list(opened.manifest.candidates), threads=0, batch=1, duration=0.4
        )
    here = {r.recipe: {"p50_ms": r.p50_ms, "measured_on": r.machine} for r in rows}
    held = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    path = write_tiny(tmp_path / "b.edgetl", ONE, here, {"measurements.jsonl": held})
    done = edgetl.bench(path, duration=0.05)
    assert any("earlier measurement still decides" in note for note in done.notes)
    assert {name: t.p50_ms for name, t in known(sha256(path)).timings.items()} == {
        row.candidate: row.p50_ms for row in rows
    }


def test_rows_that_are_none_count_as_no_measurement(
    write_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiny(tmp_path / "b.edgetl", ("ort-fp32",), None, {"measurements.jsonl": b"{}\n"})
    assert edgetl.bench(path, duration=0.05).notes == ()
    assert known(sha256(path)).timings.keys() == {"ort-fp32"}


def test_a_cache_that_cannot_be_written_is_said(
    write_tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "file" / "cache"))
    done = edgetl.bench(write_tiny(tmp_path / "b.edgetl", ("ort-fp32",)), duration=0.05)
    assert [row.candidate for row in done.rows] == ["ort-fp32"]
    (note,) = done.notes
    assert "not remembered" in note
    assert f"Cannot write {tmp_path}/file/cache" in note


def test_a_candidate_that_fails_its_self_test_is_measured_and_said(
    write_tiny: Callable[..., Path], tiny_logits: Callable[[str], Any], tmp_path: Path
) -> None:
    stream = io.BytesIO()
    np.save(stream, tiny_logits("ort-int8") + np.float32(5))
    path = write_tiny(
        tmp_path / "b.edgetl", ONE, None, {"golden/ort-int8/logits.npy": stream.getvalue()}
    )
    done = edgetl.bench(path, duration=0.05)
    assert {row.candidate for row in done.rows} == set(ONE)
    (note,) = done.notes
    assert note.startswith("ort-int8 is not chosen here, as its self-test fails: logits are off")
    assert not known(sha256(path)).verdicts["ort-int8"].passed
