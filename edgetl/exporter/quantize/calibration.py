"""Ranges of a network's inner tensors over photos: for calibration, and for what FP16 can hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from edgetl.errors import EngineError, TraceError, UsageError
from edgetl.exporter.onnx.checks import (
    FLOAT,
    INPUT,
    NORMALIZED,
    PREPROCESS,
    check_images,
    host_runtime,
    parse_onnx,
    tensor_types,
)
from edgetl.inputs.base import Pixels
from edgetl.spec import Calibrator

Range = tuple[float, float]
Ranges = dict[str, Range]
Counts = npt.NDArray[np.int64]

# Integers of activations, the finer first: with any zero point; with zero point 0, signed only
# where values are (OpenVINO); with zero point 0, always signed (TensorRT, Arm).
Rounding = Literal["asymmetric", "signed", "symmetric"]

BINS = 2048
LEVELS = 128  # 0 and the 127 positive values of int8
CLIPPED = 0.05  # share of the values that entropy may clip at most
PERCENTILE = 0.9999  # share of the absolute values that is not clipped


def float_tensors(model: bytes) -> list[str]:
    """Names of what a network computes in float32, from its normalised image on, in graph order."""
    proto = parse_onnx(model)
    types = tensor_types(proto)
    inner = [o for n in proto.graph.node if not n.name.startswith(PREPROCESS) for o in n.output]
    return [NORMALIZED, *(name for name in inner if types.get(name) == FLOAT)]


def activation_ranges(
    model: bytes,
    images: Pixels,
    tensors: Iterable[str],
    *,
    methods: tuple[Calibrator, ...],
) -> dict[Calibrator, Ranges]:
    """Find (low, high) of float32 `tensors` over `images` by each calibration method.

    `images` is uint8 `(N, size, size, 3)`, N ≥ 1; ONNX Runtime reads them one at a time, once for
    "minmax" and once more for a histogram of absolute values, so that one image's tensors are held
    at a time. "percentile" clips the largest 0.01 % of all absolute values, whatever their sign;
    "entropy" clips where 128 levels tell least apart from the 2048 bins (Kullback-Leibler, as
    TensorRT's calibrator). Both look at magnitudes alone, as symmetric scales need, and never
    exceed "minmax". Raises UsageError for images or tensors that do not fit, TraceError naming a
    tensor that is not finite.
    """
    names = tuple(dict.fromkeys(tensors))
    proto = parse_onnx(model)
    check_images(proto, images)
    if not names:
        return {method: {} for method in methods}
    session = _session(proto, names)
    lows, highs = _extremes(session, images, names)
    plain = {name: (float(lows[i]), float(highs[i])) for i, name in enumerate(names)}
    peaks = np.maximum(np.abs(lows), np.abs(highs))
    result = {method: dict(plain) for method in methods}
    clipping = {*methods} - {"minmax"}
    counts = _histograms(session, images, names, peaks) if clipping else {}
    for method in clipping:
        find = percentile_limit if method == "percentile" else entropy_limit
        for name, peak in zip(names, peaks, strict=True):
            limit = float(find(counts[name]) * peak) if peak > 0 else 0.0
            low, high = plain[name]
            result[method][name] = (max(low, -limit), min(high, limit))
    return result


def percentile_limit(counts: Counts, share: float = PERCENTILE) -> float:
    """Where `share` of a histogram lies below, as a fraction 0…1 of its length."""
    below = np.cumsum(counts)
    wanted = share * below[-1]
    last = int(np.searchsorted(below, wanted))
    before = below[last - 1] if last else 0
    return float((last + (wanted - before) / counts[last]) / len(counts))


def entropy_limit(counts: Counts, levels: int = LEVELS) -> float:
    """Where to clip a histogram for the least divergence, as a fraction 0…1 of its length.

    For every length i ≥ `levels`, the first i bins with all the rest in the last of them that is
    not empty (P) are compared with the same bins merged into `levels` and spread out again over
    those that are not empty (Q). The divergences of all i come from running sums at once. Zeros,
    which every scale represents exactly, do not count: the first bin is taken to be as full as the
    second.
    """
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    total = bins.sum()
    if not total:
        return 1.0
    lengths = np.arange(levels, len(bins) + 1)
    edges = lengths[:, None] * np.arange(levels + 1) // levels
    masses = np.diff(_running(bins)[edges], axis=1)
    filled = np.diff(_running(bins > 0)[edges], axis=1)
    filled_last = np.maximum.accumulate(np.where(bins > 0, np.arange(len(bins)), 0))[lengths - 1]
    group = -(-(filled_last + 1) * levels // lengths) - 1
    last, rest = bins[filled_last], total - _running(bins)[lengths]
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log(masses / filled / masses.sum(1, keepdims=True))
        cross = np.where(masses > 0, masses * level, 0).sum(1)
        cross += np.where(rest > 0, rest * level[np.arange(len(lengths)), group], 0)
        own = _running(_plogp(bins))[lengths] + _plogp(last + rest) - _plogp(last)
        divergence = (own - cross) / total - np.log(total)
    divergence[rest > CLIPPED * total] = np.inf  # few filled bins resemble anything
    return float(lengths[int(np.nanargmin(divergence))] / len(bins))


def _running(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _plogp(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return values * np.log(np.where(values > 0, values, 1))


# --- running ----------------------------------------------------------------------------------


def _session(proto: onnx.ModelProto, names: tuple[str, ...]) -> Any:
    """Open a session that returns `names` besides the network's own outputs."""
    opened = host_runtime("Calibration", severity=3)
    stored = {o.name for o in proto.graph.output}
    made = {o for node in proto.graph.node for o in node.output}
    for name in names:
        if name not in made:
            raise UsageError(
                f"The model computes no tensor '{name}'.", fix="name outputs of its nodes."
            )
        if name not in stored:
            proto.graph.output.append(onnx.ValueInfoProto(name=name))
    try:
        session = opened(proto.SerializeToString())
    except Exception as error:  # onnxruntime raises many unrelated types
        raise EngineError(
            f"ONNX Runtime cannot run the model for calibration: {error}",
            fix="see `edgetl doctor`; if that finds nothing, report the model's architecture.",
        ) from error
    kinds = {o.name: o.type for o in session.get_outputs()}
    for name in names:
        if kinds[name] != "tensor(float)":
            raise UsageError(
                f"Tensor '{name}' is {kinds[name]}, not float32.", fix="name float32 tensors."
            )
    return session


def _values(
    session: Any, images: Pixels, names: tuple[str, ...]
) -> Iterator[list[npt.NDArray[np.float32]]]:
    for index in range(len(images)):
        yield session.run(list(names), {INPUT: images[index : index + 1]})


def _extremes(
    session: Any, images: Pixels, names: tuple[str, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    lows, highs = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for number, values in enumerate(_values(session, images, names)):
        lows = np.minimum(lows, [v.min() for v in values])
        highs = np.maximum(highs, [v.max() for v in values])
        bad = ~(np.isfinite(lows) & np.isfinite(highs))  # NaN stays NaN in minimum and maximum
        if bad.any():
            raise TraceError(
                f"Tensor '{names[int(bad.argmax())]}' holds NaN or infinity on calibration image "
                f"{number}.",
                fix="train again with a lower learning rate.",
            )
    return lows, highs


def _histograms(
    session: Any, images: Pixels, names: tuple[str, ...], peaks: npt.NDArray[np.float64]
) -> dict[str, Counts]:
    """`BINS` counts of absolute values from 0 to each tensor's peak."""
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    factors = [np.float32(BINS / p) if p > 0 else np.float32(0) for p in peaks]
    for values in _values(session, images, names):
        for name, value, factor in zip(names, values, factors, strict=True):
            place = np.abs(value.ravel())
            place *= factor
            found = np.bincount(place.astype(np.intp), minlength=BINS + 1)
            found[BINS - 1] += found[BINS:].sum()  # the peak itself
            counts[name] += found[:BINS]
    return counts
