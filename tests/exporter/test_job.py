"""The job of an export: which candidate is chosen, in which order, and what the bundle holds."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgetl.bundle import open_bundle
from edgetl.bundle.manifest import Candidate
from edgetl.errors import EngineError
from edgetl.exporter import job as module
from edgetl.exporter.backends.base import CANONICAL
from edgetl.exporter.candidates import Built, build, candidate_outputs
from edgetl.exporter.job import ExportJob
from edgetl.exporter.plan import plan
from edgetl.machine import this_machine
from edgetl.recipes import find_recipe
from edgetl.runtime.selftest import self_test


@pytest.fixture
def make(tiny_source: Any, tmp_path: Path) -> Callable[..., ExportJob]:
    """A job on the tiny model: `make("cpu", precision="int8")`."""

    def job(target: str = "cpu", **changes: Any) -> ExportJob:
        asked = {"engine": "auto", "precision": "auto"} | changes
        planned = plan(target, asked["engine"], asked["precision"])
        return ExportJob(tiny_source, planned, max_drop=1 - 1e-9, progress=lambda _: None, **asked)

    return job


def candidate(name: str, p50: float | None, **changes: Any) -> Candidate:
    stated = {"engine": "onnxruntime", "precision": "fp32", "artifacts": (), "p50_ms": p50}
    return Candidate(name=name, recipe=name, **stated | changes)


def holding(job: ExportJob, *candidates: Candidate) -> ExportJob:
    job.candidates = {c.name: c for c in candidates}
    return job


# --- the choice -------------------------------------------------------------------------------


def test_the_fastest_is_chosen_where_all_was_measured(make: Callable[..., ExportJob]) -> None:
    rows = [candidate("a", 3.0), candidate("b", 1.0, rejected="no"), candidate("c", 2.0)]
    job = holding(make(), *rows)
    assert job.choice() == ("c", False)
    assert job.order() == ("b", "c", "a")
    job.candidates["a"] = msgspec.structs.replace(rows[0], p50_ms=None)
    assert job.choice() == ("c", True)
    assert job.order() == ("b", "c", "a")


def test_of_equal_ones_the_nearest_to_fp32_is_chosen(make: Callable[..., ExportJob]) -> None:
    rows = [
        candidate("int8", 2.00, precision="int8", divergence=0.3),
        candidate("mixed", 2.03, precision="int8", divergence=0.1),
        candidate("fp32", 2.20, divergence=0.0),
    ]
    assert holding(make(), *rows).choice() == ("mixed", False)


def test_the_order_of_the_plan_decides_where_nothing_was_measured(
    make: Callable[..., ExportJob],
) -> None:
    rows = [candidate("c", None), candidate("a", None, rejected="no"), candidate("b", None)]
    job = holding(make(), *rows)
    assert job.choice() == ("c", True)
    assert job.order() == ("c", "a", "b")
    job.candidates["c"] = msgspec.structs.replace(rows[0], rejected="no")
    assert job.choice() == ("b", True)


def test_other_devices_profiles_go_before_what_was_measured_here(
    make: Callable[..., ExportJob],
) -> None:
    rows = [
        candidate("ort-fp32", 1.0),
        candidate("trt-fp16-weak", None, engine="tensorrt"),
        candidate("trt-fp16-strong", None, engine="tensorrt"),
        candidate("mine", None),
        candidate("ov-fp32", 0.5, engine="openvino"),
    ]
    job = holding(make("cpu,jetson-orin-nano"), *rows)
    listed = ("trt-fp16-strong", "trt-fp16-weak", "ort-fp32")  # as that profile says
    assert job.order() == (*listed, "ov-fp32", "mine")
    assert job.choice() == ("trt-fp16-strong", True)
    assert holding(make("cpu"), *rows).order()[:2] == ("ov-fp32", "ort-fp32")


def test_only_what_was_asked_for_is_chosen(make: Callable[..., ExportJob]) -> None:
    rows = [candidate("ort-int8", 3.0, precision="int8"), candidate("ort-fp32", 1.0)]
    assert holding(make(), *rows).choice() == ("ort-fp32", False)
    assert holding(make(precision="int8"), *rows).choice() == ("ort-int8", False)
    rows[0] = msgspec.structs.replace(rows[0], rejected="agreement is low")
    # for the trial bundle alone: an export ends with an error unless a search finds a better one
    assert holding(make(precision="int8"), *rows).choice() == ("ort-fp32", False)


# --- candidates -------------------------------------------------------------------------------


def test_recipes_become_candidates(make: Callable[..., ExportJob]) -> None:
    said: list[str] = []
    job = make("cpu", engine="onnxruntime")
    job.say = said.append
    job.try_recipes(job.plan.recipes)
    assert list(job.candidates) == [recipe.name for recipe in job.plan.recipes]
    for name, found in job.candidates.items():
        recipe = find_recipe(name)
        assert (found.engine, found.precision) == (recipe.engine, recipe.precision)
        assert (found.arch, found.session) == (recipe.arch, recipe.session)
        assert (found.split, found.n) == ("validation", 16)
        assert found.checked_with.startswith("onnxruntime ")
        assert found.provisional is False
        assert f"building {name}" in said
        assert f"checking {name}" in said
        assert (found.quantization is not None) == (recipe.precision == "int8")
        assert job.expected[name]["logits"].shape == (len(job.golden), 3)


def test_what_cannot_be_built_is_a_refused_candidate(make: Callable[..., ExportJob]) -> None:
    job = make()

    def fail() -> Built:
        raise EngineError("It broke.", fix="mend it.")

    job.attempt(find_recipe("ort-int8"), fail, job.context)
    assert job.candidates["ort-int8"].rejected == "It broke (mend it)"
    assert job.candidates["ort-int8"].scores == {}
    assert job.passed == []
    assert "ort-int8" not in job.built


def test_another_device_s_candidates_are_provisional(make: Callable[..., ExportJob]) -> None:
    job = make("raspberry-pi-5")
    job.try_recipes(job.plan.recipes)
    assert all(c.provisional for c in job.candidates.values())


def test_fp16_that_would_overflow_is_refused(
    make: Callable[..., ExportJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's own FP16 does not show it: the ranges of the FP32 network do, once for all."""
    job = make("jetson", precision="fp16")
    job.try_recipes(job.plan.recipes)
    assert [c.rejected for c in job.candidates.values()] == [None] * 3
    calls: list[int] = []

    def ranges(*_: Any, **__: Any) -> Any:
        calls.append(1)
        return {"minmax": {"x6": (-1e5, 10.0)}}

    monkeypatch.setattr(module, "activation_ranges", ranges)
    other = make("jetson", precision="fp16")
    other.try_recipes(other.plan.recipes)
    reasons = {name: c.rejected for name, c in other.candidates.items()}
    assert reasons.pop("ort-fp32") is None
    assert len(reasons) == 2
    for reason in reasons.values():
        assert reason is not None
        assert "x6" in reason
    assert len(calls) == 1


def test_fp16_s_range_is_held_against_the_trained_network(make: Callable[..., ExportJob]) -> None:
    """Training moves weights: the network before it may fit FP16, and the trained one not."""
    job = make("jetson")
    model = onnx.load_model_from_string(job.context.canonical)
    made = model.graph.output[0].name
    model.graph.node[-1].output[0] = "before"
    for number, (source, factor, out) in enumerate(
        (("before", 1e6, "high"), ("high", 1e-6, made))  # the answers stay as they are
    ):
        name = f"factor_{number}"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(factor), name))
        model.graph.node.append(helper.make_node("Mul", [source, name], [out], f"scale_{number}"))
    trained = job.context.with_trained(model.SerializeToString(), {})
    recipe = msgspec.structs.replace(find_recipe("trt-int8-weak"), calibration=("minmax",))
    for name, context in (("plain", job.context), ("trained", trained)):
        named = msgspec.structs.replace(recipe, name=name)
        job.attempt(named, partial(build, named, context), context)
    assert job.candidates["plain"].rejected is None
    assert "high" in str(job.candidates["trained"].rejected)


# --- the bundle -------------------------------------------------------------------------------


def test_the_bundle_holds_what_passed(make: Callable[..., ExportJob], tmp_path: Path) -> None:
    job = make("cpu")
    job.try_recipes(job.plan.recipes)
    passed = {c.name for c in job.passed}
    assert {"ort-fp32", "ov-fp32"} < passed
    refused = next(name for name in sorted(passed) if name.endswith("int8"))
    job.refuse(refused, EngineError("It broke.", fix="mend it."))
    sha256 = job.write(tmp_path / "tiny.edgetl")
    with open_bundle(tmp_path / "tiny.edgetl") as opened:
        manifest = opened.manifest
        assert opened.sha256 == sha256
        assert manifest.name == "tiny"
        assert manifest.targets == ("cpu",)
        assert manifest.order == job.order()
        assert (manifest.chosen, manifest.provisional) == job.choice()
        listed = {c.name: c for c in manifest.candidates}
        assert listed.keys() == job.candidates.keys()
        assert {name for name, c in listed.items() if c.artifacts} == passed - {refused}
        assert listed[refused].rejected == "It broke (mend it)"
        assert listed["ort-fp32"].artifacts == listed["ov-fp32"].artifacts == (CANONICAL,)
        assert [a.path for a in manifest.artifacts].count(CANONICAL) == 1
        assert manifest.calibration is not None
        assert manifest.calibration.n == 12
        used = manifest.provenance.versions
        assert used.keys() == {"onnxruntime", "openvino", "machine"}
        assert used["machine"] == this_machine().fingerprint
        assert all(check.passed is not False for check in self_test(opened))


def test_two_candidates_cannot_write_one_member(
    make: Callable[..., ExportJob], tmp_path: Path
) -> None:
    job = make("cpu")
    job.try_recipes([r for r in job.plan.recipes if r.name in ("ort-fp32", "ort-int8")])
    held = job.built["ort-int8"]
    job.built["ort-int8"] = held._replace(files={CANONICAL: b"another"})
    with pytest.raises(EngineError, match=f"ort-int8 writes {CANONICAL}, which another candidate"):
        job.write(tmp_path / "tiny.edgetl")
    assert not (tmp_path / "tiny.edgetl").exists()


def test_a_bundle_holds_no_photo(
    make: Callable[..., ExportJob], tiny_source: Any, tmp_path: Path
) -> None:
    """What the self-test runs is drawn; photos that judged or calibrated are in no member."""
    job = make("cpu", engine="onnxruntime")
    job.try_recipes(job.plan.recipes)
    job.write(tmp_path / "b.edgetl")
    data = (tmp_path / "b.edgetl").read_bytes()
    with open_bundle(tmp_path / "b.edgetl") as opened:
        golden = opened.manifest.golden
        inputs = np.load(io.BytesIO(opened.read(golden.inputs)))
        expected = np.load(io.BytesIO(opened.read(golden.outputs["ort-fp32"]["logits"])))
    assert inputs[0].tobytes() in data
    assert not any(photo.tobytes() in data for photo in tiny_source.images)
    far = np.abs(inputs[:, np.newaxis].astype(int) - tiny_source.images).mean(axis=(2, 3, 4))
    assert far.min() > 20
    np.testing.assert_allclose(expected, tiny_source.reference(inputs)["logits"], atol=1e-5)


def test_a_candidate_that_fails_on_drawings_is_refused(
    make: Callable[..., ExportJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right on every photo, but its self-test could never pass."""
    job = make("cpu", engine="onnxruntime")

    def broken(built: Built, blocks: Any) -> tuple[Any, str]:
        outputs, used = candidate_outputs(built, blocks)
        outputs[-1]["logits"][-1] = np.nan
        return outputs, used

    monkeypatch.setattr(module, "candidate_outputs", broken)
    job.try_recipes([find_recipe("ort-fp32")])
    assert job.candidates["ort-fp32"].rejected is not None
    assert "the self-test's drawings" in job.candidates["ort-fp32"].rejected
    assert job.candidates["ort-fp32"].agreement == 1
