"""Somebody else's ONNX classifier: read, and refused where it is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import external_data_helper, helper, inliner

from edgetl.engines.base import first_line
from edgetl.errors import TraceError, UsageError
from edgetl.exporter.adopt_run import TYPES, Given, GivenNetwork
from edgetl.files import sha256_bytes
from edgetl.spec import Normalize

Layout = Literal["auto", "nchw", "nhwc"]

OLDEST_OPSET = 7
_TRIAL_SEED = 0
_QUANTIZED = ("QuantizeLinear", "QLinear", "ConvInteger", "MatMulInteger", "DynamicQuantize")
_PASSING = ("Identity", "Cast", "Dropout")  # between the last layer and the output
_NOT_ONNX = "give a whole file that an exporter to ONNX wrote."
_SPLIT_IT = "cut the file to one image input and its logits with onnx.utils.extract_model."


def read_given(data: bytes | Path, *, size: int | None = None, layout: Layout = "auto") -> Given:
    """Read an ONNX classifier: one image input, one output `(N, classes)`.

    `size` in pixels is needed where the file leaves it open, `layout` where the shape does not
    show it. Raises UsageError for options that the file contradicts or that are missing, TraceError
    for files that are no such classifier or cannot be run.
    """
    model, name, sha256 = _load(data)
    opset = _opset(model, name)
    if model.functions:
        model = inliner.inline_local_functions(model)
    for node in _all_nodes(model.graph):
        _refuse(node, name)
    given = _interface(model, name, size, layout)
    notes = _cut(model.graph, opset, name)
    given = given._replace(sha256=sha256, opset=opset, notes=notes)
    return given._replace(classes=_trial(given))


# --- reading ----------------------------------------------------------------------------------


def _load(source: bytes | Path) -> tuple[onnx.ModelProto, str, str]:
    """The self-contained model, its name for messages, and its hash."""
    name, home, data = "the ONNX model", None, b""
    if isinstance(source, bytes):
        data = source
    else:
        name, home, data = source.name, source.parent, _bytes(source)
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise TraceError(f"{name} is not an ONNX file.", fix=_NOT_ONNX) from error
    if not model.graph.node or not model.ir_version:
        raise TraceError(f"{name} is not an ONNX file.", fix=_NOT_ONNX)
    return model, name, sha256_bytes(data + _load_outside(model, name, home))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"Cannot read {path}: {error.strerror}.", fix="give the path of an ONNX file."
        ) from error


def _load_outside(model: onnx.ModelProto, name: str, home: Path | None) -> bytes:
    """Take the tensors that lie in other files into the model; return the files' bytes."""
    places: dict[str, None] = {}  # in order of first use
    for tensor in _tensors(model.graph):
        if external_data_helper.uses_external_data(tensor):
            places |= {e.value: None for e in tensor.external_data if e.key == "location"}
    held = b""
    for place in places:
        inside = not Path(place).is_absolute() and ".." not in Path(place).parts
        path = home / place if home is not None and inside else None
        if path is None or not path.is_file():
            raise TraceError(
                f"{name} keeps weights in the file '{place}', which is not beside it.",
                fix=f"put '{Path(place).name}' into the folder of the ONNX file, or export it "
                "with external_data=False.",
            )
        held += _bytes(path)
    if places:
        try:
            external_data_helper.load_external_data_for_model(model, str(home))
        except Exception as error:  # OSError, ValueError or the checker's own
            raise TraceError(
                f"{name} cannot read its external data: {first_line(error)}",
                fix="copy the ONNX file and its data again, or export with external_data=False.",
            ) from error
    return held


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in _all_nodes(graph):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t


def _opset(model: onnx.ModelProto, name: str) -> int:
    versions = [e.version for e in model.opset_import if e.domain in ("", "ai.onnx")]
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not OLDEST_OPSET <= versions[0] <= newest:
        found = f"opset {versions[0]}" if versions else "no standard opset"
        raise TraceError(
            f"{name} has {found}; read are opsets {OLDEST_OPSET} to {newest}.",
            fix="export the model again at opset 17.",
        )
    return int(versions[0])


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, inner graphs after the node that holds them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _all_nodes(inner)


def _refuse(node: onnx.NodeProto, name: str) -> None:
    """TraceError for operators that no target reads, or that say that the model is no FP32 one."""
    where = f"{node.op_type} '{node.name or node.output[0]}'"
    if node.op_type.startswith(_QUANTIZED) or node.op_type == "DequantizeLinear":
        raise TraceError(
            f"{name} is quantized already: it holds {where}.",
            fix="give the floating-point model; edgetl quantizes it for each target.",
        )
    if node.domain not in ("", "ai.onnx"):
        raise TraceError(
            f"{name}: {where} is of the operator domain '{node.domain}'; no target reads it.",
            fix="export the model again with standard operators, not optimised for one runtime.",
        )
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    if any(a.type in kinds for a in node.attribute):
        raise TraceError(
            f"{name}: {where} is control flow, which targets cannot read.",
            fix="export the model by tracing, in evaluation mode and with fixed image size.",
        )
    training = any(a.name == "training_mode" and a.i for a in node.attribute)
    if training or node.op_type.startswith("Random"):
        raise TraceError(
            f"{name}: {where} belongs to training.",
            fix="export the model in evaluation mode: model.eval().",
        )


# --- the interface ----------------------------------------------------------------------------


def _interface(model: onnx.ModelProto, name: str, size: int | None, layout: Layout) -> Given:
    """What the file takes and returns; everything else of Given is filled in later."""
    graph = model.graph
    stored = {i.name for i in graph.initializer}
    inputs = [i for i in graph.input if i.name not in stored]
    for what, values in (("inputs", inputs), ("outputs", list(graph.output))):
        if len(values) != 1:
            names = ", ".join(v.name for v in values[:4]) or "none"
            raise TraceError(f"{name} has {len(values)} {what} ({names}), not one.", fix=_SPLIT_IT)
    kind = inputs[0].type.tensor_type
    dims = [d.dim_value for d in kind.shape.dim] if kind.HasField("shape") else [0] * 4
    if kind.elem_type not in TYPES or len(dims) != 4:
        raise TraceError(
            f"{name}'s input '{inputs[0].name}' is {_type_name(kind.elem_type)} {_shown(dims)}, "
            "not float32, float16 or uint8 images of four axes.",
            fix="give an image classifier that reads (N, 3, H, W) or (N, H, W, 3).",
        )
    found = _layout(dims, layout, f"{name}'s input '{inputs[0].name}'")
    sides = dims[2:] if found == "nchw" else dims[1:3]
    return Given(
        model=model,
        name=name,
        sha256="",
        opset=0,
        input=inputs[0].name,
        output=graph.output[0].name,
        dtype=kind.elem_type,
        layout=found,
        batch=dims[0],
        size=_size(sides, size, name),
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


def _size(sides: list[int], asked: int | None, name: str) -> int:
    fixed = {side for side in sides if side}
    if len(fixed) > 1:
        raise TraceError(
            f"{name} reads images of {sides[0]}x{sides[1]} pixels; edgetl's are square.",
            fix="export the model for square images.",
        )
    if not fixed and asked is None:
        raise UsageError(f"{name} leaves the image size open.", fix="give it: --size 224")
    size = asked if asked is not None else fixed.pop()
    if fixed and size not in fixed:
        raise UsageError(
            f"--size {size} contradicts {name}, which reads {fixed.pop()} pixels.",
            fix="leave --size away, or export the model for that size.",
        )
    if size < 1:
        raise UsageError(f"--size {size} is not possible.", fix="give pixels, such as 224.")
    return size


def _cut(graph: onnx.GraphProto, opset: int, name: str) -> tuple[str, ...]:
    """Make the input of a Softmax at the end the graph's output; say so."""
    makers = {output: node for node in graph.node for output in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in _PASSING:
        node = makers.get(node.input[0])
    if node is not None and node.op_type == "Sigmoid":
        raise TraceError(
            f"{name} ends in Sigmoid '{node.name}': several classes may be true at once.",
            fix="give a model that picks one class, or one without the Sigmoid.",
        )
    if node is None or node.op_type not in ("Softmax", "LogSoftmax"):
        return ()
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1 if opset < 13 else -1)
    if axis not in (1, -1):
        return ()
    kind = graph.output[0].type.tensor_type.elem_type
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(node.input[0], kind, None))
    return (f"the {node.op_type} at the end is left out: edgetl's models return logits",)


def _trial(given: Given) -> int:
    """Run the file once; return its number of classes."""
    side = given.size
    noise = np.random.default_rng(_TRIAL_SEED).integers(0, 256, (2, side, side, 3), np.uint8)
    rows = GivenNetwork(given).logits(noise, Normalize())
    if rows.shape[1] < 2:
        raise TraceError(
            f"{given.name} returns '{given.output}' with {rows.shape[1]} column.",
            fix="end the model with one logit a class, two at least.",
        )
    if (rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-3):
        raise TraceError(
            f"{given.name} returns probabilities, but does not end in Softmax.",
            fix="cut the file to its logits with onnx.utils.extract_model.",
        )
    return int(rows.shape[1])


def _shown(dims: list[int]) -> str:
    return "[" + ", ".join(str(d) if d else "?" for d in dims) + "]"


def _type_name(kind: int) -> str:
    return str(onnx.TensorProto.DataType.Name(kind)).lower()
