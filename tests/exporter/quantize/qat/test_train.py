"""Weights that learn to be integers, and what becomes of their ranges."""

from __future__ import annotations

import re
from typing import get_args

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgetl.errors import TraceError
from edgetl.exporter.candidates import build, candidate_outputs
from edgetl.exporter.context import BuildContext
from edgetl.exporter.onnx.checks import NORMALIZED, check_onnx
from edgetl.exporter.onnx.passes import stored_constants
from edgetl.exporter.quantize.calibration import Rounding
from edgetl.exporter.quantize.qat import train as qat
from edgetl.exporter.quantize.qat.train import Trained, train_integers
from edgetl.recipes import find_recipe
from tests.exporter import small
from tests.helpers import divergence

pytestmark = pytest.mark.usefixtures("single")

MINMAX = ("minmax",)
ORT = msgspec.structs.replace(find_recipe("ort-int8"), calibration=MINMAX)


@pytest.fixture(autouse=True)
def _longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps are luck for a network with random weights, and long ones too much for it."""
    constants = {
        "LEAST_STEPS": 4,
        "PASSES": 12,
        "RATE": 5e-3,
        "BIAS_RATE": 1e-4,
        "TEMPERATURE": 1.0,
    }
    for name, value in constants.items():
        monkeypatch.setattr(qat, name, value)


def train(rounding: Rounding = "asymmetric", *, photos: int = 96) -> tuple[BuildContext, Trained]:
    made = small.context(photos=photos)
    return made, train_integers(made, rounding=rounding, progress=lambda _: None)


def figures(note: str) -> list[float]:
    return [float(text) for text in re.findall(r"\d\.\d{4}", note)]


# --- what is learnt ---------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", get_args(Rounding))
def test_it_comes_nearer_to_fp32(rounding: Rounding) -> None:
    _, trained = train(rounding)
    before, after = figures(trained.note)
    assert 0 < after < before
    assert trained.note.startswith("QAT: 36 steps brought the divergence from FP32 from ")
    assert trained.ranges


def test_the_file_is_nearer_too() -> None:
    """As ONNX Runtime computes it, on photos that neither trained nor calibrated."""
    made, trained = train()
    images = small.pictures(120, 30000)
    wanted = small.run(small.canonical(), images)
    other = made.with_trained(trained.canonical, trained.ranges)
    before, after = (
        divergence(wanted, candidate_outputs(build(ORT, m), [images])[0][0]["logits"])
        for m in (made, other)
    )
    assert after < before


def test_the_graph_stays() -> None:
    """Only weights and biases of layers change, and only a little."""
    _, trained = train("symmetric")
    check_onnx(trained.canonical)
    old, new = (onnx.load_model_from_string(m) for m in (small.canonical(), trained.canonical))
    assert list(new.graph.node) == list(old.graph.node)
    assert (new.graph.input, new.graph.output) == (old.graph.input, old.graph.output)
    layers = [n for n in old.graph.node if n.op_type in ("Conv", "Gemm")]
    weights, biases = ({n.input[i] for n in layers} for i in (1, 2))
    before, after = stored_constants(old.graph), stored_constants(new.graph)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert after[name].shape == array.shape
        assert after[name].dtype == array.dtype
        differ = np.abs(after[name].astype(np.float64) - array).max()
        most = 2 * np.abs(array).max() / 127 if name in weights else 0.2
        assert (0 < differ < most) if name in weights | biases else differ == 0, name


def test_weights_are_written_as_they_were_rounded() -> None:
    """So that a layer that stays in float, or a scale that differs a little, changes less."""
    _, trained = train("symmetric")
    stored = stored_constants(onnx.load_model_from_string(trained.canonical).graph)
    layers = [n for n in onnx.load_model_from_string(trained.canonical).graph.node if n.input[1:]]
    weights = [stored[n.input[1]] for n in layers if n.op_type in ("Conv", "Gemm")]
    for weight in weights:
        rows = weight.reshape(len(weight), -1).astype(np.float64)
        integers = 127 * rows / np.abs(rows).max(axis=1, keepdims=True)
        assert np.abs(integers - integers.round()).max() < 1e-3


def test_it_is_the_same_every_time() -> None:
    first = train()[1]
    second = train()[1]
    assert first == second


def test_photos_are_counted_and_steps_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(qat, "PASSES", 1.5)
    made = small.context(photos=250)
    train_integers(made, rounding="asymmetric", progress=said.append)
    assert made.used is None  # 250 photos train: that is no calibration
    assert [text.partition(",")[0] for text in said] == [
        "QAT: step 10 of 12",
        "QAT: step 12 of 12",
    ]


def test_few_photos_train_too() -> None:
    _, trained = train(photos=3)
    assert trained.note.startswith("QAT: 4 steps")


def silent() -> bytes:
    """The network with a classifier that answers the same to everything: no integer hurts it."""
    model = onnx.load_model_from_string(small.canonical())
    head = next(n for n in model.graph.node if n.op_type == "Gemm")
    for stored in model.graph.initializer:
        if stored.name == head.input[1]:
            zeros = np.zeros_like(numpy_helper.to_array(stored))
            stored.CopyFrom(numpy_helper.from_array(zeros, stored.name))
    return bytes(model.SerializeToString())


def test_nothing_gained_is_nothing_changed() -> None:
    made = small.context(model=silent())
    trained = train_integers(made, rounding="symmetric", progress=lambda _: None)
    assert trained.ranges == {}
    assert trained.canonical == made.canonical
    assert trained.note.endswith("from 0.0000 to 0.0000; the weights stay as they were")


def test_an_unknown_operator_is_named() -> None:
    model = onnx.load_model_from_string(small.canonical())
    last = model.graph.node[-1]
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Softplus", ["before"], ["logits"], "Softplus_1"))
    made = small.context(model=model.SerializeToString())
    with pytest.raises(TraceError, match="Softplus 'Softplus_1' is an operator, which training"):
        train_integers(made, rounding="symmetric", progress=lambda _: None)


# --- ranges become scales ---------------------------------------------------------------------


def scales(model: bytes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(scale, zero point) of every quantized activation, by tensor."""
    graph = onnx.load_model_from_string(model).graph
    stored = stored_constants(graph)
    return {
        n.input[0]: (stored[n.input[1]], stored[n.input[2]])
        for n in graph.node
        if n.op_type == "QuantizeLinear" and n.input[0] not in stored
    }


def own(made: Trained) -> set[str]:
    """Trained tensors, but for a Flatten's: it has the scale of what it flattens."""
    return {name for name in made.ranges if not name.startswith("Flatten")}


def built(
    recipe: str, made: BuildContext, trained: Trained
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    other = made.with_trained(trained.canonical, trained.ranges)
    done = build(find_recipe(recipe), other)
    assert done.quantization is not None
    assert done.quantization.calibration == "minmax"  # what it was trained with, whatever is named
    assert done.quantization.tried == {}
    return scales(next(iter(done.files.values())))


def test_ranges_are_the_scales_of_onnx_runtime() -> None:
    made, trained = train()
    found = built("ort-int8", made, trained)
    shared = found.keys() & own(trained) - {NORMALIZED}
    assert len(shared) >= 8
    for name in shared:
        low, high = trained.ranges[name]
        scale, zero = found[name]
        assert float(scale) == pytest.approx((high - low) / 255, rel=1e-5), name
        assert zero.dtype == np.uint8
        assert abs(int(zero) + low / float(scale)) <= 0.51, name


def test_ranges_are_the_scales_of_onnx_runtime_on_arm() -> None:
    made, trained = train("symmetric")
    found = built("ort-int8-arm", made, trained)
    shared = found.keys() & own(trained)
    assert NORMALIZED in shared
    assert len(shared) >= 9
    for name in shared:
        low, high = trained.ranges[name]
        scale, zero = found[name]
        assert float(scale) == pytest.approx(max(-low, high) / 127, rel=0.005), name
        assert (zero.dtype, int(zero)) == (np.int8, 0)


@pytest.mark.parametrize("recipe", ["trt-int8-weak", "trt-int8-strong"])
def test_ranges_are_the_scales_of_tensorrt(recipe: str) -> None:
    """max|x| / 127, rounded up to what FP16 holds."""
    made, trained = train("symmetric")
    found = built(recipe, made, trained)
    shared = found.keys() & trained.ranges.keys()
    assert len(shared) >= 8
    for name in shared:
        low, high = trained.ranges[name]
        exact = max(-low, high) / 127
        scale, zero = found[name]
        assert exact * (1 - 1e-6) <= float(scale) <= exact * (1 + 2**-9), name
        assert (zero.dtype, int(zero)) == (np.int8, 0)
