"""Building ahead: what needs it, what this machine cannot build, and the line that announces it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetl.bundle import open_bundle
from edgetl.engines import tensorrt
from edgetl.errors import EngineError, EngineMissingError, StorageError, UsageError
from edgetl.runtime.build import announce, build, builds


@pytest.fixture
def no_gpu() -> None:
    if tensorrt.missing() is None:
        pytest.skip("TensorRT runs here")


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A proxy for a Jetson's TensorRT 8.5 that notes what it was asked to build."""
    asked: list[tuple[str, int]] = []

    def ahead(files: Any, options: Any, batch: int) -> tensorrt.Ahead:
        asked.append((options.session["typing"], batch))
        return tensorrt.Ahead(
            cached=len(asked) > 1, build_s=12.5, size_mib=len(files[0]) / 2**20, placement=""
        )

    monkeypatch.setattr(tensorrt, "version", lambda: "8.5.2")
    monkeypatch.setattr(tensorrt, "missing", lambda s=None: tensorrt.mistyped((s or {})["typing"]))
    monkeypatch.setattr(tensorrt, "builder", tensorrt.builder._replace(prepare=ahead))
    return asked


@pytest.mark.usefixtures("no_gpu")
def test_without_tensorrt_the_reason_and_the_fix_are_said(jetson_bundle: Path) -> None:
    reason = str(tensorrt.missing())
    with pytest.raises(EngineMissingError) as error:
        build(jetson_bundle)
    assert error.value.message == (
        f"This machine cannot build trt-fp16-weak, trt-fp16-strong of {jetson_bundle}: "
        + reason.partition(" Fix: ")[0]
    )
    assert error.value.fix == reason.partition(" Fix: ")[2]


def test_a_bundle_of_cpu_candidates_needs_no_build(
    write_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiny(tmp_path / "cpu.edgetl", ("ort-fp32",))
    with pytest.raises(EngineError, match=r"Nothing to build in .*ort-fp32.* run as they are") as e:
        build(path)
    assert not isinstance(e.value, EngineMissingError)
    assert "edgetl bench" in e.value.fix


def test_one_engine_alone(jetson_bundle: Path) -> None:
    with pytest.raises(EngineError, match=r"Nothing to build in .*: ort-fp32 run"):
        build(jetson_bundle, engine="onnxruntime")
    with pytest.raises(EngineError, match="has no candidate for engine openvino"):
        build(jetson_bundle, engine="openvino")


@pytest.mark.parametrize("batch", [0, -1, 1025])
def test_an_impossible_batch_is_refused(batch: int, jetson_bundle: Path) -> None:
    with pytest.raises(UsageError, match=f"--batch {batch} is not possible"):
        build(jetson_bundle, batch=batch)


def test_what_can_be_built_is_built_and_the_rest_is_explained(
    jetson_bundle: Path, able: list[tuple[str, int]]
) -> None:
    said: list[str] = []
    done = build(jetson_bundle, batch=4, progress=said.append)
    assert able == [("weak", 4)]
    (row,) = done.engines
    assert (row.candidate, row.engine, row.engine_version) == ("trt-fp16-weak", "tensorrt", "8.5.2")
    assert (row.precision, row.batch, row.cached, row.build_s) == ("fp16", 4, False, 12.5)
    assert row.size_mib > 0
    (left,) = done.skipped
    assert left.candidate == "trt-fp16-strong"
    assert left.reason == "TensorRT 8.5.2 cannot be strongly typed."
    assert left.fix == "use the weakly typed candidate"
    assert done.ready == ("ort-fp32",)
    assert said == ["preparing trt-fp16-weak", "preparing trt-fp16-strong"]
    assert build(jetson_bundle).engines[0].cached


@pytest.mark.usefixtures("able")
def test_a_failed_build_is_told_from_a_missing_engine(
    jetson_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise EngineError("TensorRT 8.5.2 could not build it: no memory.", fix="free memory.")

    monkeypatch.setattr(tensorrt, "builder", tensorrt.builder._replace(prepare=fail))
    with pytest.raises(EngineError, match="could not build it: no memory") as error:
        build(jetson_bundle)
    assert not isinstance(error.value, EngineMissingError)

    def full(*_: Any) -> None:
        raise StorageError("Cannot write it.", fix="free disk space.")

    monkeypatch.setattr(tensorrt, "builder", tensorrt.builder._replace(prepare=full))
    with pytest.raises(StorageError, match="Cannot write it"):
        build(jetson_bundle)


@pytest.mark.usefixtures("able")
def test_a_coming_build_is_announced(
    jetson_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[str | None] = ["building it, minutes", None]
    monkeypatch.setattr(
        tensorrt, "builder", tensorrt.builder._replace(pending=lambda *_: lines.pop(0))
    )
    with open_bundle(jetson_bundle) as bundle:
        weak, _, plain = bundle.manifest.candidates
        assert (builds(weak), builds(plain)) == (True, False)
        announce(bundle, plain, 1)
        announce(bundle, weak, 1)
        announce(bundle, weak, 1)
    assert caplog.messages == ["building it, minutes"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_refused_candidates_are_not_built(
    write_tiny: Callable[..., Path], tmp_path: Path, able: list[tuple[str, int]]
) -> None:
    path = write_tiny(
        tmp_path / "refused.edgetl",
        ("trt-fp16-weak", "ort-fp32"),
        {"trt-fp16-weak": {"rejected": "accuracy drop 0.2"}},
    )
    with pytest.raises(EngineError, match="Nothing to build"):
        build(path)
    assert able == []
