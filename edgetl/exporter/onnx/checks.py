"""Checks of written ONNX files: what every target must be able to read, and what FP16 means."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgetl.errors import TraceError, UsageError, missing_extra
from edgetl.machine import available_cores

FLOAT, FLOAT16, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.UINT8
INPUT = "images"
PREPROCESS = "preprocess/"  # names of the nodes that stay as they are start so
NORMALIZED = "normalized"  # what the network proper reads: float32 (N, 3, size, size)

_AGAIN = "export again with edgetl; if that does not help, report the model's architecture."
_HEAVY = frozenset({"Conv", "Gemm", "MatMul"})
_WEIGHTED = _HEAVY | {"ConvTranspose"}
_DOMAINS = frozenset({"", "ai.onnx"})


def check_onnx(model: bytes, *, max_opset: int = 17, max_ir: int = 10) -> None:
    """Refuse an ONNX file that a target could not read.

    Checks onnx.checker (full), opset, IR version, domains and functions, external data, the input
    `images` uint8 `(N, H, W, 3)` and outputs float32 `(N, …)` of fixed shapes; N is symbolic, or 1
    in all of them for a network that takes one image a run.
    Raises TraceError naming what and where.
    """
    proto = parse_onnx(model)
    _check_versions(proto, max_opset=max_opset, max_ir=max_ir)
    _check_self_contained(proto)
    _check_interface(proto)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise TraceError(f"The ONNX checker refuses the model: {error}", fix=_AGAIN) from error


def output_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the outputs, without N, by name; 0 for an axis that is not fixed."""
    return {
        o.name: tuple(d.dim_value for d in o.type.tensor_type.shape.dim)[1:]
        for o in model.graph.output
    }


def takes_one(model: onnx.ModelProto) -> bool:
    """Whether a canonical ONNX, or a file made of one, takes one image a run: its N is 1."""
    return bool(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1)


def check_images(model: onnx.ModelProto, images: npt.NDArray[np.uint8]) -> None:
    """Raise UsageError unless `images` is uint8 `(N, H, W, 3)` of the model's size, N ≥ 1."""
    wanted = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[1:] != wanted
        or not len(images)
    ):
        raise UsageError(
            f"Calibration images are {images.dtype} {images.shape}; the model reads uint8 "
            f"{('N', *wanted)}.".replace("'", ""),
            fix="give at least one image, prepared by the model's own preprocessing.",
        )


def check_fp16(model: bytes) -> None:
    """Refuse a file that strongly typed TensorRT would not run in FP16 as a whole.

    Every Conv, Gemm and MatMul has float16 inputs, every tensor has a type by strict shape
    inference, floats are cast only at the borders (behind the input, before the output) and the
    graph output is float32. Raises TraceError naming the node.
    """
    types = tensor_types(parse_onnx(model))
    graph = onnx.load_model_from_string(model).graph
    for node in graph.node:
        for name in (*node.input, *node.output):
            if name and name not in types:
                raise TraceError(f"Tensor '{name}' of {label(node)} has no type.", fix=_AGAIN)
        wrong = [n for n in node.input if n and types[n] != FLOAT16]
        if node.op_type in _HEAVY and wrong:
            raise TraceError(
                f"{label(node)} reads '{wrong[0]}' as {type_name(types[wrong[0]])}, not float16.",
                fix=_AGAIN,
            )
    _check_casts(graph, types)
    for output in graph.output:
        if output.type.tensor_type.elem_type != FLOAT:
            raise TraceError(f"Output '{output.name}' is not float32.", fix=_AGAIN)


def tensor_types(proto: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor that has one, by strict shape inference.

    Raises TraceError when inference finds a contradiction, for example a Conv of mixed types.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise TraceError(f"The tensor types contradict each other: {error}", fix=_AGAIN) from error
    graph = inferred.graph
    types = {i.name: int(i.data_type) for i in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type:
            types[value.name] = value.type.tensor_type.elem_type
    return types


class Wires:
    """Which nodes make and read each tensor of a graph; `constants` are its initializers."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.maker = {o: n for n in graph.node for o in n.output}
        self.constants = {i.name: i for i in graph.initializer}
        self.outputs = {o.name for o in graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """Nodes that read `tensor`, each once, in graph order."""
        return self._readers.get(tensor, [])

    def after_weights(self) -> set[str]:
        """Tensors on the ways to the outputs from the last layers with weights, without theirs."""
        found: set[str] = set()
        behind = [*self.outputs]
        while behind:
            name = behind.pop()
            node = self.maker.get(name)
            if node is not None and name not in found and node.op_type not in _WEIGHTED:
                found.add(name)
                behind += node.input
        return found

    def made_by(self, tensor: str) -> str:
        """Operator type of the node that makes `tensor`; empty for inputs and constants."""
        node = self.maker.get(tensor)
        return "" if node is None else node.op_type


def parse_onnx(model: bytes) -> onnx.ModelProto:
    """Read the bytes of an ONNX file; TraceError when they are something else."""
    try:
        return onnx.load_model_from_string(model)
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise TraceError(f"These bytes are not an ONNX model: {error}", fix=_AGAIN) from error


def host_runtime(what: str, *, severity: int = 4) -> Callable[[bytes], Any]:
    """What opens the bytes of an ONNX file in ONNX Runtime, on this processor.

    Of its own messages it prints those of `severity` and above; 4 is the gravest. Raises
    EngineMissingError, for `what` needs it, where it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("export", what) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.log_severity_level = severity
    return partial(
        onnxruntime.InferenceSession, sess_options=options, providers=["CPUExecutionProvider"]
    )


def _check_versions(proto: onnx.ModelProto, *, max_opset: int, max_ir: int) -> None:
    if proto.ir_version > max_ir:
        raise TraceError(
            f"The model has IR version {proto.ir_version}; its targets read up to {max_ir}.",
            fix=_AGAIN,
        )
    for entry in proto.opset_import:
        if entry.domain not in _DOMAINS:
            raise TraceError(
                f"The model imports the operator domain '{entry.domain}'.",
                fix="use only standard operators in the network.",
            )
        if entry.version > max_opset:
            raise TraceError(
                f"The model has opset {entry.version}; its targets read up to {max_opset}.",
                fix=_AGAIN,
            )


def _check_self_contained(proto: onnx.ModelProto) -> None:
    for function in proto.functions:
        raise TraceError(f"The model holds the local function '{function.name}'.", fix=_AGAIN)
    for node in proto.graph.node:
        if node.domain not in _DOMAINS:
            raise TraceError(
                f"{label(node)} is of the operator domain '{node.domain}'.",
                fix="use only standard operators in the network.",
            )
    for tensor in attached(proto.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise TraceError(f"Tensor '{tensor.name}' lies outside the file.", fix=_AGAIN)


def _check_interface(proto: onnx.ModelProto) -> None:
    stored = {i.name for i in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in stored]
    pattern = rf"{INPUT} uint8 \[([A-Za-z_]\w*|1), [1-9]\d*, [1-9]\d*, 3\]"
    if (images := re.fullmatch(pattern, _readable(inputs))) is None:
        raise TraceError(
            f"The model's input is {_readable(inputs)}, not {INPUT} uint8 [N, height, width, 3].",
            fix=_AGAIN,
        )
    count, many = ("1", "1") if images[1] == "1" else (r"[A-Za-z_]\w*", "N")
    pattern = rf"[A-Za-z_][\w.-]* float \[{count}(, [1-9]\d*)+\]"
    bad = [o for o in proto.graph.output if not re.fullmatch(pattern, _readable([o]))]
    if bad or not proto.graph.output:
        raise TraceError(
            f"The model's output is {_readable(bad)}, not float32 [{many}, …] of a fixed shape.",
            fix="let the network return float32 tensors whose first axis alone is free.",
        )


def _check_casts(graph: onnx.GraphProto, types: dict[str, int]) -> None:
    """Allow one cast to float32 at the input, one to float16, and one back before the output."""
    wide = 0
    outputs = {o.name for o in graph.output}
    for node in graph.node:
        if node.op_type != "Cast" or types[node.output[0]] not in (FLOAT, FLOAT16):
            continue
        from_images = node.input[0] == graph.input[0].name
        narrows = types[node.input[0]] == FLOAT and types[node.output[0]] == FLOAT16
        wide += narrows
        if not (from_images or node.output[0] in outputs or (narrows and wide == 1)):
            raise TraceError(f"{label(node)} casts inside the network.", fix=_AGAIN)
    if wide != 1:
        raise TraceError(f"The network is cast to float16 {wide} times, not once.", fix=_AGAIN)


def attached(graph: onnx.GraphProto) -> Iterable[onnx.TensorProto]:
    """The graph's initializers, and the tensors among the attributes of its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t


def _readable(values: Iterable[onnx.ValueInfoProto]) -> str:
    parts = (f"{v.name} {type_name(v.type.tensor_type.elem_type)} {_dims(v)}" for v in values)
    return "; ".join(parts).replace("'", "") or "absent"


def _dims(value: onnx.ValueInfoProto) -> list[str]:
    return [
        d.dim_param or (str(d.dim_value) if d.HasField("dim_value") else "?")
        for d in value.type.tensor_type.shape.dim
    ]


def type_name(kind: int) -> str:
    """An ONNX element type in words: "float16"."""
    return str(onnx.TensorProto.DataType.Name(kind)).lower()


def label(node: onnx.NodeProto) -> str:
    """A node in messages: its operator and name."""
    return f"{node.op_type} '{node.name}'"
