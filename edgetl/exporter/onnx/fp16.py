"""FP16 written into the ONNX itself, for TensorRT that follows a network's types strictly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgetl.errors import TraceError
from edgetl.exporter.onnx.checks import (
    FLOAT,
    FLOAT16,
    NORMALIZED,
    PREPROCESS,
    check_fp16,
    parse_onnx,
)
from edgetl.exporter.onnx.passes import Array, attribute, stored_constants

QDQ_OPSET = 19  # the first whose QuantizeLinear and DequantizeLinear take float16

_LARGEST = float(np.finfo(np.float16).max)


def strong_fp16(canonical: bytes) -> bytes:
    """Turn the canonical ONNX into FP16: same input, same output, same opset.

    Q/DQ may stand in it: their scales become float16 too, which needs `raise_opset` first.
    Preprocessing stays float32; behind it every tensor, weight and constant is float16 (but for
    the scales of Resize), up to one Cast for each output that makes it float32 again. Batch
    normalisations become a Mul and an Add, computed in float64 before rounding. Values below FP16's
    range become 0. Raises TraceError naming the tensor when a constant is not finite or exceeds
    FP16's range, and as `check_fp16` does.
    """
    model = parse_onnx(canonical)
    graph = model.graph
    constants = stored_constants(graph)
    head = [n for n in graph.node if n.name.startswith(PREPROCESS)]
    kept = {name for node in head for name in node.input}
    kept |= {n.input[2] for n in graph.node if n.op_type == "Resize" and len(n.input) > 2}
    network = _without_batch_norm(
        (n for n in graph.node if not n.name.startswith(PREPROCESS)), constants
    )
    ends = {name: f"{name}/half" for name in (NORMALIZED, *(o.name for o in graph.output))}
    for node in network:
        _narrow(node, ends)
    network = [
        helper.make_node("Cast", [NORMALIZED], [ends[NORMALIZED]], "cast/half", to=FLOAT16),
        *network,
        *(
            helper.make_node("Cast", [ends[o.name]], [o.name], f"cast/{o.name}", to=FLOAT)
            for o in graph.output
        ),
    ]
    used = {name for node in (*head, *network) for name in node.input}
    narrowed = [
        numpy_helper.from_array(array if name in kept else _half(name, array), name)
        for name, array in constants.items()
        if name in used
    ]
    clean = helper.make_graph(
        [*head, *network], graph.name, graph.input, graph.output, initializer=narrowed
    )
    finished = helper.make_model(
        clean,
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
    )
    data: bytes = finished.SerializeToString(deterministic=True)
    check_fp16(data)
    return data


def raise_opset(model: bytes, opset: int = QDQ_OPSET) -> bytes:
    """Rewrite an ONNX file of opset 17 for `opset`, 18 or 19; the IR is 9 or what it was before.

    Reductions take their axes as an input from 18 on, and Split says into how many parts. What
    else changed up to 19 only gained types or options. Raises TraceError for other bytes.
    """
    proto = parse_onnx(model)
    graph = proto.graph
    for node in graph.node:
        axes = next((a for a in node.attribute if a.name == "axes"), None)
        if node.op_type.startswith("Reduce") and axes is not None and len(node.input) == 1:
            name = f"{node.name or node.output[0]}.axes"
            graph.initializer.append(numpy_helper.from_array(np.array(axes.ints, np.int64), name))
            node.input.append(name)
            node.attribute.remove(axes)
        elif node.op_type == "Split" and len(node.input) == 1:
            node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset
    proto.ir_version = max(proto.ir_version, 9)
    return bytes(proto.SerializeToString(deterministic=True))


def check_fp16_ranges(ranges: Mapping[str, tuple[float, float]]) -> str | None:
    """Why tensors with these (low, high) do not fit FP16, naming the worst one, or None."""
    for name, bounds in ranges.items():
        if any(math.isnan(bound) for bound in bounds):
            return f"tensor '{name}' is not a number"
    reaches = {name: max(map(abs, bounds)) for name, bounds in ranges.items()}
    worst = max(reaches, key=reaches.__getitem__, default="")
    if reaches.get(worst, 0.0) <= _LARGEST:
        return None
    return f"tensor '{worst}' reaches {reaches[worst]:.6g}; FP16 ends at {_LARGEST:.0f}"


def _without_batch_norm(
    nodes: Iterable[onnx.NodeProto], constants: dict[str, Array]
) -> list[onnx.NodeProto]:
    """Replace each BatchNormalization by Mul and Add; their factors are added to `constants`.

    In FP16, a small variance would become 0 before its root is taken.
    """
    result = []
    for node in nodes:
        if node.op_type != "BatchNormalization" or not set(node.input[1:]) <= constants.keys():
            result.append(node)
            continue
        scale, shift, mean, variance = (constants[i].astype(np.float64) for i in node.input[1:5])
        factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        names = f"{node.name}.factor", f"{node.name}.term"
        for name, array in zip(names, (factor, shift - mean * factor), strict=True):
            constants[name] = array.astype(np.float32).reshape(-1, 1, 1)
        product = f"{node.output[0]}.product"
        result += [
            helper.make_node("Mul", [node.input[0], names[0]], [product], f"{node.name}/mul"),
            helper.make_node("Add", [product, names[1]], [node.output[0]], f"{node.name}/add"),
        ]
    return result


def _narrow(node: onnx.NodeProto, ends: dict[str, str]) -> None:
    """Make `node` read and write float16: tensors at the `ends`, tensor attributes and casts."""
    node.input[:] = [ends.get(n, n) for n in node.input]
    node.output[:] = [ends.get(n, n) for n in node.output]
    for item in node.attribute:
        if item.type == onnx.AttributeProto.TENSOR:
            name = f"{node.name}.{item.name}"
            array = _half(name, numpy_helper.to_array(item.t))
            item.t.CopyFrom(numpy_helper.from_array(array, name))
        elif node.op_type == "Cast" and item.name == "to" and item.i == FLOAT:
            item.i = FLOAT16


def _half(name: str, array: Array) -> Array:
    """Return `array` as float16 if it is float32, else as it is."""
    if array.dtype != np.float32:
        return array
    if not np.isfinite(array).all():
        raise TraceError(
            f"Tensor '{name}' holds NaN or infinity.", fix="train again with a lower learning rate."
        )
    largest = float(np.abs(array).max(initial=0))
    if largest > _LARGEST:
        raise TraceError(
            f"Tensor '{name}' reaches {largest:.4g}; FP16 ends at {_LARGEST:.0f}.",
            fix="export to FP32 recipes only, or train with weight decay.",
        )
    return array.astype(np.float16)
