"""FP16 written into the ONNX itself, for TensorRT that follows a network's types strictly."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgetl.errors import TraceError
from edgetl.exporter.check import FLOAT, FLOAT16, NORMALIZED, OUTPUT, PREPROCESS, check_fp16

Array = npt.NDArray[np.generic]

_LARGEST = float(np.finfo(np.float16).max)
_HALF_INPUT, _HALF_OUTPUT = f"{NORMALIZED}/half", f"{OUTPUT}/half"


def strong_fp16(master: bytes) -> bytes:
    """Turn the master ONNX into FP16: same input, same output, same opset.

    Preprocessing stays float32; behind it every tensor, weight and constant is float16, up to one
    Cast that makes `logits` float32 again. Batch normalisations become a Mul and an Add, computed
    in float64 before rounding. Values below FP16's range become 0. Raises TraceError naming the
    tensor when a constant is not finite or exceeds FP16's range, and as `check_fp16` does.
    """
    model = onnx.load_model_from_string(master)
    graph = model.graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    head = [n for n in graph.node if n.name.startswith(PREPROCESS)]
    kept = {name for node in head for name in node.input}
    network = _without_batch_norm(
        (n for n in graph.node if not n.name.startswith(PREPROCESS)), constants
    )
    for node in network:
        _narrow(node)
    network = [
        helper.make_node("Cast", [NORMALIZED], [_HALF_INPUT], "cast/half", to=FLOAT16),
        *network,
        helper.make_node("Cast", [_HALF_OUTPUT], [OUTPUT], "cast/logits", to=FLOAT),
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
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        names = f"{node.name}.factor", f"{node.name}.term"
        for name, array in zip(names, (factor, shift - mean * factor), strict=True):
            constants[name] = array.astype(np.float32).reshape(-1, 1, 1)
        product = f"{node.output[0]}.product"
        result += [
            helper.make_node("Mul", [node.input[0], names[0]], [product], f"{node.name}/mul"),
            helper.make_node("Add", [product, names[1]], [node.output[0]], f"{node.name}/add"),
        ]
    return result


def _narrow(node: onnx.NodeProto) -> None:
    """Make `node` read and write float16: its border tensors, tensor attributes and casts."""
    node.input[:] = [_HALF_INPUT if n == NORMALIZED else n for n in node.input]
    node.output[:] = [_HALF_OUTPUT if n == OUTPUT else n for n in node.output]
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            name = f"{node.name}.{attribute.name}"
            array = _half(name, numpy_helper.to_array(attribute.t))
            attribute.t.CopyFrom(numpy_helper.from_array(array, name))
        elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
            attribute.i = FLOAT16


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
