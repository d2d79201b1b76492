"""From the master ONNX to artifacts: what each recipe writes, and what scores it here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgetl.engines import find_engine
from edgetl.errors import EngineError, UsageError
from edgetl.exporter.build import MASTER, Built, build, candidate_logits, stand_in, why
from edgetl.exporter.check import check_fp16, check_onnx
from edgetl.exporter.photos import RunPhotos
from edgetl.exporter.reference import load_classifier, reference_logits
from edgetl.exporter.trace import trace
from edgetl.preprocess import Pixels
from edgetl.recipes import find_recipe
from edgetl.train.run import read_run


@pytest.fixture(scope="module")
def master(trained: Path) -> bytes:
    record = read_run(trained)
    return trace(load_classifier(trained, record), record.preprocess, record.normalize)


@pytest.fixture(scope="module")
def photos(trained: Path) -> RunPhotos:
    return RunPhotos(trained, read_run(trained))


@pytest.fixture(scope="module")
def images(photos: RunPhotos) -> Pixels:
    return photos.pixels(photos.of("validation"))


@pytest.fixture(scope="module")
def made(master: bytes, photos: RunPhotos) -> Callable[[str], Built]:
    kept: dict[str, Built] = {}

    def make(name: str) -> Built:
        if name not in kept:
            kept[name] = build(
                find_recipe(name), master, lambda n: photos.pixels(photos.calibration(n)[0])
            )
        return kept[name]

    return make


@pytest.mark.parametrize(
    ("recipe", "files"),
    [
        ("ort-fp32", [MASTER]),
        ("ov-fp32", [MASTER]),
        ("ov-bf16", [MASTER]),
        ("ort-int8", ["models/ort-int8.onnx"]),
        ("ort-int8-arm", ["models/ort-int8-arm.onnx"]),
        ("ov-int8", ["models/ov-int8.xml", "models/ov-int8.bin"]),
        ("trt-fp16-weak", [MASTER]),
        ("trt-fp16-strong", ["models/trt-fp16-strong.onnx"]),
    ],
)
def test_the_files_of_each_recipe(
    recipe: str, files: list[str], made: Callable[[str], Built], master: bytes
) -> None:
    built = made(recipe)
    assert list(built.files) == files
    for name, data in built.files.items():
        if name.endswith(".onnx"):
            check_onnx(data, max_opset=17)
    if MASTER in files:
        assert built.files[MASTER] == master
    if recipe == "trt-fp16-strong":
        check_fp16(built.files[files[0]])
    # what TensorRT's FP16 flag amounts to is rehearsed here, and not shipped
    assert (built.rehearsal is not None) == (recipe == "trt-fp16-weak")


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
    ],
)
def test_every_candidate_stays_close_to_the_reference(
    recipe: str,
    least: float,
    range_share: float,
    *,
    made: Callable[[str], Built],
    images: Pixels,
    trained: Path,
) -> None:
    built = made(recipe)
    reason = find_engine(stand_in(built.recipe)).missing(built.recipe.session)
    if reason is not None:
        pytest.skip(reason)
    record = read_run(trained)
    reference = reference_logits(load_classifier(trained, record), record, images)
    logits, used = candidate_logits(built, images)
    assert logits.dtype == np.float32
    assert logits.shape == reference.shape
    assert used.startswith(stand_in(built.recipe))
    assert (logits.argmax(axis=1) == reference.argmax(axis=1)).mean() >= least
    assert np.abs(logits - reference).max() <= range_share * np.ptp(reference)


def test_the_reference_is_the_network_that_was_validated(trained: Path, images: Pixels) -> None:
    record = read_run(trained)
    logits = reference_logits(load_classifier(trained, record), record, images)
    photos = RunPhotos(trained, record)
    right = logits.argmax(axis=1) == photos.truth(photos.of("validation"))
    assert record.validation is not None
    assert right.mean() == pytest.approx(record.validation.accuracy)


def test_quantized_files_differ_from_the_master(made: Callable[[str], Built]) -> None:
    model = onnx.load_model_from_string(made("ort-int8").files["models/ort-int8.onnx"])
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}


def test_tensorrt_is_scored_by_onnx_runtime_and_others_by_themselves() -> None:
    assert stand_in(find_recipe("trt-fp16-strong")) == "onnxruntime"
    assert stand_in(find_recipe("ort-fp32")) == "onnxruntime"
    assert stand_in(find_recipe("ov-int8")) == "openvino"


def test_a_reason_is_one_line() -> None:
    assert why(EngineError("It broke.", fix="mend it.")) == "It broke (mend it)"
    assert why(UsageError("It broke.")) == "It broke."
