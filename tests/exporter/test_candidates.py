"""From the canonical ONNX to artifacts: what each recipe writes, and what scores it here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from edgetl.engines import find_engine
from edgetl.errors import EngineError, UsageError
from edgetl.exporter.backends import backend_of
from edgetl.exporter.backends.base import CANONICAL
from edgetl.exporter.candidates import (
    Built,
    build,
    candidate_outputs,
    renamed,
    why,
)
from edgetl.exporter.context import BuildContext
from edgetl.exporter.onnx.checks import check_fp16, check_onnx
from edgetl.exporter.sources.run import RunSource
from edgetl.exporter.tensorrt.rules import check_trt_qdq
from edgetl.inputs.image import Pixels
from edgetl.recipes import find_recipe
from edgetl.spec import Recipe
from tests.helpers import divergence


@pytest.fixture(scope="module")
def context(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildContext:
    source = RunSource(trained)
    return BuildContext(source, source.canonical())


@pytest.fixture(scope="module")
def images(context: BuildContext) -> Pixels:
    return context.source.validation().images


@pytest.fixture(scope="module")
def made(context: BuildContext) -> Callable[[str], Built]:
    kept: dict[str, Built] = {}

    def make(name: str) -> Built:
        if name not in kept:
            kept[name] = build(find_recipe(name), context)
        return kept[name]

    return make


@pytest.mark.parametrize(
    ("recipe", "files"),
    [
        ("ort-fp32", [CANONICAL]),
        ("ov-fp32", [CANONICAL]),
        ("ov-bf16", [CANONICAL]),
        ("ort-int8", ["models/ort-int8.onnx"]),
        ("ort-int8-arm", ["models/ort-int8-arm.onnx"]),
        ("ov-int8", ["models/ov-int8.xml", "models/ov-int8.bin"]),
        ("trt-fp16-weak", [CANONICAL]),
        ("trt-fp16-strong", ["models/trt-fp16-strong.onnx"]),
        ("trt-int8-weak", ["models/trt-int8-weak.onnx"]),
        ("trt-int8-strong", ["models/trt-int8-strong.onnx"]),
        ("trt-fp16-dla-weak", ["models/trt-fp16-dla-weak.onnx"]),
        ("trt-fp16-dla-strong", ["models/trt-fp16-dla-strong.onnx"]),
        ("ov-gpu-fp16", [CANONICAL]),
        ("ov-npu-int8", ["models/ov-npu-int8.xml", "models/ov-npu-int8.bin"]),
    ],
)
def test_the_files_of_each_recipe(
    recipe: str, files: list[str], made: Callable[[str], Built], context: BuildContext
) -> None:
    built, stated = made(recipe), find_recipe(recipe)
    assert list(built.files) == files
    for name, data in built.files.items():
        if name.endswith(".onnx"):
            check_onnx(data, max_opset=stated.max_opset)
    if CANONICAL in files:
        assert built.files[CANONICAL] == context.canonical
    if stated.form == "trt-strong":
        check_fp16(built.files[files[0]])
    if stated.form.startswith("trt-qdq"):
        check_trt_qdq(built.files[files[0]], strong=stated.form == "trt-qdq-strong")
    if "dla" in recipe:
        kinds = {n.op_type for n in onnx.load_model_from_string(built.files[files[0]]).graph.node}
        assert "GlobalAveragePool" not in kinds
    # what TensorRT's FP16 flag amounts to is scored here, and not shipped
    run = backend_of(stated).proxy_files(stated, built.files)
    assert (run != tuple(built.files.values())) == (stated.form == "trt-weak")
    if stated.form == "trt-weak":
        check_fp16(run[0])
    assert (built.quantization is not None) == (stated.precision == "int8")


@pytest.mark.parametrize(
    ("recipe", "least", "range_share"),
    [
        ("ort-fp32", 1.0, 1e-4),
        ("ov-fp32", 1.0, 1e-4),
        ("ov-bf16", 0.8, 0.05),
        ("ort-int8", 0.8, 0.4),
        ("ov-int8", 0.8, 0.4),
        ("trt-fp16-weak", 1.0, 0.01),
        ("trt-fp16-strong", 1.0, 0.01),
        ("trt-fp16-dla-weak", 1.0, 0.01),
        ("trt-int8-weak", 0.8, 0.4),
        ("trt-int8-strong", 0.8, 0.4),
        ("ort-int8-arm", 0.8, 0.4),
        ("ov-gpu-fp16", 1.0, 1e-4),
        ("ov-gpu-int8", 0.8, 0.4),
    ],
)
def test_every_candidate_stays_close_to_the_reference(
    recipe: str,
    least: float,
    range_share: float,
    *,
    made: Callable[[str], Built],
    images: Pixels,
    context: BuildContext,
) -> None:
    built = made(recipe)
    proxy = backend_of(built.recipe).proxy(built.recipe)
    reason = find_engine(proxy.engine).missing(proxy.session)
    if reason is not None:
        pytest.skip(str(reason))
    reference = context.source.reference(images)["logits"]
    (outputs,), used = candidate_outputs(built, [images])
    logits = outputs["logits"]
    assert logits.dtype == np.float32
    assert logits.shape == reference.shape
    assert used.startswith(proxy.engine)
    assert (logits.argmax(axis=1) == reference.argmax(axis=1)).mean() >= least
    assert np.abs(logits - reference).max() <= range_share * np.ptp(reference)


def test_quantized_files_differ_from_the_canonical(made: Callable[[str], Built]) -> None:
    model = onnx.load_model_from_string(made("ort-int8").files["models/ort-int8.onnx"])
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}


# --- calibration ------------------------------------------------------------------------------


def with_calibration(recipe: str, *methods: Any) -> Recipe:
    return msgspec.structs.replace(find_recipe(recipe), calibration=methods)


@pytest.mark.parametrize("recipe", ["ort-int8", "trt-int8-weak", "ov-int8"])
def test_the_calibration_that_is_nearest_to_fp32_is_kept(
    recipe: str, made: Callable[[str], Built], context: BuildContext
) -> None:
    """By its divergence on photos that calibrate nothing, which each method's own file confirms."""
    built = made(recipe)
    found = built.quantization
    assert found is not None
    assert set(found.tried) == set(find_recipe(recipe).calibration)
    assert found.divergence == min(found.tried.values())
    assert found.calibration == min(found.tried, key=found.tried.__getitem__)
    alone = build(with_calibration(recipe, found.calibration), context)
    for path, data in alone.files.items():  # OpenVINO numbers operations anew in each .xml
        assert path.endswith(".xml") or data == built.files[path]
    held_out, reference = context.held_out()
    (outputs,), _ = candidate_outputs(alone, [held_out])
    apart = divergence(reference["logits"], outputs["logits"])
    assert apart == pytest.approx(found.divergence)


def test_one_method_alone_is_not_compared(context: BuildContext) -> None:
    for methods, expected in ((["percentile"], "percentile"), ([], "minmax")):
        found = build(with_calibration("ort-int8", *methods), context).quantization
        assert found is not None
        assert (found.calibration, found.divergence, found.tried) == (expected, None, {})


def test_a_method_that_fails_leaves_the_others(context: BuildContext) -> None:
    """NNCF has no entropy: a recipe that names it is made by what is left."""
    found = build(with_calibration("ov-int8", "entropy", "minmax"), context).quantization
    assert found is not None
    assert (found.calibration, list(found.tried)) == ("minmax", ["minmax"])
    with pytest.raises(EngineError, match="NNCF does not calibrate by entropy"):
        build(with_calibration("ov-int8", "entropy"), context)


def test_what_calibrated_is_on_record(trained: Path, tmp_path: Path) -> None:
    source = RunSource(trained)
    fresh = BuildContext(source, source.canonical())
    build(find_recipe("ort-fp32"), fresh)
    assert fresh.used is None
    for count in (12, 20, 8):
        recipe = msgspec.structs.replace(
            with_calibration("ort-int8", "minmax"), calibration_images=count
        )
        build(recipe, fresh)
    assert fresh.used == source.calibration(20)[1]


# --- what stays in floating point -------------------------------------------------------------


@pytest.mark.parametrize("name", ["ort-int8", "ov-int8", "trt-int8-weak", "trt-int8-strong"])
def test_nodes_are_kept_in_floating_point(name: str, context: BuildContext, images: Pixels) -> None:
    """All convolutions but one in FP32 are nearer to FP32 than all in INT8, and differ."""
    recipe = with_calibration(name, "minmax")
    nodes = onnx.load_model_from_string(context.canonical).graph.node
    layers = [n.name for n in nodes if n.op_type == "Conv"]
    whole = build(recipe, context)
    mixed = build(recipe, context, frozenset(layers[:-1]))
    assert mixed.files.keys() == whole.files.keys()
    assert mixed.files != whole.files
    reference = context.source.reference(images)["logits"]
    found = [candidate_outputs(b, [images])[0][0]["logits"] for b in (whole, mixed)]
    apart = [np.abs(logits - reference).mean() for logits in found]
    assert apart[1] < apart[0]


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["ort-int8", "ov-int8"])
def test_a_variant_is_renamed_with_its_files(recipe: str, made: Callable[[str], Built]) -> None:
    built = made(recipe)
    other = renamed(built, "new", trained=True)
    assert other.recipe == built.recipe
    assert list(other.files.values()) == list(built.files.values())
    expected = [path.replace(f"models/{recipe}.", "models/new.") for path in built.files]
    assert list(other.files) == expected
    assert other.quantization is not None
    assert other.quantization.trained


def test_tensorrt_is_scored_by_onnx_runtime_and_others_by_themselves() -> None:
    def proxy(name: str) -> tuple[str, dict[str, str]]:
        found = backend_of(find_recipe(name)).proxy(find_recipe(name))
        return found.engine, found.session

    assert proxy("trt-fp16-strong") == ("onnxruntime", {})
    assert proxy("trt-int8-weak") == ("onnxruntime", {"qdq": "unfused"})
    assert proxy("ort-fp32") == ("onnxruntime", {})
    for name in ("ov-bf16", "ov-int8"):
        assert proxy(name) == ("openvino", find_recipe(name).session)
    for name in ("ov-gpu-fp16", "ov-npu-int8"):  # on the CPU, in FP32
        assert proxy(name) == ("openvino", {"INFERENCE_PRECISION_HINT": "f32"})


def test_a_reason_is_one_line() -> None:
    assert why(EngineError("It broke.", fix="mend it.")) == "It broke (mend it)"
    assert why(UsageError("It broke.")) == "It broke."
