"""TensorRT's explicit quantization, written into the ONNX file as Q/DQ pairs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgetl.errors import TraceError
from edgetl.exporter.onnx.checks import parse_onnx
from edgetl.exporter.onnx.fp16 import raise_opset, strong_fp16
from edgetl.exporter.onnx.passes import refill
from edgetl.exporter.quantize.calibration import Range
from edgetl.exporter.tensorrt.placement import Edge, Placement
from edgetl.exporter.tensorrt.rules import check_trt_qdq

Ranges = Mapping[str, Range]
Array = npt.NDArray[np.float32]

LARGEST = 127  # of int8; -128 is not used, so that both signs reach equally far

_SMALLEST = 2.0**-24  # above 0 in FP16
_AGAIN = "calibrate every tensor that `float_tensors` names."


def trt_qdq(
    canonical: bytes,
    ranges: Ranges,
    *,
    strong: bool,
    exclude: tuple[str, ...] = (),
    keep_float: frozenset[str] = frozenset(),
    weight_scales: Mapping[str, npt.NDArray[np.floating]] | None = None,
) -> bytes:
    """Write the canonical ONNX with explicit INT8 Q/DQ for TensorRT.

    `ranges` holds (low, high) of every tensor of `float_tensors`; a scale is the larger
    magnitude / 127, zero-points are 0. `exclude` names operator types and `keep_float` nodes that
    stay in floating point. `weight_scales` gives scales `(channels,)` of weights by initializer
    name in place of max|w| / 127. `strong=False`: float32 otherwise, opset as before, for TensorRT
    8.5 up to 10.11. `strong=True`: float16 otherwise, scales too, opset 19. Placement, scales and
    integers are the same in both, since scales are rounded up to what FP16 holds.

    Weights are stored in floating point, already rounded to their integers, with Q and DQ behind
    them: TensorRT 8 refuses INT8 initializers ("invalid weights type of Int8",
    microsoft/onnxruntime#11535), and from 10 on it reads both forms (NVIDIA's guide, "Quantized
    Weights"). Each pair has a scale and zero-point of its own, as ONNX Runtime's quantizer writes.
    `engines.onnxruntime.open_unfused` opens a file to score it in TensorRT's place. Raises
    TraceError naming a tensor without a range, or when nothing is left to quantize.
    """
    model = parse_onnx(canonical)
    placement = Placement(model, exclude=exclude, keep_float=keep_float)
    if not placement.weights:
        raise TraceError(
            "No layer of the network is left to quantize.",
            fix="use an FP16 recipe, or keep fewer layers in floating point.",
        )
    _write(model, placement, _activation_scales(placement, ranges), weight_scales or {})
    data = bytes(model.SerializeToString(deterministic=True))
    if strong:
        data = strong_fp16(raise_opset(data))
    check_trt_qdq(data, strong=strong, exclude=exclude, keep_float=keep_float)
    return data


# --- scales -----------------------------------------------------------------------------------


def _activation_scales(placement: Placement, ranges: Ranges) -> dict[str, Array]:
    """Scale `()` of every quantized tensor; the tensors of a group share the largest range."""
    peaks: dict[str, float] = {}
    for edge in placement.activations:
        if edge.tensor not in ranges:
            raise TraceError(f"Tensor '{edge.tensor}' has no calibrated range.", fix=_AGAIN)
        peaks[edge.tensor] = float(np.max(np.abs(ranges[edge.tensor])))  # NaN stays NaN
    for group in placement.groups:
        peaks |= dict.fromkeys(group, max(peaks[name] for name in group))
    return {name: _scale(np.array(peak), name) for name, peak in peaks.items()}


def _weight_scale(
    name: str, weight: Array, axis: int, given: npt.NDArray[np.floating] | None
) -> Array:
    """Scale `(channels,)` of a weight."""
    others = tuple(a for a in range(weight.ndim) if a != axis)
    if given is None:
        return _scale(np.abs(weight).max(axis=others), name)
    if given.shape != (weight.shape[axis],) or not (np.isfinite(given) & (given > 0)).all():
        raise TraceError(
            f"The scales of weight '{name}' are {given.dtype} {given.shape}, or not all positive.",
            fix=f"give {weight.shape[axis]} positive scales, one for each output channel.",
        )
    return _scale(given.astype(np.float64) * LARGEST, name)


def _scale(peak: npt.NDArray[np.floating], name: str) -> Array:
    """peak / 127 rounded up to a float16 value, as float32; 1 where the peak is 0."""
    exact = peak.astype(np.float64) / LARGEST
    with np.errstate(over="ignore"):
        half = np.maximum(exact, _SMALLEST).astype(np.float16)
    half = np.where(half < exact, np.nextafter(half, np.float16(np.inf)), half)
    if not np.isfinite(exact).all() or not np.isfinite(half).all():
        raise TraceError(
            f"Tensor '{name}' reaches {float(np.max(peak)):.4g}, which no FP16 scale can hold.",
            fix="export to FP32 recipes only, or train with weight decay.",
        )
    return np.where(exact > 0, half, 1).astype(np.float32)


# --- writing ----------------------------------------------------------------------------------


class _Pairs:
    """Nodes and initializers of the Q/DQ pairs that are written so far, one pair a tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._made: dict[tuple[str, int], str] = {}

    def add(self, tensor: str, scale: Array, axis: int = -1) -> str:
        """Write the pair of `tensor`, unless it is there, and return what the DQ makes."""
        if (tensor, axis) in self._made:
            return self._made[tensor, axis]
        base = f"{tensor}/axis{axis}" if axis > 0 else tensor
        names = [f"{base}/scale", f"{base}/zero_point"]
        arrays = scale, np.zeros(scale.shape, np.int8)
        self.constants += map(numpy_helper.from_array, arrays, names)
        whole, back = f"{base}/int8", f"{base}/dequantized"
        options = {} if axis < 0 else {"axis": axis}
        self.nodes += [
            helper.make_node(
                "QuantizeLinear", [tensor, *names], [whole], f"{base}/quantize", **options
            ),
            helper.make_node(
                "DequantizeLinear", [whole, *names], [back], f"{base}/dequantize", **options
            ),
        ]
        self._made[tensor, axis] = back
        return back


def _write(
    model: onnx.ModelProto,
    placement: Placement,
    scales: Mapping[str, Array],
    weight_scales: Mapping[str, npt.NDArray[np.floating]],
) -> None:
    """Put every pair before its first reader, and round the weights to what the pairs keep."""
    pairs, nodes = _Pairs(), list[onnx.NodeProto]()
    edges: dict[int, list[Edge]] = {}
    for edge in (*placement.activations, *placement.weights):
        edges.setdefault(edge.node, []).append(edge)
    for index, node in enumerate(placement.nodes):
        for edge in edges.get(index, []):
            name, axis = edge.tensor, placement.weights.get(edge)
            if axis is None:
                node.input[edge.slot] = pairs.add(name, scales[name])
                continue
            stored = placement.wires.constants[name]
            weight = numpy_helper.to_array(stored)
            scale = _weight_scale(name, weight, axis, weight_scales.get(name))
            node.input[edge.slot] = pairs.add(name, scale, axis)
            if len(placement.wires.readers(name)) == 1:
                stored.CopyFrom(numpy_helper.from_array(_rounded(weight, scale, axis), name))
        nodes += [*pairs.nodes, node]
        pairs.nodes.clear()
    refill(model.graph.node, nodes)
    del model.graph.value_info[:]
    model.graph.initializer.extend(pairs.constants)


def _rounded(weight: Array, scale: Array, axis: int) -> Array:
    """The values that `weight` has after Q and DQ, so that float16 does not round it elsewhere."""
    step = np.expand_dims(scale, tuple(a for a in range(weight.ndim) if a != axis))
    whole = np.clip(np.rint(weight / step), -LARGEST, LARGEST)
    return np.asarray(whole * step, np.float32)
