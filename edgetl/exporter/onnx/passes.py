"""Rewriting of ONNX graphs that a traced network and somebody's model have in common.

Graphs are changed in place, up to what `finish` makes of them: the canonical ONNX.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgetl.errors import TraceError
from edgetl.exporter.onnx.checks import (
    FLOAT,
    INPUT,
    NORMALIZED,
    PREPROCESS,
    UINT8,
    check_onnx,
)
from edgetl.spec import Normalize

OPSET = 17
IR_VERSION = 8  # the IR of opset 17; TensorRT 8.5 and onnxruntime 1.23 read it

Array = npt.NDArray[np.generic]


def finish(
    graph: onnx.GraphProto,
    shape: tuple[int, ...],
    outputs: Mapping[str, Sequence[int]],
    *,
    single: bool = False,
) -> bytes:
    """Serialise the canonical ONNX: `images` uint8 `(N, *shape)` to outputs float32 `(N, …)`.

    `outputs` has their shapes, without N, by name. With `single`, N is 1. The same graph gives the
    same bytes. Raises TraceError as `check_onnx` does.
    """
    count: Any = 1 if single else "N"
    clean = helper.make_graph(
        graph.node,
        "edgetl",
        [helper.make_tensor_value_info(INPUT, UINT8, [count, *shape])],
        [helper.make_tensor_value_info(k, FLOAT, [count, *v]) for k, v in outputs.items()],
        initializer=graph.initializer,
    )
    finished = helper.make_model(
        clean,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="edgetl",
    )
    data: bytes = finished.SerializeToString(deterministic=True)
    check_onnx(data, max_opset=OPSET, max_ir=IR_VERSION)
    return data


# --- rewriting --------------------------------------------------------------------------------


def lower(proto: onnx.ModelProto, check: Callable[[onnx.NodeProto], None]) -> None:
    """Rewrite reductions, reshapes and splits to what opset 17 and every target read.

    `check` is called with every other node, to raise for what opset 17 does not have.
    """
    shapes = inferred_shapes(proto)
    constants = stored_constants(proto.graph)
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.op_type.startswith("Reduce"):
            nodes += _lower_reduce(node, constants, shapes.get(node.input[0]))
        elif node.op_type == "Reshape":
            nodes.append(_lower_reshape(node, constants, shapes.get(node.input[0])))
        elif node.op_type == "Split":
            nodes.append(_lower_split(node, shapes.get(node.input[0])))
        else:
            check(node)
            nodes.append(node)
    refill(proto.graph.node, nodes)


def _lower_reduce(
    node: onnx.NodeProto, constants: dict[str, Array], shape: list[int] | None
) -> list[onnx.NodeProto]:
    """Return a global pool for a mean over space, else the reduction with its axes as attribute."""
    if node.op_type == "ReduceSum":
        return [node]  # takes its axes as input since opset 13
    stated = [list(a.ints) for a in node.attribute if a.name == "axes"]
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in constants:
            raise TraceError(
                f"{node.op_type} '{node.name}' reduces over axes that are not constant."
            )
        stated = [[int(a) for a in constants[node.input[1]].ravel()]]
    if not stated:
        return [node]
    axes, keep = stated[0], bool(attribute(node, "keepdims", 1))
    source, result = node.input[0], node.output[0]
    spatial = len(shape or ()) == 4 and sorted(a % 4 for a in axes) == [2, 3]
    if node.op_type == "ReduceMean" and spatial:
        pooled = result if keep else f"{result}.pooled"
        pool = helper.make_node("GlobalAveragePool", [source], [pooled])
        return [pool] if keep else [pool, helper.make_node("Flatten", [pooled], [result], axis=1)]
    return [helper.make_node(node.op_type, [source], [result], axes=axes, keepdims=int(keep))]


def _lower_reshape(
    node: onnx.NodeProto, constants: dict[str, Array], shape: list[int] | None
) -> onnx.NodeProto:
    """Return Flatten where the Reshape flattens `(N, …)`; else a Reshape that keeps any N."""
    target = constants.get(node.input[1])
    if target is None:
        return node
    wanted = [int(d) for d in target.ravel()]
    inner = math.prod(shape[1:]) if shape else 0  # 0 when an axis is not fixed
    if inner and wanted in ([-1, inner], [0, inner], [0, -1]):
        return helper.make_node("Flatten", [node.input[0]], list(node.output), axis=1)
    if 0 not in wanted:  # then allowzero means nothing, and older readers do not know it
        return helper.make_node("Reshape", list(node.input), list(node.output))
    return node


def _lower_split(node: onnx.NodeProto, shape: list[int] | None) -> onnx.NodeProto:
    """Return a Split without `num_outputs`: into equal parts, or into the sizes it is given."""
    axis = int(attribute(node, "axis", 0))
    counted = len(node.input) < 2 and attribute(node, "num_outputs", 0)  # from opset 18 on
    if counted and (not shape or not shape[axis] or shape[axis] % len(node.output)):
        raise TraceError(
            f"Split '{node.name}' cuts an axis into unequal parts.",
            fix="split into given sizes in the network.",
        )
    return helper.make_node("Split", list(node.input), list(node.output), axis=axis)


def refuse_newer(node: onnx.NodeProto, opset: int) -> None:
    """Raise TraceError when opset 17 lacks the operator, or `opset` gives it another meaning."""
    name = f"{node.op_type} '{node.name}'"
    fix = "replace this layer in the network; the targets read opset 17."
    if node.domain:
        raise TraceError(f"{name} is of the operator domain '{node.domain}'.", fix=fix)
    try:
        ours = onnx.defs.get_schema(node.op_type, OPSET)
    except onnx.defs.SchemaError as error:
        raise TraceError(f"{name} does not exist at opset {OPSET}.", fix=fix) from error
    theirs = onnx.defs.get_schema(node.op_type, opset)
    if ours.since_version != theirs.since_version:
        raise TraceError(f"{name} changed between opset {OPSET} and {opset}.", fix=fix)


def prepend(graph: onnx.GraphProto, normalize: Normalize) -> None:
    """Put cast, transpose and normalisation, in TensorRT's order, before the network."""
    mean = np.asarray(normalize.mean, np.float64).reshape(1, 3, 1, 1) * 255
    scale = 1 / (255 * np.asarray(normalize.std, np.float64).reshape(1, 3, 1, 1))
    for name, array in ((f"{PREPROCESS}mean", mean), (f"{PREPROCESS}scale", scale)):
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    steps = [
        ("Cast", "cast", [INPUT], {"to": FLOAT}),
        ("Transpose", "transpose", [f"{PREPROCESS}cast_0"], {"perm": [0, 3, 1, 2]}),
        ("Sub", "subtract", [f"{PREPROCESS}transpose_0", f"{PREPROCESS}mean"], {}),
        ("Mul", "multiply", [f"{PREPROCESS}subtract_0", f"{PREPROCESS}scale"], {}),
    ]
    outputs = [f"{PREPROCESS}{step[1]}_0" for step in steps[:-1]] + [NORMALIZED]
    head = [
        helper.make_node(kind, inputs, [output], name=PREPROCESS + name, **attributes)
        for (kind, name, inputs, attributes), output in zip(steps, outputs, strict=True)
    ]
    refill(graph.node, [*head, *graph.node])


def reads(node: onnx.NodeProto) -> set[str]:
    """What a node and the graphs inside it read."""
    names = {name for name in node.input if name}
    for item in node.attribute:
        for graph in (item.g, *item.graphs):
            names |= {output.name for output in graph.output}
            names |= set().union(*(reads(inner) for inner in graph.node))
    return names


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers that no output needs."""
    needed = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= reads(node)
            kept.append(node)
    refill(graph.node, kept[::-1])
    refill(graph.initializer, [i for i in graph.initializer if i.name in needed])


def rename(graph: onnx.GraphProto) -> None:
    """Give nodes and tensors names that depend on the graph alone; order initializers by use."""
    names = {name: name for name in (NORMALIZED, "", *(o.name for o in graph.output))}
    stored = {i.name: i for i in graph.initializer}
    ordered = []
    counts = Counter[str]()
    for node in graph.node:
        counts[node.op_type] += 1
        node.name = f"{node.op_type}_{counts[node.op_type]}"
        node.doc_string = ""
        del node.metadata_props[:]
        for index, name in enumerate(node.input):
            if name in stored and name not in names:
                names[name] = name if "." in name else f"{node.name}.input_{index}"
                ordered.append(stored[name])
        for index, name in enumerate(node.output):
            names.setdefault(name, f"{node.name}_{index}")
        node.input[:] = [names[n] for n in node.input]
        node.output[:] = [names[n] for n in node.output]
    refill(
        graph.initializer,
        [numpy_helper.from_array(numpy_helper.to_array(i), names[i.name]) for i in ordered],
    )


# --- reading ----------------------------------------------------------------------------------


def stored_constants(graph: onnx.GraphProto) -> dict[str, Array]:
    """The initializers by name."""
    return {i.name: numpy_helper.to_array(i) for i in graph.initializer}


def inferred_shapes(proto: onnx.ModelProto, *, single: bool = False) -> dict[str, list[int]]:
    """Shape of every tensor of known rank, of one image with `single`; an open axis is 0."""
    if single:
        proto = copy.deepcopy(proto)
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    """A numeric attribute of a node."""
    found = (helper.get_attribute_value(item) for item in node.attribute if item.name == name)
    return float(next(found, default))


def refill(field: Any, items: Iterable[Any]) -> None:
    """Let a repeated field, such as the nodes of a graph, hold `items`, which may be its own."""
    fresh = [copy.deepcopy(item) for item in items]
    del field[:]
    field.extend(fresh)
