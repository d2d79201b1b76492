"""Rewritten OpenVINO models compute what they did, in forms that run faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import openvino
import pytest
from openvino import opset13

from edgetl.exporter.quantize.nncf import nncf_int8
from edgetl.exporter.quantize.openvino_passes import unsigned_activations, zero_points_into_biases
from edgetl.recipes import find_recipe

Pictures = Callable[..., np.ndarray]

pytestmark = pytest.mark.usefixtures("temporary")


def ranges(model: Any, ends: tuple[int, int]) -> dict[str, tuple[float, float]]:
    """Lowest and highest end of every FakeQuantize."""
    return {
        op.get_friendly_name(): (
            float(op.input_value(ends[0]).get_node().data.min()),
            float(op.input_value(ends[1]).get_node().data.max()),
        )
        for op in model.get_ordered_ops()
        if op.get_type_name() == "FakeQuantize"
    }


def pointwise_lows(model: Any) -> list[float]:
    """Where the range of what each 1x1 convolution reads begins."""
    return [
        float(op.input_value(0).get_node().input_value(3).get_node().data.min())
        for op in model.get_ordered_ops()
        if op.get_type_name() == "Convolution"
        and list(op.input(1).get_partial_shape().to_shape())[2:] == [1, 1]
    ]


def run(model: Any, images: np.ndarray) -> np.ndarray:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(images)[0])


@pytest.fixture
def quantized(blocks_canonical: bytes, pictures: Pictures, request: pytest.FixtureRequest) -> Any:
    """INT8 as NNCF leaves it: for another device than the CPU nothing is moved."""
    recipe = find_recipe("ov-int8")
    elsewhere = msgspec.structs.replace(
        recipe, session=recipe.session | {"DEVICE": "GPU"}, preset=request.param
    )
    return openvino.Core().read_model(*nncf_int8(blocks_canonical, pictures(16), elsewhere))


# --- zero points --------------------------------------------------------------------------------


@pytest.mark.parametrize("quantized", ["mixed", "performance"], indirect=True)
def test_zero_points_go_into_biases(quantized: Any, pictures: Pictures) -> None:
    images = pictures(24, seed=1)
    wanted = run(quantized, images)
    before, given = ranges(quantized, (1, 2)), ranges(quantized, (3, 4))
    signed = sum(low < 0 for low in pointwise_lows(quantized))
    assert signed >= 2
    zero_points_into_biases(quantized)
    assert pointwise_lows(quantized).count(0.0) >= signed
    assert not any(low < 0 for low in pointwise_lows(quantized))
    found = run(quantized, images)
    # the same integers but for ties: far below a step of INT8
    assert float(np.abs(found - wanted).max()) < 0.02 * float(np.ptp(wanted))
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.9
    for name, (low, high) in ranges(quantized, (3, 4)).items():  # as wide as they were
        assert high - low == pytest.approx(given[name][1] - given[name][0], rel=1e-5)
    for name, (low, high) in ranges(quantized, (1, 2)).items():
        assert high - low == pytest.approx(before[name][1] - before[name][0], rel=1e-5)
    once = ranges(quantized, (3, 4))
    zero_points_into_biases(quantized)
    assert ranges(quantized, (3, 4)) == once


def quantize(value: Any, low: float, high: float) -> Any:
    ends = [opset13.constant(np.array(end, np.float32)) for end in (low, high, low, high)]
    return opset13.fake_quantize(value, *ends, 256)


def convolution(value: Any, size: int, pad: int) -> Any:
    weight = np.random.default_rng(0).normal(size=(4, 3, size, size)).astype(np.float32)
    ends = [pad, pad]
    return opset13.convolution(value, opset13.constant(weight), [1, 1], ends, ends, [1, 1])


def model_of(build: Callable[[Any], Any]) -> Any:
    given = opset13.parameter([1, 3, 8, 8], np.float32)
    return openvino.Model([opset13.result(build(given))], [given])


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("pad", [0, 1])
def test_only_pointwise_convolutions_without_padding(size: int, pad: int) -> None:
    """Behind a border, zero would no longer be zero."""
    model = model_of(lambda x: convolution(quantize(x, -2, 3), size, pad))
    images = np.random.default_rng(1).uniform(-2, 3, (1, 3, 8, 8)).astype(np.float32)
    wanted = run(model, images)
    zero_points_into_biases(model)
    moved = (size, pad) == (1, 0)
    assert list(ranges(model, (3, 4)).values()) == [(0, 5) if moved else (-2, 3)]
    assert np.abs(run(model, images) - wanted).max() < 1e-4 * np.ptp(wanted)


def test_a_sum_is_made_good_behind_it() -> None:
    """Both branches are shifted, also when one tensor is both."""

    def build(x: Any) -> Any:
        first, second = quantize(x, -2, 3), quantize(opset13.abs(x), -1, 3)
        total = quantize(opset13.add(first, second), -3, 6)
        twice = quantize(opset13.add(total, total), -6, 12)
        return convolution(twice, 1, 0)

    model = model_of(build)
    images = np.random.default_rng(1).uniform(-2, 3, (1, 3, 8, 8)).astype(np.float32)
    wanted = run(model, images)
    zero_points_into_biases(model)
    assert {low for low, _ in ranges(model, (3, 4)).values()} == {0.0}
    assert sorted(low for low, _ in ranges(model, (1, 2)).values()) == [-2, -1, 0, 0]
    assert np.abs(run(model, images) - wanted).max() < 0.02 * np.ptp(wanted)


def test_what_leaves_the_network_is_not_shifted() -> None:
    model = model_of(lambda x: quantize(x, -2, 3))
    zero_points_into_biases(model)
    assert list(ranges(model, (3, 4)).values()) == [(-2, 3)]


# --- channels that were always 0 ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "unsigned"),
    [
        (opset13.relu, True),
        (lambda x: opset13.clamp(x, 0.0, 6.0), True),
        (lambda x: opset13.clamp(x, -1.0, 1.0), False),
        (opset13.tanh, False),
    ],
)
def test_a_dead_channel_gets_no_zero_point(make: Callable[[Any], Any], unsigned: bool) -> None:
    low, high = (
        opset13.constant(np.array(ends, np.float32).reshape(1, 3, 1, 1))
        for ends in ([0, -0.0008, 0], [6, 0.0008, 2])
    )
    model = model_of(lambda x: opset13.fake_quantize(make(x), low, high, low, high, 256))
    images = np.random.default_rng(1).uniform(-2, 7, (1, 3, 8, 8)).astype(np.float32)
    images[:, 1] = -1  # as calibration saw it
    wanted = run(model, images)
    unsigned_activations(model)
    for ends in ((1, 2), (3, 4)):
        (found,) = ranges(model, ends).values()
        assert found == (0.0 if unsigned else pytest.approx(-0.0008), 6.0)
    np.testing.assert_allclose(run(model, images), wanted, atol=1e-5)  # its 0 was not quite 0
