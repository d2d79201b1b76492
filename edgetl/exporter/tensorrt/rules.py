"""TensorRT's written rules for explicit Q/DQ files, checked without the code that writes them."""

from __future__ import annotations

import math

import onnx

from edgetl.exporter.onnx.checks import (
    FLOAT,
    FLOAT16,
    NORMALIZED,
    PREPROCESS,
    check_fp16,
    check_onnx,
    parse_onnx,
)
from edgetl.exporter.onnx.passes import attribute, inferred_shapes
from edgetl.exporter.tensorrt.pairs import QuantizedGraph, rule

WEAK_OPSET, STRONG_OPSET = 17, 19  # QuantizeLinear takes float16 from 19 on

_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_POOLS = frozenset({"GlobalAveragePool", "AveragePool"})
_READERS = _PRODUCTS | _POOLS | {"Add", "Mul", "Concat"}
_ACTIVATIONS = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Elu", "Tanh"}
)


def check_trt_qdq(
    model: bytes,
    *,
    strong: bool,
    exclude: tuple[str, ...] = (),
    keep_float: frozenset[str] = frozenset(),
) -> None:
    """Refuse a Q/DQ file that breaks TensorRT's rules for explicit quantization.

    Checks opset and types (`strong`: float16 throughout, opset 19; else float32, opset ≤ 17),
    zero-points, scales and axes, that Q and DQ come in pairs, and where they stand: around every
    Conv and matrix product that INT8 pays for, residual sums, gated products, pools and Concats,
    and nowhere else. `exclude` (operator types) and `keep_float` (node names) stand in floating
    point. Raises TraceError naming node and rule.
    """
    check_onnx(model, max_opset=STRONG_OPSET if strong else WEAK_OPSET)
    if strong:
        check_fp16(model)
    proto = parse_onnx(model)
    graph = QuantizedGraph(proto, FLOAT16 if strong else FLOAT)
    shapes, after = inferred_shapes(proto, single=True), graph.wires.after_weights()
    for node in graph.nodes:
        early = node.name.startswith(PREPROCESS)
        free = not early and node.name not in keep_float and node.op_type not in exclude
        _check_readers(graph, node, early=early, free=free)
        if early:
            continue
        free = free and node.output[0] not in after
        if node.op_type in _PRODUCTS:
            rows = math.prod(shapes.get(node.output[0], [])[:-1])
            _check_product(graph, node, rows, free=free)
        elif node.op_type in _POOLS and free:
            rule(node, graph.through(node, 0), "the input of average pooling is quantized")
        elif node.op_type == "Add":
            _check_sum(graph, node, free=free)
        elif node.op_type == "Mul":
            _check_gated(graph, node, free=free)
        elif node.op_type == "Concat":
            _check_concat(graph, node, free=free)


def _check_readers(graph: QuantizedGraph, node: onnx.NodeProto, *, early: bool, free: bool) -> None:
    """Only certain operators read a pair, and only weights among the constants go through one."""
    for slot, name in enumerate(node.input):
        if name not in graph.pairs:
            continue
        kind = node.op_type
        rule(node, not early, "preprocessing is never quantized")
        rule(node, kind not in _ACTIVATIONS, "no Q/DQ stands between a layer and its activation")
        rule(node, kind in _READERS, "this operator stays in floating point, without Q/DQ")
        rule(
            node,
            (slot == 1 and kind in _PRODUCTS) or not graph.constant(name),
            "a bias is not quantized, nor another constant but weights",
        )
        rule(node, free, "this node was to stay in floating point")


def _check_product(graph: QuantizedGraph, node: onnx.NodeProto, rows: int, *, free: bool) -> None:
    """Both inputs of a Conv, Gemm or MatMul go through pairs where INT8 pays, else neither."""
    both = graph.through(node, 0), graph.through(node, 1)
    pays = _pays(graph, node, rows)
    if not any(both):
        rule(node, not (free and pays), "activations and weights of this layer are quantized")
        return
    rule(node, pays, "a layer this small, or without constant weights, stays in floating point")
    rule(node, all(both), "activations and weights are quantized together")
    quantize = graph.pairs[node.input[1]]
    shape = list(graph.wires.constants[quantize.input[0]].dims)
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    axis = 0 if node.op_type == "Conv" or transposed else 1
    rule(
        node,
        attribute(quantize, "axis", 1) == axis,
        f"its weight is scaled along axis {axis}, its output channels",
    )
    rule(
        node,
        graph.parameters(quantize).shape == (shape[axis],),
        f"its weight has one scale for each of {shape[axis]} output channels",
    )


def _pays(graph: QuantizedGraph, node: onnx.NodeProto, rows: int) -> bool:
    """NVIDIA's size rules: 16 channels each way, with exceptions for some convolutions."""
    weight = graph.wires.constants.get(graph.source(node.input[1]))
    if weight is None or graph.constant(node.input[0]):
        return False
    if node.op_type != "Conv":
        plain = len(weight.dims) == 2 and not attribute(node, "transA", 0)
        return plain and all(size >= 16 for size in weight.dims) and rows > 1
    outputs, inputs, *kernel = weight.dims
    if outputs >= 16 and inputs >= 16:
        return True
    if attribute(node, "group", 1) > 1:
        return outputs % 8 == 0 and all(size >= 3 for size in kernel)
    first = graph.source(node.input[0]) in (NORMALIZED, f"{NORMALIZED}/half")
    if not (outputs % 8 == 0 or inputs % 8 == 0) or any(size != kernel[0] for size in kernel):
        return False
    return first or outputs >= 16 or inputs >= 16


def _check_sum(graph: QuantizedGraph, node: onnx.NodeProto, *, free: bool) -> None:
    """All inputs of a residual sum are quantized but one branch that a Conv can take it into."""
    terms = [graph.source(name) for name in node.input]
    taken = [graph.through(node, slot) for slot in range(len(terms))]
    residual = len(set(terms)) == 2 and not any(graph.constant(name) for name in terms)
    ends = [_conv_end(graph, name) if residual else (False, False) for name in terms]
    integer = any(integer_conv for integer_conv, _ in ends)
    if not any(taken):
        rule(
            node,
            not (free and integer),
            "inputs of a residual sum are quantized, but for one branch",
        )
        return
    rule(node, integer, "a sum stays in floating point where no branch ends in a quantized Conv")
    bare = [end for end, through in zip(ends, taken, strict=True) if not through]
    rule(
        node,
        not bare or bare[0] == (True, True),
        "only a branch that ends in a quantized Conv, read by nothing else, is bare",
    )
    rule(
        node,
        bare or (True, True) not in ends,
        "one branch that ends in a quantized Conv stays bare",
    )


def _conv_end(graph: QuantizedGraph, tensor: str) -> tuple[bool, bool]:
    """Whether a tensor is a quantized Conv's output, activated or not, and read by one node."""
    node, alone = graph.wires.maker.get(tensor), graph.alone(tensor)
    if graph.computes_int8(tensor):
        return True, alone
    if node is None:
        return False, False
    if node.op_type in _ACTIVATIONS:
        inner = graph.source(node.input[0])
        return graph.computes_int8(inner), alone and graph.alone(inner)
    for gate in node.input if node.op_type == "Mul" else ():
        sigmoid = graph.wires.maker.get(gate)
        if sigmoid is not None and sigmoid.op_type == "Sigmoid" and sigmoid.input[0] in node.input:
            inner = sigmoid.input[0]
            alone = alone and graph.alone(gate) and graph.alone(inner, 2)
            return graph.computes_int8(inner), alone
    return False, False


def _check_gated(graph: QuantizedGraph, node: onnx.NodeProto, *, free: bool) -> None:
    """Conv → Sigmoid → Mul: the other input is quantized; any other product is left alone."""
    for gate, features in ((0, 1), (1, 0)):
        sigmoid = graph.wires.maker.get(graph.source(node.input[gate]))
        if sigmoid is None or sigmoid.op_type != "Sigmoid" or graph.constant(node.input[features]):
            continue
        inner = graph.source(sigmoid.input[0])
        if graph.computes_int8(inner) and graph.alone(inner) and graph.alone(sigmoid.output[0]):
            rule(
                node,
                not graph.through(node, gate),
                "the gate of Conv → Sigmoid → Mul stays bare",
            )
            rule(
                node,
                graph.through(node, features) or not free,
                "the features of Conv → Sigmoid → Mul are quantized",
            )
            return
    rule(
        node,
        not (graph.through(node, 0) or graph.through(node, 1)),
        "a product without a gate of Conv → Sigmoid stays in floating point",
    )


def _check_concat(graph: QuantizedGraph, node: onnx.NodeProto, *, free: bool) -> None:
    """Inputs of a Concat whose output is quantized are quantized too, all with its scale."""
    after = [n for n in graph.wires.readers(node.output[0]) if n.op_type == "QuantizeLinear"]
    taken = [graph.through(node, slot) for slot in range(len(node.input))]
    if not after:
        rule(
            node,
            not any(taken),
            "a Concat stays in floating point unless its output is quantized",
        )
        return
    stays = not free or any(graph.constant(name) for name in node.input)
    rule(node, all(taken) or stays, "inputs of a Concat whose output is quantized are quantized")
    pairs = [*after, *(graph.pairs[name] for name in node.input if name in graph.pairs)]
    same = not any(taken) or len({float(graph.parameters(q).item()) for q in pairs}) == 1
    rule(node, same, "inputs and output of a Concat have one scale")
