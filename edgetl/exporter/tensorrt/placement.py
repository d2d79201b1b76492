"""Where TensorRT wants QuantizeLinear and DequantizeLinear: NVIDIA's placement rules."""

from __future__ import annotations

import math
from typing import NamedTuple

import onnx

from edgetl.exporter.onnx.checks import NORMALIZED, PREPROCESS, Wires
from edgetl.exporter.onnx.passes import attribute, inferred_shapes

_POOLS = frozenset({"GlobalAveragePool", "AveragePool"})
_ACTIVATIONS = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Elu", "Tanh"}
)
_SMALL = 16  # channels or sizes below which INT8 does not pay


class Edge(NamedTuple):
    """Input `slot` of node number `node`, which reads `tensor`."""

    node: int
    slot: int
    tensor: str


class Placement:
    """Which inputs of which nodes are quantized: `activations`, and `weights` with their axis.

    The rules are NVIDIA's, of its TensorRT guide, its quantization toolkit and Model Optimizer:
    all inputs of convolutions and matrix products, none of their outputs; every input of a sum but
    one branch that ends in a quantized Conv and has no other reader; the features of a product
    with Conv → Sigmoid, but not its gate; the input of average pooling; all inputs of a Concat
    whose output is quantized, with one scale (`groups`). Small layers stay as they are, and so
    does what follows the last layers with weights: outputs are not rounded.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        *,
        exclude: tuple[str, ...] = (),
        keep_float: frozenset[str] = frozenset(),
    ) -> None:
        self.wires = Wires(model.graph)
        self.nodes = list(model.graph.node)
        self.weights: dict[Edge, int] = {}
        self.activations: dict[Edge, None] = {}
        self.groups: list[set[str]] = []
        self._shapes = inferred_shapes(model, single=True)
        free = [
            (i, n)
            for i, n in enumerate(self.nodes)
            if not n.name.startswith(PREPROCESS)
            and n.name not in keep_float
            and n.op_type not in exclude
        ]
        for index, node in free:
            axis = self._weight_axis(node)
            if axis is not None:
                self.weights[Edge(index, 1, node.input[1])] = axis
                self.activations[Edge(index, 0, node.input[0])] = None
        self._integer = {self.nodes[edge.node].output[0] for edge in self.weights}
        after = self.wires.after_weights()
        for index, node in free:
            for slot in self._slots(node) if node.output[0] not in after else ():
                self.activations[Edge(index, slot, node.input[slot])] = None
        self._concatenations(free)

    def _weight_axis(self, node: onnx.NodeProto) -> int | None:
        """Axis of the output channels of a layer's weight, or None where it stays as it is."""
        if len(node.input) < 2 or node.input[0] in self.wires.constants:
            return None
        weight = self.wires.constants.get(node.input[1])
        if weight is None or weight.data_type != onnx.TensorProto.FLOAT:
            return None
        shape = list(weight.dims)
        if node.op_type == "Conv":
            first = node.input[0] == NORMALIZED
            return 0 if _conv_pays(shape, attribute(node, "group", 1), first=first) else None
        if node.op_type not in ("Gemm", "MatMul") or len(shape) != 2 or min(shape) < _SMALL:
            return None
        rows = math.prod(self._shapes.get(node.output[0], [])[:-1])
        if attribute(node, "transA", 0) or rows < 2:
            return None  # matrix times vector: it is bound by memory, and INT8 does not pay
        return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 1

    def _slots(self, node: onnx.NodeProto) -> list[int]:
        """Inputs of a node without weights that are quantized."""
        if node.op_type in _POOLS:
            return [] if node.input[0] in self.wires.constants else [0]
        if node.op_type == "Mul" and self._gates(node.input[0], node.input[1]):
            return [1]
        if node.op_type == "Mul" and self._gates(node.input[1], node.input[0]):
            return [0]
        if node.op_type != "Add" or len({*variables(node, self.wires)}) != 2:
            return []  # no sum of two computed tensors, as at the end of a residual block
        chains = {slot: self._branch(name) for slot, name in enumerate(node.input)}
        ends = [s for s, chain in chains.items() if chain and chain[-1][0] in self._integer]
        if not ends:
            return []  # nothing that computes in INT8 could take the sum in
        bare = self._bare(node, [s for s in ends if all(self._alone(*link) for link in chains[s])])
        return [slot for slot in range(len(node.input)) if slot != bare]

    def _gates(self, gate: str, features: str) -> bool:
        """Whether `gate` is Sigmoid of a quantized Conv alone; its product with itself is SiLU."""
        sigmoid = self.wires.maker.get(gate)
        if sigmoid is None or sigmoid.op_type != "Sigmoid" or not self._alone(gate):
            return False
        source = sigmoid.input[0]
        return (
            source in self._integer
            and self.wires.made_by(source) == "Conv"
            and self._alone(source)
            and features not in self.wires.constants
        )

    def _branch(self, tensor: str) -> list[tuple[str, int]]:
        """Tensors from `tensor` back to the Conv that it ends in, perhaps through an activation.

        With each comes the number of readers it has when nothing else reads the branch. Empty when
        there is no such Conv.
        """
        node = self.wires.maker.get(tensor)
        if node is None or node.op_type == "Conv":
            return [] if node is None else [(tensor, 1)]
        chain = [(tensor, 1)]
        if node.op_type in _ACTIVATIONS:
            chain.append((node.input[0], 1))
        elif node.op_type == "Mul":  # SiLU: a Conv's output times its own Sigmoid
            gates = [n for n in node.input if self.wires.made_by(n) == "Sigmoid"]
            source = self.wires.maker[gates[0]].input[0] if gates else ""
            chain += [(gates[0], 1), (source, 2)] if source in node.input else []
        return chain if self.wires.made_by(chain[-1][0]) == "Conv" else []

    def _alone(self, tensor: str, readers: int = 1) -> bool:
        return len(self.wires.readers(tensor)) == readers and tensor not in self.wires.outputs

    def _bare(self, node: onnx.NodeProto, slots: list[int]) -> int | None:
        """Slot of the branch that stays bare: of two, the longer since they parted."""
        if len(slots) < 2:
            return slots[0] if slots else None
        behind = [_distances(node.input[slot], self.wires) for slot in slots[:2]]
        shared = behind[0].keys() & behind[1].keys()
        if not shared:
            return slots[1]
        nearest = min(shared, key=lambda name: (behind[0][name] + behind[1][name], name))
        return slots[0] if behind[0][nearest] > behind[1][nearest] else slots[1]

    def _concatenations(self, free: list[tuple[int, onnx.NodeProto]]) -> None:
        """Quantize what flows into a Concat whose output is quantized, and let scales agree."""
        for index, node in reversed(free):
            wanted = {edge.tensor for edge in self.activations}
            inputs = list(node.input)
            if node.op_type != "Concat" or node.output[0] not in wanted:
                continue
            if any(n in self.wires.constants for n in inputs):
                continue
            self.activations |= {Edge(index, slot, n): None for slot, n in enumerate(inputs)}
            group = {*inputs, node.output[0]}
            touched = [g for g in self.groups if g & group]
            self.groups = [g for g in self.groups if not g & group] + [group.union(*touched)]


def variables(node: onnx.NodeProto, wires: Wires) -> list[str]:
    """Inputs of a node that are neither absent nor constant."""
    return [name for name in node.input if name and name not in wires.constants]


def _conv_pays(shape: list[int], group: float, *, first: bool) -> bool:
    """Whether INT8 pays for a Conv of weight `(out, in / group, …)`; a depthwise one has in = 1."""
    wide, deep, kernel = shape[0], shape[1], shape[2:]
    if min(wide, deep) >= _SMALL:
        return True
    if group > 1:
        return wide % 8 == 0 and min(kernel) >= 3
    whole = wide % 8 == 0 or deep % 8 == 0
    return whole and (first or max(wide, deep) >= _SMALL) and len(set(kernel)) == 1


def _distances(tensor: str, wires: Wires) -> dict[str, int]:
    """Fewest nodes between `tensor` and each tensor that it is computed from."""
    found, front, steps = {tensor: 0}, [tensor], 0
    while front:
        steps += 1
        makers = [wires.maker[name] for name in front if name in wires.maker]
        front = [n for m in makers for n in variables(m, wires) if n not in found]
        found |= dict.fromkeys(front, steps)
    return found
