"""Whole exports of a small run: candidates, choice, refusals, whole files or none."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import edgetl
from edgetl.bundle import open_bundle
from edgetl.engines import find_engine
from edgetl.errors import (
    DataError,
    EngineMissingError,
    GateError,
    RunError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from edgetl.exporter import export as exporting
from edgetl.exporter import job as jobs
from edgetl.exporter.check import check_onnx
from edgetl.exporter.plan import BASELINE
from edgetl.machine import this_machine
from edgetl.runtime.measure import Unmeasured
from edgetl.runtime.selftest import self_test
from edgetl.spec import Candidate

Cli = Callable[..., subprocess.CompletedProcess[str]]
KEYS = {
    "recipe",
    "engine",
    "precision",
    "split",
    "n",
    "accuracy",
    "reference_accuracy",
    "drop",
    "agreement",
    "p50_ms",
    "measured_on",
    "provisional",
    "rejected",
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for an instant."""
    monkeypatch.setattr(exporting, "MEASURE_SECONDS", 0.05)


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make candidates of a precision answer nonsense."""
    real = jobs.candidate_logits

    def of(precision: str) -> None:
        def spoilt(built: Any, images: Any) -> Any:
            logits, used = real(built, images)
            return (-logits if built.recipe.precision == precision else logits), used

        monkeypatch.setattr(jobs, "candidate_logits", spoilt)

    return of


def died(candidate: Candidate) -> Unmeasured:
    """As if its process had ended while it was measured."""
    return Unmeasured(
        recipe=candidate.recipe,
        engine=candidate.engine,
        precision=candidate.precision,
        reason="It died.",
        fix="free memory.",
    )


def one(candidates: tuple[Candidate, ...], recipe: str) -> Candidate:
    return next(c for c in candidates if c.recipe == recipe)


# --- this machine -----------------------------------------------------------------------------


def test_the_command_line_end_to_end(cli: Cli, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "shapes.edgetl"
    done = cli("export", trained, "--target", "cpu", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bundle"] == str(out)
    rows = {row["recipe"]: row for row in found["candidates"]}
    assert {"ort-fp32", "ov-fp32"} <= set(rows)
    for row in rows.values():
        assert row.keys() >= KEYS
    passed = {name: row for name, row in rows.items() if row["rejected"] is None}
    assert BASELINE in passed
    assert len(passed) >= 2
    for row in passed.values():
        assert row["p50_ms"] > 0
        assert row["measured_on"] == this_machine().fingerprint
        assert row["provisional"] is False
        assert (row["split"], row["n"]) == ("validation", 9)
        assert row["undecidable"] is True  # 9 photos cannot show a drop of 1 %
    assert found["chosen"] == min(passed, key=lambda name: passed[name]["p50_ms"])
    assert found["provisional"] is False
    with open_bundle(out) as opened:
        manifest = opened.manifest
        assert manifest.chosen == found["chosen"]
        assert manifest.order[0] == found["chosen"]
        assert {c.recipe for c in manifest.candidates} == set(rows)
        assert {c.recipe for c in manifest.candidates if c.artifacts} == set(passed)
        assert manifest.calibration is not None
        assert manifest.calibration.n == 54
        assert manifest.provenance.weights.source == "random initialisation"
        assert manifest.provenance.max_drop == 0.01
        rows_measured = opened.read("measurements.jsonl").splitlines()
        assert {json.loads(line)["recipe"] for line in rows_measured} == set(passed)
        assert all(check.passed is not False for check in self_test(opened))
    assert [p.name for p in tmp_path.iterdir()] == ["shapes.edgetl"]


def test_the_table_shows_refused_candidates_too(
    trained: Path,
    tmp_path: Path,
    quick: None,
    spoil: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from edgetl.cli.export import export

    spoil("int8")
    export(trained, target="cpu", out=tmp_path / "x.edgetl", max_drop=0.01)
    shown = capsys.readouterr()
    assert "ort-fp32" in shown.out
    assert "ort-int8" in shown.out
    assert "refused: agreement 0." in shown.out
    assert "undecidable by accuracy" in shown.out
    assert "is chosen (measured)" in shown.err


def test_refused_candidates_are_listed_and_not_shipped(
    trained: Path, tmp_path: Path, quick: None, spoil: Callable[[str], None]
) -> None:
    spoil("int8")
    seen: list[list[Candidate]] = []
    done = edgetl.export(
        trained,
        target="cpu",
        out=tmp_path / "x.edgetl",
        engine="onnxruntime",
        report=lambda rows: seen.append(list(rows)),
    )
    assert done.chosen == BASELINE
    refused = next(c for c in done.candidates if c.precision == "int8")
    assert refused.rejected is not None
    assert refused.agreement is not None
    assert refused.p50_ms is None
    assert len(seen) == 2  # judged, then measured
    with open_bundle(tmp_path / "x.edgetl") as opened:
        listed = one(opened.manifest.candidates, refused.recipe)
        assert listed.artifacts == ()
        assert listed.rejected == refused.rejected
        assert [a.path for a in opened.manifest.artifacts] == ["models/fp32.onnx"]


@pytest.mark.parametrize(
    "options", [{"precision": "int8"}, {"precision": "int8", "engine": "openvino"}]
)
def test_what_was_asked_for_and_is_refused_is_an_error_and_no_file(
    options: dict[str, str], trained: Path, tmp_path: Path, spoil: Callable[[str], None]
) -> None:
    if options.get("engine") and find_engine("openvino").missing() is not None:
        pytest.skip("OpenVINO is not installed")
    spoil("int8")
    with pytest.raises(GateError, match="No candidate that was asked for passed") as got:
        edgetl.export(trained, target="cpu", out=tmp_path / "x.edgetl", **options)
    assert "-int8: agreement" in got.value.message
    assert "--max-drop" in got.value.fix
    assert not list(tmp_path.iterdir())


def test_a_baseline_that_fails_ships_nothing(
    trained: Path, tmp_path: Path, spoil: Callable[[str], None]
) -> None:
    spoil("fp32")
    with pytest.raises(GateError, match="ONNX Runtime fp32, which every bundle carries"):
        edgetl.export(trained, target="cpu", out=tmp_path / "x.edgetl", engine="onnxruntime")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_measured_after_all_is_refused(
    trained: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exporting.measure

    def measure(opened: Any, passed: list[Candidate], **options: Any) -> Any:
        broken = [c for c in passed if c.precision == "int8"]
        rows, _ = real(opened, [c for c in passed if c not in broken], **options)
        return rows, [died(c) for c in broken]

    monkeypatch.setattr(exporting, "measure", measure)
    options: dict[str, Any] = {"target": "cpu", "engine": "onnxruntime"}
    done = edgetl.export(trained, out=tmp_path / "x.edgetl", **options)
    assert (done.chosen, done.provisional) == (BASELINE, False)
    assert [c.rejected for c in done.candidates if c.precision == "int8"] == [
        "It died (free memory)"
    ]
    with pytest.raises(GateError, match="It died"):
        edgetl.export(trained, out=tmp_path / "y.edgetl", **options, precision="int8")
    assert [p.name for p in tmp_path.iterdir()] == ["x.edgetl"]


def test_nothing_measurable_is_an_error(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(_: Any, passed: list[Candidate], **__: Any) -> Any:
        return [], [died(c) for c in passed]

    monkeypatch.setattr(exporting, "measure", measure)
    with pytest.raises(GateError, match="It died"):
        edgetl.export(trained, target="cpu", out=tmp_path / "x.edgetl", precision="fp32")


# --- other machines ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "first"), [("jetson", "trt-fp16-strong"), ("raspberry-pi-5", "ort-int8-arm")]
)
def test_another_machine_is_provisional(
    target: str, first: str, trained: Path, tmp_path: Path
) -> None:
    done = edgetl.export(trained, target=target, out=tmp_path / "x.edgetl")
    assert done.provisional
    assert all(c.provisional and c.p50_ms is None for c in done.candidates)
    assert all(c.measured_on is None for c in done.candidates)
    assert one(done.candidates, BASELINE).rejected is None
    assert one(done.candidates, first).rejected is None
    with open_bundle(tmp_path / "x.edgetl") as opened:
        manifest = opened.manifest
        assert manifest.targets == (target,)
        assert manifest.provisional
        passed = {c.recipe for c in done.candidates if c.rejected is None}
        assert done.chosen == next(name for name in manifest.order if name in passed)
        assert opened.read("measurements.jsonl") == b""
        for artifact in manifest.artifacts:
            if artifact.path.endswith(".onnx"):
                check_onnx(bytes(opened.read(artifact.path)), max_opset=17)


def test_a_candidate_for_a_jetson_says_what_scored_it(trained: Path, tmp_path: Path) -> None:
    done = edgetl.export(
        trained, target="jetson-orin-nano", out=tmp_path / "x.edgetl", precision="fp16"
    )
    for recipe in ("trt-fp16-weak", "trt-fp16-strong"):
        assert one(done.candidates, recipe).checked_with.startswith("onnxruntime ")


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"target": "cpu", "precision": "fp16"}, UsageError, r"no recipe for .* precision fp16"),
        ({"target": "jetsn"}, UnknownNameError, "Unknown target 'jetsn': did you mean jetson"),
        ({"target": "cpu", "max_drop": 1.5}, UsageError, "--max-drop 1.5 is not possible"),
        ({"target": "cpu", "max_drop": -0.1}, UsageError, "--max-drop -0.1 is not possible"),
        ({"target": "cpu", "data": "/gone"}, DataError, "No data folder at /gone"),
    ],
)
def test_options_that_cannot_be(
    options: dict[str, Any], kind: type[Exception], message: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        edgetl.export(trained, out=tmp_path / "x.edgetl", **options)
    assert not list(tmp_path.iterdir())


def test_what_is_no_run_or_no_file(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder") as got:
        edgetl.export(trained, target="cpu", out=tmp_path)
    assert "NAME.edgetl" in got.value.fix
    with pytest.raises(RunError, match="No run at"):
        edgetl.export(tmp_path / "gone", target="cpu", out=tmp_path / "x.edgetl")
    with pytest.raises(RunError, match="is not a run"):
        edgetl.export(tmp_path, target="cpu", out=tmp_path / "x.edgetl")


def test_an_engine_that_is_asked_for_must_be_here(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetl.engines import openvino

    monkeypatch.setattr(openvino, "missing", lambda _=None: "It is not here. Fix: get it")
    with pytest.raises(EngineMissingError, match="It is not here"):
        edgetl.export(trained, target="cpu", out=tmp_path / "x.edgetl", engine="openvino")


def test_moved_photos_exit_1_with_the_count(cli: Cli, trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    record["data"]["root"] = "/nowhere"
    (run / "run.json").write_text(json.dumps(record))
    done = cli("export", run, "--target", "cpu", "--out", "x.edgetl", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "DataError"
    assert error["message"].startswith("63 of the 63 training and validation photos")
    assert "--data FOLDER" in error["fix"]
    assert "Traceback" not in done.stderr


def test_the_run_keeps_its_own_data_when_photos_are_found_elsewhere(
    trained: Path, shapes: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    record["data"]["root"] = "/nowhere"
    (run / "run.json").write_text(json.dumps(record))
    done = edgetl.export(
        run, target="raspberry-pi-4", out=tmp_path / "x.edgetl", data=shapes, precision="fp32"
    )
    assert one(done.candidates, BASELINE).rejected is None


# --- whole or absent --------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_bundle(trained: Path, tmp_path: Path, quick: None) -> None:
    out = tmp_path / "x.edgetl"
    out.write_bytes(b"the old bundle")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(StorageError, match="Cannot write"):
            edgetl.export(trained, target="raspberry-pi-5", out=out, precision="fp32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert out.read_bytes() == b"the old bundle"
    assert [p.name for p in tmp_path.iterdir()] == ["x.edgetl"]
    edgetl.export(trained, target="raspberry-pi-5", out=out, precision="fp32")
    open_bundle(out).close()


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files of other processes."""
    home = tmp_path / "tmp"
    home.mkdir()
    yield home
    assert not list(home.glob("edgetl*"))


@pytest.mark.parametrize("word", ["checking", "measuring"])
def test_ctrl_c_leaves_nothing(word: str, trained: Path, tmp_path: Path, scratch: Path) -> None:
    out = tmp_path / "out" / "x.edgetl"
    out.parent.mkdir()
    out.write_bytes(b"the old bundle")
    command = ["export", str(trained), "--target", "cpu", "--engine", "onnxruntime"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgetl", *command, "--out", str(out)],
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            break
    time.sleep(1.0 if word == "measuring" else 0.0)  # into the workers' turns
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    assert out.read_bytes() == b"the old bundle"
    assert [p.name for p in out.parent.iterdir()] == ["x.edgetl"]
    deadline = time.monotonic() + 10
    while _group_lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _group_lives(process.pid)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# --- real photos ------------------------------------------------------------------------------


def test_the_shipped_fp32_agrees_with_pytorch_on_real_photos(shared: Path, tmp_path: Path) -> None:
    weights = shared / "weights" / "mobilenet_v2-imagenet1k.safetensors"
    if not weights.is_file():
        pytest.skip(f"no weights at {weights}")
    for split, count in (("train", 12), ("validation", 30)):
        for label in ("dress", "longsleeve", "pants", "t-shirt"):
            source = sorted((shared / "data" / "clothing" / split / label).iterdir())
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            for photo in source[:count]:
                (tmp_path / "photos" / split / label / photo.name).symlink_to(photo)
    run = tmp_path / "run"
    edgetl.finetune(tmp_path / "photos", out=run, weights=weights, strategy="probe", size=160)
    done = edgetl.export(run, target="x86-avx2", out=tmp_path / "x.edgetl", precision="fp32")
    for found in done.candidates:
        assert found.n >= 110
        assert found.agreement is not None
        assert found.agreement >= 0.997
        assert found.rejected is None


def test_the_choice_is_the_fastest_where_all_was_measured() -> None:
    def candidate(recipe: str, p50: float | None, rejected: str | None = None) -> Candidate:
        return Candidate(
            recipe=recipe,
            engine="onnxruntime",
            precision="fp32",
            artifacts=(),
            p50_ms=p50,
            rejected=rejected,
        )

    rows = [candidate("a", 3.0), candidate("b", 1.0, "no"), candidate("c", 2.0)]
    assert jobs.choice(rows, ("a", "b", "c"), "auto", "auto") == ("c", False)
    rows[0] = msgspec.structs.replace(rows[0], p50_ms=None)
    assert jobs.choice(rows, ("c", "b", "a"), "auto", "auto") == ("c", True)
    assert jobs.choice(rows, ("b", "a", "c"), "auto", "auto") == ("a", True)


def test_only_what_was_asked_for_is_chosen() -> None:
    rows = [
        Candidate(recipe=name, engine="onnxruntime", precision=precision, artifacts=(), p50_ms=p50)
        for name, precision, p50 in (("ort-int8", "int8", 3.0), ("ort-fp32", "fp32", 1.0))
    ]
    order = ("ort-int8", "ort-fp32")
    assert jobs.choice(rows, order, "auto", "auto") == ("ort-fp32", False)
    assert jobs.choice(rows, order, "auto", "int8") == ("ort-int8", False)
