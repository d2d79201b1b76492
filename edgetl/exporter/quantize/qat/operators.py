"""ONNX operators in PyTorch, as far as training for integers knows them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import helper
from torch.nn import functional

from edgetl.errors import TraceError
from edgetl.exporter.onnx.checks import FLOAT, label

Tensor = torch.Tensor
Attributes = dict[str, Any]

_RESULTS = "number of outputs"  # among the attributes; no attribute of ONNX has blanks
_UNPADDED = {"auto_pad": (b"NOTSET",)}
_PLAIN = {  # what some attributes must be, the default first
    "AveragePool": _UNPADDED,
    "Cast": {"to": (FLOAT,)},
    "Conv": _UNPADDED,
    "Gemm": {"alpha": (1.0,), "beta": (1.0,), "transA": (0,)},
    "MaxPool": _UNPADDED,
}


def attributes_of(node: onnx.NodeProto) -> Attributes:
    """A node's attributes, and how many outputs it has."""
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return found | {_RESULTS: len(node.output)}


def check(node: onnx.NodeProto, attributes: Attributes) -> None:
    """TraceError for an operator, or an attribute of it, that is not known here."""
    unknown = "an operator" if node.op_type not in OPERATORS else ""
    for name, plain in _PLAIN.get(node.op_type, {}).items():
        if attributes.get(name, plain[0]) not in plain:
            unknown = f"of {name} {attributes[name]!r}"
    pads = attributes.get("pads", [])
    if node.op_type == "AveragePool" and pads[:2] != pads[2:]:
        unknown = f"of pads {pads}"
    if unknown:
        raise TraceError(
            f"{label(node)} is {unknown}, which training for integers does not know.",
            fix="export with --qat never.",
        )


# --- operators, by ONNX's names -----------------------------------------------------------------


def _pads(attributes: Attributes, tensor: Tensor, value: float = 0.0) -> Tensor:
    """Pad height and width as ONNX's `pads` say."""
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if not any((top, left, bottom, right)):
        return tensor
    return functional.pad(tensor, (left, right, top, bottom), value=value)


def _conv(inputs: list[Any], attributes: Attributes) -> Tensor:
    tensor, weight, *bias = inputs
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    even = (top, left) == (bottom, right)
    return functional.conv2d(
        tensor if even else _pads(attributes, tensor),
        weight,
        bias[0] if bias else None,
        attributes.get("strides", [1, 1]),
        [top, left] if even else 0,
        attributes.get("dilations", [1, 1]),
        attributes.get("group", 1),
    )


def _gemm(inputs: list[Any], attributes: Attributes) -> Tensor:
    tensor, weight, *bias = inputs
    weight = weight if attributes.get("transB") else weight.T
    return functional.linear(tensor, weight, bias[0] if bias else None)


def _clip(inputs: list[Any], _: Attributes) -> Tensor:
    low, high = (*inputs[1:], None, None)[:2]
    ends = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    result: Tensor = functional.hardtanh(inputs[0], *ends)  # as clamp, whose gradient is slow
    return result


def _hard_sigmoid(inputs: list[Any], attributes: Attributes) -> Tensor:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    result: Tensor = (inputs[0] * alpha + beta).clamp(0, 1)
    return result


def _max_pool(inputs: list[Any], attributes: Attributes) -> Tensor:
    padded = _pads(attributes, inputs[0], float("-inf"))
    return functional.max_pool2d(
        padded,
        attributes["kernel_shape"],
        attributes.get("strides", [1, 1]),
        0,
        attributes.get("dilations", [1, 1]),
        bool(attributes.get("ceil_mode", 0)),
    )


def _average_pool(inputs: list[Any], attributes: Attributes) -> Tensor:
    pads = attributes.get("pads", [0, 0, 0, 0])
    return functional.avg_pool2d(
        inputs[0],
        attributes["kernel_shape"],
        attributes.get("strides", [1, 1]),
        pads[:2],
        bool(attributes.get("ceil_mode", 0)),
        bool(attributes.get("count_include_pad", 0)),
    )


def _batch_norm(inputs: list[Any], attributes: Attributes) -> Tensor:
    tensor, scale, shift, mean, variance = inputs
    epsilon = attributes.get("epsilon", 1e-5)
    return functional.batch_norm(tensor, mean, variance, scale, shift, eps=epsilon)


def _reshape(inputs: list[Tensor], _: Attributes) -> Tensor:
    tensor, shape = inputs
    wanted = [tensor.shape[i] if d == 0 else int(d) for i, d in enumerate(shape.tolist())]
    return tensor.reshape(wanted)


def _split(inputs: list[Any], attributes: Attributes) -> Any:
    axis = attributes.get("axis", 0)
    if len(inputs) > 1:
        return torch.split(inputs[0], inputs[1].tolist(), axis)
    return torch.chunk(inputs[0], attributes[_RESULTS], axis)


def _flatten(inputs: list[Tensor], attributes: Attributes) -> Tensor:
    axis, tensor = attributes.get("axis", 1), inputs[0]
    return tensor.reshape(tensor.shape[:axis].numel(), -1)


OPERATORS: dict[str, Callable[[list[Any], Attributes], Any]] = {
    "Add": lambda x, _: x[0] + x[1],
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": lambda x, _: x[0].float(),
    "Clip": _clip,
    "Concat": lambda x, a: torch.cat(x, a["axis"]),
    "Conv": _conv,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x, _: x[0].mean((2, 3), keepdim=True),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda x, _: functional.hardswish(x[0]),
    "MaxPool": _max_pool,
    "Mul": lambda x, _: x[0] * x[1],
    "Relu": lambda x, _: functional.relu(x[0]),
    "Reshape": _reshape,
    "Sigmoid": lambda x, _: torch.sigmoid(x[0]),
    "Split": _split,
    "Sub": lambda x, _: x[0] - x[1],
    "Transpose": lambda x, a: x[0].permute(a["perm"]),
}
