"""The master ONNX as a PyTorch module whose tensors can be rounded to 8 bits while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional

from edgetl.errors import TraceError
from edgetl.exporter.check import FLOAT, INPUT, OUTPUT, PREPROCESS, label, parse_onnx
from edgetl.exporter.ranges import Range, Rounding

Tensor = torch.Tensor
Attributes = dict[str, Any]

# operators whose variable inputs are rounded
_ROUNDED = frozenset({"Conv", "Gemm", "Add", "Mul", "GlobalAveragePool", "AveragePool", "Concat"})
_WEIGHTED = frozenset({"Conv", "Gemm"})
_RESULTS = "number of outputs"  # among the attributes; no attribute of ONNX has blanks
_UNPADDED = {"auto_pad": (b"NOTSET",)}
_PLAIN = {  # what some attributes must be, the default first
    "AveragePool": _UNPADDED,
    "Cast": {"to": (FLOAT,)},
    "Conv": _UNPADDED,
    "Gemm": {"alpha": (1.0,), "beta": (1.0,), "transA": (0,)},
    "MaxPool": _UNPADDED,
}


class Graph(nn.Module):
    """Runs the master on uint8 `(N, size, size, 3)`; returns float32 logits `(N, classes)`.

    With ranges observed, what integer operators read is rounded to 8 bits over its range, and
    weights per output channel; before that it computes as the file does. Raises TraceError for an
    operator that it does not know.
    """

    def __init__(self, master: bytes, rounding: Rounding | None = None) -> None:
        """`rounding` None never rounds."""
        super().__init__()
        graph = parse_onnx(master).graph
        self.nodes = list(graph.node)
        self.attributes = [_attributes(node) for node in self.nodes]
        for node, attributes in zip(self.nodes, self.attributes, strict=True):
            _check(node, attributes)
        self.rounding = rounding
        self.observe = False
        self.ranges: dict[str, Range] = {}
        self.constants: dict[str, Tensor] = {}
        self.trained = self._store(graph)
        layers = [i for i, node in enumerate(self.nodes) if node.op_type in _WEIGHTED]
        self._head = layers[-1] if layers else -1
        self._last = {name: i for i, node in enumerate(self.nodes) for name in node.input}

    def _store(self, graph: onnx.GraphProto) -> dict[str, str]:
        """Keep constants; weights and biases become parameters. Returns their names by tensor."""
        names: dict[str, str] = {}
        weights = {
            name for node in self.nodes if node.op_type in _WEIGHTED for name in node.input[1:]
        }
        for stored in graph.initializer:
            tensor = torch.from_numpy(numpy_helper.to_array(stored).copy())
            if stored.name not in weights:
                self.constants[stored.name] = tensor
                continue
            if tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            names[stored.name] = f"parameter_{len(names)}"
            learns = self.rounding is not None
            self.register_parameter(names[stored.name], nn.Parameter(tensor, requires_grad=learns))
        return names

    def weight(self, name: str) -> Tensor:
        """A parameter by the name of its tensor."""
        found: Tensor = getattr(self, self.trained[name])
        return found

    def learned(self) -> dict[str, Tensor]:
        """Weights, rounded as they run once activations have ranges, and biases, by tensor."""
        found = {name: self.weight(name) for name in self.trained}
        for node in self.nodes:
            if node.op_type in _WEIGHTED and node.input[1] in found:
                found[node.input[1]] = self._weight(node, self.weight(node.input[1]))
        return found

    def forget(self) -> None:
        """Drop the ranges, so that the next images are observed afresh, with rounded weights."""
        self.ranges.clear()

    def forward(self, images: Tensor) -> Tensor:
        """Logits alone."""
        return self.answer(images)[0]

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the features that the last layer reads, unrounded.

        Inner tensors go as soon as nothing reads them.
        """
        values: dict[str, Tensor] = {INPUT: images}
        rounded: dict[str, Tensor] = {}
        features: Tensor | None = None
        for index, node in enumerate(self.nodes):
            if index == self._head:
                features = values[node.input[0]].float()
            inputs = [self._input(node, i, n, values, rounded) for i, n in enumerate(node.input)]
            result = _OPERATORS[node.op_type](inputs, self.attributes[index])
            outputs = result if isinstance(result, (list, tuple)) else [result]
            values |= zip(node.output, outputs, strict=True)
            for name in node.input:
                if self._last.get(name) == index:
                    values.pop(name, None)
                    rounded.pop(name, None)
        logits = values[OUTPUT].float()
        return logits, logits if features is None else features

    def _input(
        self,
        node: onnx.NodeProto,
        index: int,
        name: str,
        values: dict[str, Tensor],
        rounded: dict[str, Tensor],
    ) -> Tensor | None:
        if not name:
            return None
        if name in self.constants:
            return self.constants[name]
        if name in self.trained:
            tensor = self.weight(name)
            return self._weight(node, tensor) if index == 1 else tensor
        if self.rounding is None or node.op_type not in _ROUNDED:
            return values[name]
        if node.name.startswith(PREPROCESS):
            return values[name]
        if name not in rounded:
            rounded[name] = self._activation(name, values[name])
        return rounded[name]

    def _weight(self, node: onnx.NodeProto, tensor: Tensor) -> Tensor:
        """The weight, rounded per output channel once activations have ranges."""
        if self.rounding is None or not self.ranges:
            return tensor
        axis = 0 if node.op_type == "Conv" or _attributes(node).get("transB") else 1
        others = [a for a in range(tensor.ndim) if a != axis]
        scale = tensor.detach().abs().amax(others, keepdim=True).clamp_min(1e-12) / 127
        result: Tensor = _Round.apply(tensor, scale, -127, 127)
        return result

    def _activation(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor, rounded over its range; while observing, its range grows instead."""
        if self.observe:
            low, high = self.ranges.get(name, (0.0, 0.0))
            self.ranges[name] = min(low, float(tensor.min())), max(high, float(tensor.max()))
            return tensor
        low, high = self.ranges.get(name, (0.0, 0.0))
        if high - low <= 0:
            return tensor
        if self.rounding == "symmetric" or (self.rounding == "signed" and low < 0):
            scale, least, most = max(-low, high) / 127, -127, 127
        else:
            scale = (high - low) / 255
            zero = round(-low / scale)
            least, most = -zero, 255 - zero
        result: Tensor = _Round.apply(tensor, scale, least, most)
        return result


class _Round(torch.autograd.Function):
    """Round to multiples of `scale` in `least`…`most`; the gradient passes straight through."""

    @staticmethod
    def forward(_: Any, tensor: Tensor, scale: Any, least: int, most: int) -> Tensor:
        """In the tensor's own type: bfloat16 holds every integer up to 256."""
        result: Tensor = (tensor / scale).round_().clamp_(least, most).mul_(scale)
        return result

    @staticmethod
    def backward(_: Any, *gradients: Any) -> Any:
        """Only the tensor has a gradient."""
        return gradients[0], None, None, None


def _attributes(node: onnx.NodeProto) -> Attributes:
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return found | {_RESULTS: len(node.output)}


def _check(node: onnx.NodeProto, attributes: Attributes) -> None:
    """TraceError for an operator, or an attribute of it, that is not known here."""
    unknown = "an operator" if node.op_type not in _OPERATORS else ""
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


def _reshape(inputs: list[Any], _: Attributes) -> Tensor:
    tensor, shape = inputs
    wanted = [tensor.shape[i] if d == 0 else int(d) for i, d in enumerate(shape.tolist())]
    result: Tensor = tensor.reshape(wanted)
    return result


def _split(inputs: list[Any], attributes: Attributes) -> Any:
    axis = attributes.get("axis", 0)
    if len(inputs) > 1:
        return torch.split(inputs[0], inputs[1].tolist(), axis)
    return torch.chunk(inputs[0], attributes[_RESULTS], axis)


def _flatten(inputs: list[Any], attributes: Attributes) -> Tensor:
    axis, tensor = attributes.get("axis", 1), inputs[0]
    result: Tensor = tensor.reshape(tensor.shape[:axis].numel(), -1)
    return result


_OPERATORS: dict[str, Callable[[list[Any], Attributes], Any]] = {
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
