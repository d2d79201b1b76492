"""Q/DQ pairs of an ONNX file: what TensorRT's rules ask of each, and the graph without them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgetl.errors import TraceError
from edgetl.exporter.onnx.checks import INPUT, NORMALIZED, PREPROCESS, Wires, label
from edgetl.exporter.onnx.passes import Array, attribute

_AGAIN = "export again with edgetl; if that does not help, report the model's architecture."


def rule(node: onnx.NodeProto, holds: object, words: str) -> None:
    """TraceError, with the rule in words, where it does not hold at a node."""
    if not holds:
        raise TraceError(f"{label(node)} breaks a rule of TensorRT: {words}.", fix=_AGAIN)


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
                unseen = node.input[0] not in quantized
                rule(node, unseen, "a tensor has one Q/DQ pair, which its readers share")
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
        network = node.input[0] == NORMALIZED or not (early or node.input[0] == INPUT)
        rule(node, network, "preprocessing is never quantized")
        one = scale.size == 1 or node.input[0] in self.wires.constants
        rule(node, one, "activations have one scale")
        others = [n for n in self.wires.readers(node.output[0]) if n.op_type != "DequantizeLinear"]
        inside = not others and node.output[0] not in self.wires.outputs
        rule(node, inside, "only a DequantizeLinear reads what a QuantizeLinear makes")

    def _check_dequantize(self, node: onnx.NodeProto) -> None:
        """That a DQ undoes a Q."""
        rule(
            node,
            self.wires.made_by(node.input[0]) == "QuantizeLinear",
            "weights are floats behind a QuantizeLinear, since TensorRT 8 needs that",
        )
        first = self.wires.maker[node.input[0]]
        scale = np.array_equal(self.parameters(first), self.parameters(node))
        axis = attribute(first, "axis", 1) == attribute(node, "axis", 1)
        rule(node, scale and axis, "both halves of a pair have the same scale and axis")
        back = node.output[0]
        rule(node, back not in self.wires.outputs, "outputs of the network are not quantized")
        rule(node, self.wires.readers(back), "a pair without readers is left out")
        self.pairs[back] = first

    def parameters(self, node: onnx.NodeProto) -> Array:
        """The scale of a Q or DQ, whose constants are as they must be."""
        constants = [self.wires.constants[n] for n in node.input[1:] if n in self.wires.constants]
        both = len(constants) == len(node.input) - 1 == 2
        rule(node, both, "scale and zero-point are constants in the file")
        rule(node, constants[1].data_type == onnx.TensorProto.INT8, "the type is int8")
        scale, zero = map(numpy_helper.to_array, constants)
        rule(node, not zero.any(), "zero-points are 0")
        rule(
            node,
            constants[0].data_type == self.kind,
            "a scale has the floating-point type of what it scales",
        )
        rule(
            node,
            scale.shape == zero.shape and scale.ndim < 2 and scale.size,
            "scale and zero-point have the same shape, () or (channels,)",
        )
        rule(node, (np.isfinite(scale) & (scale > 0)).all(), "scales are finite and positive")
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
