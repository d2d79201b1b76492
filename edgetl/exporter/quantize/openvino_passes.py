"""Rewrites of an OpenVINO model to what its plugins run fastest.

All of them change the model that they are given; its outputs stay equal but for
rounding, and for pixels that calibration photos did not reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl.exporter.onnx.checks import PREPROCESS

Array = npt.NDArray[Any]

_IN, _OUT = (1, 2), (3, 4)  # inputs of FakeQuantize: the range it takes, the range it gives
_NEVER_NEGATIVE = ("Relu", "Clamp")


def fusible_gates(model: Any) -> None:
    """Make HardSigmoid, where it is MobileNetV3's, the operator that OpenVINO fuses into layers.

    clip(x / 6 + 1/2, 0, 1) is HSigmoid(x); HardSigmoid itself runs in a reference kernel.
    """
    from openvino import opset13

    for op in _of_type(model, "HardSigmoid"):
        alpha, beta = (float(op.input_value(i).get_node().data) for i in (1, 2))
        if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
            gate = opset13.hsigmoid(op.input_value(0), name=f"{op.get_friendly_name()}/hsigmoid")
            for reader in op.output(0).get_target_inputs():
                reader.replace_source_output(gate.output(0))


def exact_pixels(model: Any, centre: int) -> None:
    """Let the first quantization be the pixels themselves: 0…255 less the centre, in steps of 1.

    Calibration photos need not reach black and white, and white would be cut off.
    """
    for quantizer in _of_type(model, "FakeQuantize"):
        if quantizer.input_value(0).get_node().get_friendly_name() == f"{PREPROCESS}subtract":
            for ends in (_IN, _OUT):
                _set_range(quantizer, ends, np.array(-centre), np.array(255 - centre))
        return


def unsigned_activations(model: Any) -> None:
    """Start the range of what comes from a ReLU at 0 in every channel, unless it is joined.

    NNCF gives a channel that was always 0 a range around 0. Its zero point costs the depthwise
    convolution behind it the fastest kernel.
    """
    for quantizer in _of_type(model, "FakeQuantize"):
        before = quantizer.input_value(0).get_node()
        kind = before.get_type_name()
        if "Concat" in {reader.get_type_name() for reader in _readers(quantizer)}:
            continue  # NNCF gave all its parts one range, so that it runs in INT8
        if kind in _NEVER_NEGATIVE and (kind == "Relu" or before.get_attributes()["min"] >= 0):
            for ends in (_IN, _OUT):
                low, high = _range(quantizer, ends)
                if (low < 0).any():
                    _set_range(quantizer, ends, np.maximum(low, 0), high)


def zero_points_into_biases(model: Any) -> None:
    """Let quantized tensors that only pointwise convolutions and sums read start at 0.

    A FakeQuantize can give other values than it takes: `x - low` for `x`. A convolution without
    padding makes that good in its bias, a sum in the range that the FakeQuantize behind it takes.
    The integers stay as they were, but their zero point is 0, for which kernels need no
    compensation.
    """
    for quantizer in [q for q in _of_type(model, "FakeQuantize") if _movable(q)]:
        low, high = _range(quantizer, _OUT)
        _set_range(quantizer, _OUT, np.zeros_like(low), high - low)
        for reader in _readers(quantizer):
            if reader.get_type_name() == "Convolution":
                weight = _stored(reader.input_value(1))
                assert weight is not None  # it was asked before
                _add_behind(reader, low * weight.sum(axis=(1, 2, 3)))
                continue
            for behind in _readers(reader):
                taken = _range(behind, _IN)
                _set_range(behind, _IN, taken[0] - low, taken[1] - low)


def _movable(quantizer: Any) -> bool:
    """Whether all that reads a signed tensor can make a shift good."""
    if any(_stored(quantizer.input_value(i)) is None for i in (*_IN, *_OUT)):
        return False
    low, high = _range(quantizer, _OUT)
    if low.size != 1 or high.size != 1 or low >= 0:
        return False
    return all(_pointwise(reader) or _requantized(reader) for reader in _readers(quantizer))


def _pointwise(node: Any) -> bool:
    """Whether it is a 1x1 convolution without padding whose weights are stored."""
    if node.get_type_name() != "Convolution":
        return False
    weight, attributes = _stored(node.input_value(1)), node.get_attributes()
    padded = any(attributes["pads_begin"]) or any(attributes["pads_end"])
    return weight is not None and weight.shape[2:] == (1, 1) and not padded


def _requantized(node: Any) -> bool:
    """Whether it is a sum that is read through FakeQuantize alone."""
    kinds = {reader.get_type_name() for reader in _readers(node)}
    return bool(node.get_type_name() == "Add" and kinds == {"FakeQuantize"})


def _add_behind(node: Any, shift: Array) -> None:
    """Add a number per channel to what a convolution gives, in its bias if it has one."""
    from openvino import opset13

    added = shift.astype(np.float32).reshape(1, -1, 1, 1)
    readers = list(node.output(0).get_target_inputs())
    if len(readers) == 1 and readers[0].get_node().get_type_name() == "Add":
        index = 1 - readers[0].get_index()
        bias = _stored(readers[0].get_node().input_value(index))
        if bias is not None:
            both = opset13.constant((bias + added).astype(np.float32))
            readers[0].get_node().input(index).replace_source_output(both.output(0))
            return
    total = opset13.add(node.output(0), opset13.constant(added))
    for reader in readers:
        reader.replace_source_output(total.output(0))


def _stored(port: Any) -> Array | None:
    """The value of a constant, or of weights stored as integers; None for anything else."""
    node = port.get_node()
    kind = node.get_type_name()
    if kind == "Constant":
        return np.asarray(node.data, np.float64)
    if kind not in ("Convert", "Multiply", "Subtract"):
        return None
    parts = [_stored(node.input_value(i)) for i in range(node.get_input_size())]
    first, second = (*parts, np.array(1.0))[:2]
    if first is None or second is None:
        return None
    return first - second if kind == "Subtract" else first * second


def _range(quantizer: Any, ends: tuple[int, int]) -> tuple[Array, Array]:
    low, high = (quantizer.input_value(i).get_node().data for i in ends)
    return np.asarray(low, np.float64), np.asarray(high, np.float64)


def _set_range(quantizer: Any, ends: tuple[int, int], low: Array, high: Array) -> None:
    from openvino import opset13

    for index, value in zip(ends, (low, high), strict=True):
        constant = opset13.constant(np.asarray(value, np.float32))
        quantizer.input(index).replace_source_output(constant.output(0))


def _of_type(model: Any, kind: str) -> Iterator[Any]:
    """Operators of a type, the first to run first."""
    return (op for op in model.get_ordered_ops() if op.get_type_name() == kind)


def _readers(node: Any) -> list[Any]:
    return [port.get_node() for port in node.output(0).get_target_inputs()]
