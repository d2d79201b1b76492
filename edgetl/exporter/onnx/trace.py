"""The model of a trained network: uint8 images in, logits out, readable by every target."""

from __future__ import annotations

import copy
from collections import Counter

import onnx
import torch

from edgetl.errors import TraceError
from edgetl.exporter.onnx import passes as rewrite
from edgetl.exporter.onnx.checks import NORMALIZED, OUTPUT
from edgetl.spec import Normalize, Preprocess
from edgetl.telemetry import quiet

_EXPORTED_OPSET = 18  # the lowest that torch's exporter writes


def trace(model: torch.nn.Module, preprocess: Preprocess, normalize: Normalize) -> bytes:
    """Write `model` as the canonical ONNX.

    `model` maps normalised float32 `(N, 3, size, size)` to logits `(N, classes)`; it is not
    changed. The result takes `images` uint8 `(N, size, size, 3)` and returns `logits` float32
    `(N, classes)`, at opset 17, and is the same bytes for the same network. Raises TraceError
    when the network cannot be exported, or needs operators that the targets cannot read.
    """
    proto = _export(model, preprocess.size)
    graph = proto.graph
    rewrite.lower(proto, lambda node: rewrite.refuse_newer(node, _EXPORTED_OPSET))
    rewrite.drop_unused(graph)
    _refuse_unfolded(graph)
    rewrite.rename(graph)
    rewrite.prepend(graph, normalize)
    return rewrite.finish(graph, preprocess.size, _classes(graph))


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


# --- checks -----------------------------------------------------------------------------------


def _refuse_unfolded(graph: onnx.GraphProto) -> None:
    """Raise TraceError when a BatchNormalization could be in its Conv; torch 2.15 folds them."""
    uses = Counter(i for n in graph.node for i in n.input)
    convs = {n.output[0] for n in graph.node if n.op_type == "Conv" and uses[n.output[0]] == 1}
    for node in graph.node:
        if node.op_type == "BatchNormalization" and node.input[0] in convs:
            raise TraceError(f"'{node.name}' is not folded into its Conv.", fix="update torch.")


def _classes(graph: onnx.GraphProto) -> int:
    dims = graph.output[0].type.tensor_type.shape.dim
    if len(graph.output) != 1 or len(dims) != 2 or not dims[1].dim_value:
        raise TraceError(
            f"The network returns {len(graph.output)} tensors, the first with {len(dims)} axes.",
            fix="return one tensor of logits, shape (N, classes).",
        )
    return int(dims[1].dim_value)
