"""Rewriting of given ONNX graphs: what exporters leave behind is folded; results stay equal.

Every pass changes the model in place and leaves nodes without use behind; `drop_unused` removes
them.
"""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgetl.exporter.onnx.checks import FLOAT, FLOAT16, attached
from edgetl.exporter.onnx.passes import Array, attribute, refill, stored_constants

_DRAWN = ("Random", "Bernoulli", "Multinomial", "Dropout")  # another value each time
_LARGE = 2**20  # elements; folding must not make a file much larger


def widen(graph: onnx.GraphProto) -> bool:
    """Make every float16 tensor, constant and cast float32; tell whether there were any."""
    found = False
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == FLOAT16:
            value.type.tensor_type.elem_type, found = FLOAT, True
    for tensor in attached(graph):
        if tensor.data_type == FLOAT16:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            found = True
    for node in graph.node:
        for item in node.attribute:
            if item.name in ("to", "dtype") and item.i == FLOAT16:
                item.i, found = FLOAT, True
    return found


def simplify(model: onnx.ModelProto) -> None:
    """Compute what constants alone decide: nodes that read nothing else, and which branch runs."""
    fold_constants(model)
    while _take_branches(model.graph):
        fold_constants(model)


def _take_branches(graph: onnx.GraphProto) -> bool:
    """Put the branch that runs in place of each If with a constant condition; tell if any."""
    constants = stored_constants(graph)
    nodes: list[onnx.NodeProto] = []
    found = False
    for node in graph.node:
        if node.op_type != "If" or node.input[0] not in constants:
            nodes.append(node)
            continue
        found = True
        taken = "then_branch" if constants[node.input[0]].any() else "else_branch"
        branch = next(copy.deepcopy(a.g) for a in node.attribute if a.name == taken)
        own = [o for n in branch.node for o in n.output if o] + [i.name for i in branch.initializer]
        _rename_inside(branch, {name: f"{node.output[0]}/{name}" for name in own})
        graph.initializer.extend(branch.initializer)
        nodes += branch.node
        for inner, outer in zip(branch.output, node.output, strict=True):
            nodes.append(helper.make_node("Identity", [inner.name], [outer]))
    if found:
        refill(graph.node, nodes)
    return found


def _rename_inside(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename tensors of a branch, also where graphs inside it read them."""
    for value in (*graph.initializer, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for item in node.attribute:
            for inner in (item.g, *item.graphs):
                _rename_inside(inner, names)


def fold_constants(model: onnx.ModelProto) -> None:
    """Make initializers of Constant nodes and of nodes that read constants alone."""
    graph = model.graph
    constants, types = stored_constants(graph), tensor_types(model)
    nodes = []
    for node in graph.node:
        values: list[Array] | None = None
        if node.op_type == "CastLike" and node.input[0] in constants:
            if types.get(node.input[1]) == FLOAT:  # of the other input only the type counts
                values = [constants[node.input[0]].astype(np.float32)]
        elif all(name in constants for name in node.input if name):
            values = _value(node, model, constants)
        if values is None:
            nodes.append(node)
            continue
        for name, value in zip(node.output, values, strict=False):
            constants[name] = value
            graph.initializer.append(numpy_helper.from_array(np.array(value, order="C"), name))
    refill(graph.node, nodes)


def _value(
    node: onnx.NodeProto, model: onnx.ModelProto, constants: dict[str, Array]
) -> list[Array] | None:
    """The outputs of a node that reads constants alone, or None where they stay computed."""
    if node.op_type.startswith(_DRAWN):
        return None
    feeds = {name: constants[name] for name in node.input if name}
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    single = helper.make_model(
        helper.make_graph([node], "one", inputs, outputs), opset_imports=model.opset_import
    )
    try:
        values = [np.asarray(v) for v in ReferenceEvaluator(single).run(None, feeds)]
    except Exception:  # the evaluator lacks operators; the node then stays as it is
        return None
    allowed = max(_LARGE, sum(v.size for v in feeds.values()))
    too_large = node.op_type != "Constant" and sum(v.size for v in values) > allowed
    return None if too_large or len(values) < len(outputs) else values


def drop_idle(model: onnx.ModelProto) -> None:
    """Bypass Identity, Dropout and casts to the type that a tensor has."""
    graph, types = model.graph, tensor_types(model)
    same: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        idle = node.op_type in ("Identity", "Dropout") or (
            node.op_type == "Cast" and types.get(node.input[0]) == attribute(node, "to", 0)
        )
        if idle:
            same[node.output[0]] = node.input[0]
        else:
            nodes.append(node)
    for value in graph.output:
        value.name = same.get(value.name, value.name)
    refill(graph.node, nodes)


def drop_transposes(graph: onnx.GraphProto) -> None:
    """Bypass a Transpose that undoes the one before it."""
    made = {n.output[0]: n for n in graph.node if n.op_type == "Transpose"}
    same: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        before = made.get(node.input[0]) if node.op_type == "Transpose" else None
        if before is not None and [_order(before)[i] for i in _order(node)] == list(range(4)):
            same[node.output[0]] = before.input[0]
        else:
            nodes.append(node)
    for value in graph.output:
        value.name = same.get(value.name, value.name)
    refill(graph.node, nodes)


def _order(node: onnx.NodeProto) -> list[int]:
    order = [list(a.ints) for a in node.attribute if a.name == "perm"]
    return order[0] if order and len(order[0]) == 4 else [3, 2, 1, 0]


def fold_batch_norm(graph: onnx.GraphProto) -> int:
    """Fold each BatchNormalization into the Conv before it, in float64; return their number.

    Only where nothing else reads the Conv's result and all parameters are constant.
    """
    constants = stored_constants(graph)
    uses = Counter(i for n in graph.node for i in n.input)
    uses.update(o.name for o in graph.output)
    convs = {n.output[0]: n for n in graph.node if n.op_type == "Conv" and uses[n.output[0]] == 1}
    nodes = []
    for node in graph.node:
        conv = convs.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        wanted = [*node.input[1:], *(conv.input[1:] if conv else ())]
        if conv is None or not all(name in constants for name in wanted if name):
            nodes.append(node)
            continue
        scale, shift, mean, variance = (constants[i].astype(np.float64) for i in node.input[1:5])
        factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        weight = constants[conv.input[1]].astype(np.float64)
        has_bias = len(conv.input) > 2 and conv.input[2]
        bias = constants[conv.input[2]].astype(np.float64) if has_bias else 0.0
        names = f"{node.output[0]}.weight", f"{node.output[0]}.bias"
        weight *= factor.reshape(-1, *[1] * (weight.ndim - 1))
        arrays = weight, (bias - mean) * factor + shift
        for name, array in zip(names, arrays, strict=True):
            graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
        conv.input[:] = [conv.input[0], *names]
        conv.output[0] = node.output[0]
    count = len(graph.node) - len(nodes)
    refill(graph.node, nodes)
    return count


def renumber(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Give every tensor a new name that clashes with none of edgetl's; `names` states some."""
    names = names | {"": ""}

    def fresh(name: str) -> str:
        return names.setdefault(name, f"t{len(names)}")

    for value in (*graph.initializer, *graph.input, *graph.output):
        value.name = fresh(value.name)
    for node in graph.node:
        node.input[:] = [fresh(name) for name in node.input]
        node.output[:] = [fresh(name) for name in node.output]


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor for which it can be inferred."""
    graph = onnx.GraphProto(
        node=model.graph.node, input=model.graph.input, output=model.graph.output, name="types"
    )
    types = {i.name: int(i.data_type) for i in model.graph.initializer}
    for item in model.graph.initializer:  # weights are large, and only their types count
        graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, item.dims))
    light = onnx.ModelProto(
        graph=graph, opset_import=model.opset_import, ir_version=model.ir_version
    )
    inferred = onnx.shape_inference.infer_shapes(light).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    return types | {v.name: int(v.type.tensor_type.elem_type) for v in values}
