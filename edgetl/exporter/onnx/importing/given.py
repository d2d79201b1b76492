"""Somebody else's ONNX classifier: read, and refused where it is none."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from edgetl.errors import TraceError, UsageError
from edgetl.exporter.onnx.checks import type_name
from edgetl.exporter.onnx.importing.end import find_logits
from edgetl.exporter.onnx.importing.file import GivenFile, all_nodes, called, read_file
from edgetl.exporter.onnx.importing.passes import simplify
from edgetl.exporter.onnx.importing.run import TYPES, Given
from edgetl.exporter.onnx.passes import drop_unused, refill, stored_constants

Layout = Literal["auto", "nchw", "nhwc"]

_QUANTIZED = ("QuantizeLinear", "QLinear", "ConvInteger", "MatMulInteger", "DynamicQuantize")
_RANDOM = ("Random", "Bernoulli", "Multinomial")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization")
_SPLIT_IT = "cut the file to one image input and its logits with onnx.utils.extract_model."
_EVALUATE = "export the model in evaluation mode: model.eval()."


def read_given(
    data: bytes | Path,
    *,
    size: int | tuple[int, int] | None = None,
    layout: Layout = "auto",
    output: str | None = None,
) -> Given:
    """Read an ONNX classifier: one image input, one output `(N, classes)` or `(N, classes, 1, 1)`.

    `size` in pixels, one number or (height, width), is needed where the file leaves it open,
    `layout` where the shape does not show it, `output` where there are several. Raises UsageError
    for options that the file contradicts or that are missing, TraceError for files that are no such
    classifier or cannot be run.
    """
    file = read_file(data)
    _choose_output(file.model.graph, file.name, output)  # what it leaves out may be anything
    for node in all_nodes(file.model.graph):
        if node.op_type.startswith(_QUANTIZED) or node.op_type == "DequantizeLinear":
            raise TraceError(
                f"{file.name} is quantized already: it holds {called(node)}.",
                fix="give the floating-point model; edgetl quantizes it for each target.",
            )
    computed = copy.deepcopy(file.model)  # what is left to compute decides, not what is constant
    simplify(computed)
    drop_unused(computed.graph)
    for node in all_nodes(computed.graph):
        _refuse(node, file.name)
    _check_weights(computed.graph, file.name)
    sides = (size, size) if isinstance(size, int) else size
    return find_logits(_interface(file, sides, layout))


def _refuse(node: onnx.NodeProto, name: str) -> None:
    """TraceError for operators that no target reads, or that belong to training."""
    if node.domain not in ("", "ai.onnx"):
        raise TraceError(
            f"{name}: {called(node)} is of the operator domain '{node.domain}'; no target reads "
            "it.",
            fix="export the model again with standard operators, not optimised for one runtime.",
        )
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    if any(a.type in kinds for a in node.attribute):
        raise TraceError(
            f"{name}: {called(node)} is control flow, which targets cannot read.",
            fix="export the model by tracing, in evaluation mode and with fixed image size.",
        )
    training = any(a.name == "training_mode" and a.i for a in node.attribute)
    if training or node.op_type.startswith(_RANDOM):
        raise TraceError(f"{name}: {called(node)} belongs to training.", fix=_EVALUATE)


def _check_weights(graph: onnx.GraphProto, name: str) -> None:
    """TraceError for a Dropout that is told to drop, and for weights that are no numbers."""
    constants = stored_constants(graph)
    for node in graph.node:
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            told = constants.get(node.input[2])
            if told is None or bool(np.any(told)):
                raise TraceError(f"{name}: {called(node)} is in training mode.", fix=_EVALUATE)
        for place, source in enumerate(node.input):
            array = constants.get(source)
            if array is None or array.dtype.kind != "f":
                continue
            # an infinite constant may be meant (a mask, a limit); an infinite weight is not
            weight = place > 0 and node.op_type in _WEIGHTED
            bad = ~np.isfinite(array) if weight else np.isnan(array)
            if bad.any():
                what = "NaN" if np.isnan(array).any() else "infinity"
                raise TraceError(
                    f"{name}: '{source}', which {called(node)} reads, holds {what} in "
                    f"{int(bad.sum())} of {array.size} values.",
                    fix="export a checkpoint without NaN or infinity: its training diverged, or "
                    "its conversion to float16 overflowed.",
                )


# --- the interface ----------------------------------------------------------------------------


def _choose_output(graph: onnx.GraphProto, name: str, asked: str | None) -> None:
    """Leave one output; UsageError for one that is not there, and where none of many is named."""
    names = [output.name for output in graph.output]
    shown = ", ".join(names[:8]) or "none"
    if asked is not None and asked not in names:
        raise UsageError(f"{name} has no output '{asked}'.", fix=f"name one of {shown}.")
    if asked is None and len(names) != 1:
        raise TraceError(
            f"{name} has {len(names)} outputs ({shown}), not one.",
            fix="name that of the logits by --output NAME.",
        )
    if len(names) > 1:
        kept = next(output for output in graph.output if output.name == asked)
        refill(graph.output, [kept])
        drop_unused(graph)


def _interface(file: GivenFile, size: tuple[int, int] | None, layout: Layout) -> Given:
    """What the file takes and returns; the number of classes is found later."""
    graph, name = file.model.graph, file.name
    stored = {i.name for i in graph.initializer}
    inputs = [i for i in graph.input if i.name not in stored]
    if len(inputs) != 1:
        names = ", ".join(v.name for v in inputs[:4]) or "none"
        raise TraceError(f"{name} has {len(inputs)} inputs ({names}), not one.", fix=_SPLIT_IT)
    kind = inputs[0].type.tensor_type
    dims = [d.dim_value for d in kind.shape.dim] if kind.HasField("shape") else [0] * 4
    if kind.elem_type not in TYPES or len(dims) != 4:
        raise TraceError(
            f"{name}'s input '{inputs[0].name}' is {type_name(kind.elem_type)} {_shown(dims)}, "
            "not float32, float16 or uint8 images of four axes.",
            fix="give an image classifier that reads (N, 3, H, W) or (N, H, W, 3).",
        )
    found = _layout(dims, layout, f"{name}'s input '{inputs[0].name}'")
    sides = dims[2:] if found == "nchw" else dims[1:3]
    height, width = _size(sides, size, name)
    return Given(
        model=file.model,
        name=name,
        sha256=file.sha256,
        opset=file.opset,
        input=inputs[0].name,
        output=graph.output[0].name,
        dtype=kind.elem_type,
        layout=found,
        batch=dims[0],
        height=height,
        width=width,
        classes=0,
        notes=(),
    )


def _layout(dims: list[int], asked: Layout, what: str) -> Literal["nchw", "nhwc"]:
    possible = [k for k, axis in (("nchw", 1), ("nhwc", 3)) if dims[axis] in (0, 3)]
    sure = [k for k, axis in (("nchw", 1), ("nhwc", 3)) if dims[axis] == 3]
    if not possible:
        raise TraceError(
            f"{what} has shape {_shown(dims)}: no axis holds three colours.",
            fix="give an image classifier that reads RGB.",
        )
    if asked != "auto" and asked not in possible:
        raise UsageError(
            f"--layout {asked} contradicts the shape {_shown(dims)} of {what}.",
            fix=f"use --layout {possible[0]} or leave it away.",
        )
    choice = [asked] if asked != "auto" else sure or possible
    if len(choice) > 1:
        raise UsageError(
            f"{what} has shape {_shown(dims)}: which axis holds the colours is not clear.",
            fix="give --layout nchw or --layout nhwc.",
        )
    return "nchw" if choice[0] == "nchw" else "nhwc"


def _size(sides: list[int], asked: tuple[int, int] | None, name: str) -> tuple[int, int]:
    """(height, width) of what the file reads; a side that it leaves open is 0 in `sides`."""
    if asked is None and not all(sides):
        raise UsageError(f"{name} leaves the image size open.", fix="give it: --size 224")
    height, width = asked or (sides[0], sides[1])
    if any(fixed and fixed != side for fixed, side in zip(sides, (height, width), strict=True)):
        reads = str(sides[0]) if sides[0] == sides[1] else f"{sides[0] or '?'}x{sides[1] or '?'}"
        shown = str(height) if height == width else f"{height}x{width}"
        raise UsageError(
            f"--size {shown} contradicts {name}, which reads {reads} pixels.",
            fix="leave --size away, or export the model for that size.",
        )
    if min(height, width) < 1:
        raise UsageError(f"--size {height} is not possible.", fix="give pixels, such as 224.")
    return height, width


def _shown(dims: list[int]) -> str:
    return "[" + ", ".join(str(d) if d else "?" for d in dims) + "]"
