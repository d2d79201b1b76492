"""Q/DQ pairs of an ONNX file: what TensorRT's rules ask of each, and the graph without them."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import onnx
from onnx import numpy_helper

from edgetl.errors import TraceError
from edgetl.exporter.onnx.checks import INPUT, NORMALIZED, PREPROCESS, Wires, label
from edgetl.exporter.onnx.passes import Array, attribute

_AGAIN = "export again with edgetl; if that does not help, report the model's architecture."


def broken(node: onnx.NodeProto, rule: str) -> NoReturn:
    """Raise the TraceError of a broken rule."""
    raise TraceError(f"{label(node)} breaks a rule of TensorRT: {rule}.", fix=_AGAIN)


class QuantizedGraph:
    """A file with its Q/DQ pairs looked through: `nodes` are all others."""

    def __init__(self, proto: onnx.ModelProto, kind: int) -> None:
        self.wires = Wires(proto.graph)
        self.kind = kind
        self.nodes: list[onnx.NodeProto] = []
        self.pairs: dict[str, onnx.NodeProto] = {}  # the Q behind what each DQ makes
        quantized: set[str] = set()
        for node in proto.graph.node:
            if node.op_type == "QuantizeLinear":
                if node.input[0] in quantized:
                    broken(node, "a tensor has one Q/DQ pair, which its readers share")
                quantized.add(node.input[0])
                self._check_quantize(node)
            elif node.op_type == "DequantizeLinear":
                self._check_dequantize(node)
            else:
                self.nodes.append(node)

    def _check_quantize(self, node: onnx.NodeProto) -> None:
        """Types and constants of a Q, and that only a DQ reads it."""
        scale = self.parameters(node)
        source = self.wires.maker.get(node.input[0])
        early = source is not None and source.name.startswith(PREPROCESS)
        if (early and node.input[0] != NORMALIZED) or node.input[0] == INPUT:
            broken(node, "preprocessing is never quantized")
        if node.input[0] not in self.wires.constants and scale.size != 1:
            broken(node, "activations have one scale")
        others = [n for n in self.wires.readers(node.output[0]) if n.op_type != "DequantizeLinear"]
        if others or node.output[0] in self.wires.outputs:
            broken(node, "only a DequantizeLinear reads what a QuantizeLinear makes")

    def _check_dequantize(self, node: onnx.NodeProto) -> None:
        """That a DQ undoes a Q."""
        first = self.wires.maker.get(node.input[0])
        if first is None or first.op_type != "QuantizeLinear":
            broken(node, "weights are floats behind a QuantizeLinear, since TensorRT 8 needs that")
        same = np.array_equal(self.parameters(first), self.parameters(node))
        if not same or attribute(first, "axis", 1) != attribute(node, "axis", 1):
            broken(node, "both halves of a pair have the same scale and axis")
        if node.output[0] in self.wires.outputs:
            broken(node, "outputs of the network are not quantized")
        if not self.wires.readers(node.output[0]):
            broken(node, "a pair without readers is left out")
        self.pairs[node.output[0]] = first

    def parameters(self, node: onnx.NodeProto) -> Array:
        """The scale of a Q or DQ, whose constants are as they must be."""
        constants = [self.wires.constants.get(name) for name in node.input[1:]]
        if len(constants) != 2 or constants[0] is None or constants[1] is None:
            broken(node, "scale and zero-point are constants in the file")
        if constants[1].data_type != onnx.TensorProto.INT8:
            broken(node, "the type is int8")
        scale, zero = (numpy_helper.to_array(c) for c in constants if c is not None)
        if zero.any():
            broken(node, "zero-points are 0")
        if constants[0].data_type != self.kind:
            broken(node, "a scale has the floating-point type of what it scales")
        if scale.shape != zero.shape or scale.ndim > 1 or not scale.size:
            broken(node, "scale and zero-point have the same shape, () or (channels,)")
        if not (np.isfinite(scale) & (scale > 0)).all():
            broken(node, "scales are finite and positive")
        return np.asarray(scale)

    # --- reading past the pairs ---

    def through(self, node: onnx.NodeProto, slot: int) -> bool:
        """Whether input `slot` of a node comes through a Q/DQ pair."""
        return slot < len(node.input) and node.input[slot] in self.pairs

    def source(self, name: str) -> str:
        """The tensor that a pair quantizes; other names as they are."""
        return self.pairs[name].input[0] if name in self.pairs else name

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """Nodes that read a tensor, directly or through its pair."""
        found = []
        for node in self.wires.readers(tensor):
            if node.op_type == "QuantizeLinear":
                for back in self.wires.readers(node.output[0]):
                    found += self.wires.readers(back.output[0])
            else:
                found.append(node)
        return found

    def alone(self, tensor: str, readers: int = 1) -> bool:
        """Whether a tensor has that many readers and is no output."""
        return len(self.readers(tensor)) == readers and tensor not in self.wires.outputs

    def constant(self, name: str) -> bool:
        """Whether a node's input is a constant, quantized or not."""
        return self.source(name) in self.wires.constants

    def computes_int8(self, tensor: str) -> bool:
        """Whether a Conv with quantized inputs makes this tensor."""
        node = self.wires.maker.get(tensor)
        return node is not None and node.op_type == "Conv" and self.through(node, 0)
