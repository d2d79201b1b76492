"""The model of a trained network: uint8 images in, logits out, readable by every target."""

from __future__ import annotations

import copy
from collections import Counter

import onnx
import torch

from edgetl.errors import TraceError
from edgetl.exporter.onnx import passes as rewrite
from edgetl.exporter.onnx.checks import NORMALIZED, output_shapes
from edgetl.inputs.base import Input
from edgetl.spec import Normalize
from edgetl.telemetry import quiet

_EXPORTED_OPSET = 18  # the lowest that torch's exporter writes


def trace(
    model: torch.nn.Module,
    spec: Input,
    normalize: Normalize,
    outputs: tuple[str, ...] = ("logits",),
) -> bytes:
    """Write `model` as the canonical ONNX.

    `model` maps normalised float32 `(N, 3, H, W)` to one tensor `(N, …)` for each of `outputs`, as
    a tensor, tuple or dict in that order; it is not changed. The result takes `images` uint8
    `(N, H, W, 3)` and returns the outputs in float32, at opset 17, and is the same bytes for the
    same network. Raises TraceError when the network cannot be exported, or needs operators that the
    targets cannot read.
    """
    proto = _export(model, spec.shape, outputs)
    graph = proto.graph
    rewrite.lower(proto, lambda node: rewrite.refuse_newer(node, _EXPORTED_OPSET))
    rewrite.drop_unused(graph)
    _refuse_unfolded(graph)
    rewrite.rename(graph)
    rewrite.prepend(graph, normalize)
    return rewrite.finish(graph, spec.shape, output_shapes(proto))


# --- torch ------------------------------------------------------------------------------------


def _export(
    model: torch.nn.Module, shape: tuple[int, ...], outputs: tuple[str, ...]
) -> onnx.ModelProto:
    """Export a copy of the network alone: float32 `(N, 3, H, W)` → `outputs`."""
    height, width, _ = shape
    network = copy.deepcopy(model).to("cpu", torch.float32).eval()
    network.to(memory_format=torch.contiguous_format)
    example = torch.zeros(2, 3, height, width)
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
                output_names=list(outputs),
                verbose=False,
            )
        except Exception as error:  # the exporter raises many unrelated types
            raise TraceError(
                f"torch cannot export {type(model).__name__} at {height}x{width} pixels: {error}",
                fix="the network must take (N, 3, height, width) for any N and return tensors, "
                "without control flow that depends on values.",
            ) from error
    if exported is None:
        raise TraceError(f"torch exported nothing for {type(model).__name__}.", fix="update torch.")
    proto = exported.model_proto
    found = [output.name for output in proto.graph.output]
    if found != list(outputs):
        raise TraceError(
            f"The network returns {len(found)} tensors, not {len(outputs)}: {', '.join(outputs)}.",
            fix="return one tensor for each output of the task.",
        )
    return proto


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
