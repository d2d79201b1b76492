"""The canonical ONNX as a PyTorch module whose tensors can be rounded to 8 bits while it runs."""

from __future__ import annotations

from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from edgetl.exporter.onnx.checks import INPUT, PREPROCESS, parse_onnx
from edgetl.exporter.quantize.calibration import Range, Rounding
from edgetl.exporter.quantize.qat.operators import OPERATORS, Tensor, attributes_of, check

# operators whose variable inputs are rounded
_ROUNDED = frozenset({"Conv", "Gemm", "Add", "Mul", "GlobalAveragePool", "AveragePool", "Concat"})
_WEIGHTED = frozenset({"Conv", "Gemm"})


class OnnxModule(nn.Module):
    """Runs the canonical ONNX on uint8 `(N, H, W, 3)`; returns its outputs, float32 `(N, …)`.

    With ranges observed, what integer operators read is rounded to 8 bits over its range, and
    weights per output channel; before that it computes as the file does. What is trained of a
    weight is its multiple of the rounding step that its channel starts with, so that a rate means
    the same for all of them. Raises TraceError for an operator that it does not know.
    """

    def __init__(self, canonical: bytes, rounding: Rounding | None = None) -> None:
        """`rounding` None never rounds."""
        super().__init__()
        graph = parse_onnx(canonical).graph
        self.nodes = list(graph.node)
        self.outputs = [output.name for output in graph.output]
        self.attributes = [attributes_of(node) for node in self.nodes]
        for node, attributes in zip(self.nodes, self.attributes, strict=True):
            check(node, attributes)
        self.rounding = rounding
        self.observe = False
        self.ranges: dict[str, Range] = {}
        self.spreads: dict[str, float] = {}  # deviation of a layer's outputs by its bias, observed
        self.constants: dict[str, Tensor] = {}
        self._steps: dict[str, Tensor] = {}
        self.trained = self._store(graph)
        layers = [i for i, node in enumerate(self.nodes) if node.op_type in _WEIGHTED]
        self._head = layers[-1] if layers else -1
        self._last = {name: i for i, node in enumerate(self.nodes) for name in node.input}

    def _store(self, graph: onnx.GraphProto) -> dict[str, str]:
        """Keep constants; weights and biases become parameters. Returns their names by tensor."""
        names: dict[str, str] = {}
        layers = [node for node in self.nodes if node.op_type in _WEIGHTED]
        weights = {name for node in layers for name in node.input[1:]}
        readers = {node.input[1]: node for node in layers}
        for stored in graph.initializer:
            tensor = torch.from_numpy(numpy_helper.to_array(stored).copy())
            if stored.name not in weights:
                self.constants[stored.name] = tensor
                continue
            if tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            names[stored.name] = f"parameter_{len(names)}"
            learns = self.rounding is not None
            if learns and stored.name in readers:
                self._steps[stored.name] = _step(readers[stored.name], tensor)
                tensor = tensor / self._steps[stored.name]
            self.register_parameter(names[stored.name], nn.Parameter(tensor, requires_grad=learns))
        return names

    def weight(self, name: str) -> Tensor:
        """A weight or bias, not rounded, by the name of its tensor."""
        found: Tensor = getattr(self, self.trained[name])
        return found * self._steps[name] if name in self._steps else found

    def learned(self) -> dict[str, Tensor]:
        """Weights, rounded as they run once activations have ranges, and biases, by tensor."""
        found = {name: self.weight(name) for name in self.trained}
        for node in self.nodes:
            if node.op_type in _WEIGHTED and node.input[1] in found:
                found[node.input[1]] = self._weight(node, self.weight(node.input[1]))
        return found

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs alone."""
        return self.answer(images)[0]

    def answer(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """The outputs, and the features that the last layer reads, unrounded.

        Inner tensors go as soon as nothing reads them.
        """
        values: dict[str, Tensor] = {INPUT: images}
        rounded: dict[str, Tensor] = {}
        features: Tensor | None = None
        for index, node in enumerate(self.nodes):
            if index == self._head:
                features = values[node.input[0]].float()
            inputs = [self._input(node, i, n, values, rounded) for i, n in enumerate(node.input)]
            result = OPERATORS[node.op_type](inputs, self.attributes[index])
            if self.observe and node.op_type in _WEIGHTED and node.input[2:]:
                self.spreads[node.input[2]] = float(result.std())
            outputs = result if isinstance(result, (list, tuple)) else [result]
            values |= zip(node.output, outputs, strict=True)
            for name in node.input:
                if self._last.get(name) == index and name not in self.outputs:
                    values.pop(name, None)
                    rounded.pop(name, None)
        return {name: values[name].float() for name in self.outputs}, features

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
        float_only = node.op_type not in _ROUNDED or node.name.startswith(PREPROCESS)
        if self.rounding is None or float_only:
            return values[name]
        if name not in rounded:
            rounded[name] = self._activation(name, values[name])
        return rounded[name]

    def _weight(self, node: onnx.NodeProto, tensor: Tensor) -> Tensor:
        """The weight, rounded per output channel once activations have ranges."""
        if self.rounding is None or not self.ranges:
            return tensor
        result: Tensor = _Round.apply(tensor, _step(node, tensor.detach()), -127, 127)
        return result

    def _activation(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor, rounded over its range; while observing, its range grows instead."""
        low, high = self.ranges.get(name, (0.0, 0.0))
        if self.observe:
            self.ranges[name] = min(low, float(tensor.min())), max(high, float(tensor.max()))
            return tensor
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


def _step(node: onnx.NodeProto, weight: Tensor) -> Tensor:
    """What a weight is rounded to multiples of, per output channel."""
    axis = 0 if node.op_type == "Conv" or attributes_of(node).get("transB") else 1
    others = [a for a in range(weight.ndim) if a != axis]
    return weight.abs().amax(others, keepdim=True).clamp_min(1e-12) / 127


class _Round(torch.autograd.Function):
    """Round to multiples of `scale` in `least`…`most`; the gradient passes straight through."""

    @staticmethod
    def forward(_: Any, tensor: Tensor, scale: Tensor | float, least: int, most: int) -> Tensor:
        """In the tensor's own type: bfloat16 holds every integer up to 256."""
        return (tensor / scale).round_().clamp_(least, most).mul_(scale)

    @staticmethod
    def backward(_: Any, *gradients: Any) -> Any:
        """Only the tensor has a gradient."""
        return gradients[0], None, None, None
