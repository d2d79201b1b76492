"""The master ONNX of a trained network: uint8 images in, logits out, readable by every target."""

from __future__ import annotations

import copy
import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper

from edgetl.errors import TraceError
from edgetl.exporter.check import FLOAT, INPUT, NORMALIZED, OUTPUT, PREPROCESS, UINT8, check_onnx
from edgetl.spec import Normalize, Preprocess
from edgetl.telemetry import quiet

OPSET = 17
IR_VERSION = 8  # the IR of opset 17; TensorRT 8.5 and onnxruntime 1.23 read it

_EXPORTED_OPSET = 18  # the lowest that torch's exporter writes

Array = npt.NDArray[np.generic]


def trace(model: torch.nn.Module, preprocess: Preprocess, normalize: Normalize) -> bytes:
    """Write `model` as the master ONNX.

    `model` maps normalised float32 `(N, 3, size, size)` to logits `(N, classes)`; it is not
    changed. The result takes `images` uint8 `(N, size, size, 3)` and returns `logits` float32
    `(N, classes)`, at opset 17, and is the same bytes for the same network. Raises TraceError
    when the network cannot be exported, or needs operators that the targets cannot read.
    """
    proto = _export(model, preprocess.size)
    graph = proto.graph
    _lower(proto)
    _drop_unused(graph)
    _refuse_unfolded(graph)
    _rename(graph)
    _prepend(graph, normalize)
    size, classes = preprocess.size, _classes(graph)
    clean = helper.make_graph(
        graph.node,
        "edgetl",
        [helper.make_tensor_value_info(INPUT, UINT8, ["N", size, size, 3])],
        [helper.make_tensor_value_info(OUTPUT, FLOAT, ["N", classes])],
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


# --- torch ------------------------------------------------------------------------------------


def _export(model: torch.nn.Module, size: int) -> onnx.ModelProto:
    """Export a copy of the network alone: float32 `(N, 3, size, size)` → `logits`."""
    network = copy.deepcopy(model).to("cpu", torch.float32).eval()
    network.to(memory_format=torch.contiguous_format)
    example = torch.zeros(2, 3, size, size)
    with quiet():
        try:
            program = torch.export.export(
                network, (example,), dynamic_shapes=({0: torch.export.Dim("N")},)
            )
            _plain_pooling(program.graph_module)
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                external_data=False,
                opset_version=_EXPORTED_OPSET,
                input_names=[NORMALIZED],
                output_names=[OUTPUT],
                verbose=False,
            )
        except Exception as error:  # the exporter raises many unrelated types
            raise TraceError(
                f"torch cannot export {type(model).__name__} at {size} pixels: {error}",
                fix="the network must take (N, 3, size, size) for any N and return one tensor, "
                "without control flow that depends on values.",
            ) from error
    if exported is None:
        raise TraceError(f"torch exported nothing for {type(model).__name__}.", fix="update torch.")
    return exported.model_proto


def _plain_pooling(module: torch.fx.GraphModule) -> None:
    """Replace adaptive pooling to 1x1 by a mean; torch would decompose it into gathers."""
    pool = torch.ops.aten.adaptive_avg_pool2d.default
    for node in module.graph.find_nodes(op="call_function", target=pool):
        if list(node.args[1]) == [1, 1]:
            node.target = torch.ops.aten.mean.dim
            node.args = (node.args[0], [2, 3], True)
    module.recompile()


# --- rewriting --------------------------------------------------------------------------------


def _lower(proto: onnx.ModelProto) -> None:
    """Rewrite what opset 18 writes otherwise than 17; refuse what 17 does not have."""
    shapes = _shapes(proto)
    constants = _constants(proto.graph)
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.op_type.startswith("Reduce"):
            nodes += _lower_reduce(node, constants, shapes.get(node.input[0]))
        elif node.op_type == "Reshape":
            nodes.append(_lower_reshape(node, constants, shapes.get(node.input[0])))
        elif node.op_type == "Split":
            nodes.append(_lower_split(node, shapes.get(node.input[0])))
        else:
            _refuse_newer(node)
            nodes.append(node)
    _set_nodes(proto.graph, nodes)


def _lower_reduce(
    node: onnx.NodeProto, constants: dict[str, Array], shape: list[int] | None
) -> list[onnx.NodeProto]:
    """Return a global pool for a mean over space, else the reduction with its axes as attribute."""
    if len(node.input) < 2 or node.op_type == "ReduceSum":
        return [node]  # ReduceSum takes its axes as input since opset 13
    if node.input[1] not in constants:
        raise TraceError(f"{node.op_type} '{node.name}' reduces over axes that are not constant.")
    axes = [int(a) for a in constants[node.input[1]].ravel()]
    keep = bool(_attribute(node, "keepdims", 1))
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
    axis = int(_attribute(node, "axis", 0))
    if len(node.input) < 2 and (not shape or not shape[axis] or shape[axis] % len(node.output)):
        raise TraceError(
            f"Split '{node.name}' cuts an axis into unequal parts.",
            fix="split into given sizes in the network.",
        )
    return helper.make_node("Split", list(node.input), list(node.output), axis=axis)


def _refuse_newer(node: onnx.NodeProto) -> None:
    """Raise TraceError when opset 17 lacks the operator or gives it another meaning."""
    name = f"{node.op_type} '{node.name}'"
    fix = "replace this layer in the network; the targets read opset 17."
    if node.domain:
        raise TraceError(f"{name} is of the operator domain '{node.domain}'.", fix=fix)
    try:
        ours = onnx.defs.get_schema(node.op_type, OPSET)
    except onnx.defs.SchemaError as error:
        raise TraceError(f"{name} does not exist at opset {OPSET}.", fix=fix) from error
    theirs = onnx.defs.get_schema(node.op_type, _EXPORTED_OPSET)
    if ours.since_version == theirs.since_version:
        return
    raise TraceError(f"{name} changed between opset {OPSET} and {_EXPORTED_OPSET}.", fix=fix)


def _refuse_unfolded(graph: onnx.GraphProto) -> None:
    """Raise TraceError when a BatchNormalization could be in its Conv; torch 2.15 folds them."""
    uses = Counter(i for n in graph.node for i in n.input)
    convs = {n.output[0] for n in graph.node if n.op_type == "Conv" and uses[n.output[0]] == 1}
    for node in graph.node:
        if node.op_type == "BatchNormalization" and node.input[0] in convs:
            raise TraceError(f"'{node.name}' is not folded into its Conv.", fix="update torch.")


def _prepend(graph: onnx.GraphProto, normalize: Normalize) -> None:
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
    _set_nodes(graph, [*head, *graph.node])


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers that no output needs."""
    needed = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    _set_nodes(graph, kept[::-1])
    stored = [copy.deepcopy(i) for i in graph.initializer if i.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(stored)


def _rename(graph: onnx.GraphProto) -> None:
    """Give nodes and tensors names that depend on the graph alone; order initializers by use."""
    names = {NORMALIZED: NORMALIZED, OUTPUT: OUTPUT, "": ""}
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
    fresh = [numpy_helper.from_array(numpy_helper.to_array(i), names[i.name]) for i in ordered]
    del graph.initializer[:]
    graph.initializer.extend(fresh)


# --- reading ----------------------------------------------------------------------------------


def _classes(graph: onnx.GraphProto) -> int:
    dims = graph.output[0].type.tensor_type.shape.dim
    if len(graph.output) != 1 or len(dims) != 2 or not dims[1].dim_value:
        raise TraceError(
            f"The network returns {len(graph.output)} tensors, the first with {len(dims)} axes.",
            fix="return one tensor of logits, shape (N, classes).",
        )
    return int(dims[1].dim_value)


def _constants(graph: onnx.GraphProto) -> dict[str, Array]:
    return {i.name: numpy_helper.to_array(i) for i in graph.initializer}


def _shapes(proto: onnx.ModelProto) -> dict[str, list[int]]:
    """Shape of every tensor of known rank; an axis that is not fixed is 0."""
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return float(helper.get_attribute_value(attribute))
    return default


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    fresh = [copy.deepcopy(n) for n in nodes]
    del graph.node[:]
    graph.node.extend(fresh)
