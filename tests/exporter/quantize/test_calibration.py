"""Ranges of inner tensors: exact extremes, percentile and entropy against slow references."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgetl.errors import EngineError, TraceError, UsageError
from edgetl.exporter.backends.base import CANONICAL
from edgetl.exporter.quantize.calibration import (
    BINS,
    activation_ranges,
    entropy_limit,
    percentile_limit,
)

NAMES = ("normalized", "x4", "x5", "x7", "logits")


@pytest.fixture(scope="module")
def canonical(tiny: Any) -> bytes:
    """The tiny network, two convolutions; x4 is signed, x5 and x7 are not."""
    return bytes(tiny("ort-fp32").files[CANONICAL])


@pytest.fixture(scope="module")
def everything(canonical: bytes, tiny_images: Any) -> dict[str, np.ndarray]:
    """All values of the named tensors, in one batch."""
    model = onnx.load_model_from_string(canonical)
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in NAMES[:-1])
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return dict(zip(NAMES, session.run(NAMES, {"images": tiny_images}), strict=True))


def test_minmax_is_exact(canonical: bytes, tiny_images: Any, everything: dict[str, Any]) -> None:
    found = activation_ranges(canonical, tiny_images, NAMES, methods=("minmax",))
    assert set(found) == {"minmax"}
    assert tuple(found["minmax"]) == NAMES
    for name, (low, high) in found["minmax"].items():
        assert low == pytest.approx(everything[name].min(), rel=1e-5, abs=1e-6)
        assert high == pytest.approx(everything[name].max(), rel=1e-5)


def test_percentile_clips_that_share(
    canonical: bytes, tiny_images: Any, everything: dict[str, Any]
) -> None:
    """99.99 % of absolute values, within a bin; one sign may reach less far."""
    found = activation_ranges(canonical, tiny_images, NAMES, methods=("percentile", "minmax"))
    for name, (low, high) in found["percentile"].items():
        values = np.abs(everything[name]).ravel()
        bin_width = float(values.max()) / BINS
        wanted = np.sort(values)[min(int(np.ceil(0.9999 * len(values))), len(values)) - 1]
        assert max(-low, high) == pytest.approx(wanted, abs=1.5 * bin_width)
        least, most = found["minmax"][name]
        assert least <= low <= high <= most
    assert found["percentile"]["x5"][0] == 0


def test_entropy_stays_inside(canonical: bytes, tiny_images: Any) -> None:
    """Never wider than the extremes, and at least 128 of 2048 bins wide."""
    found = activation_ranges(canonical, tiny_images, NAMES, methods=("minmax", "entropy"))
    for name, (low, high) in found["entropy"].items():
        least, most = found["minmax"][name]
        peak = max(-least, most)
        assert least <= low <= high <= most
        assert peak * 128 / BINS <= max(-low, high) * 1.0001
    again = activation_ranges(canonical, tiny_images, NAMES, methods=("entropy",))
    assert again["entropy"] == found["entropy"]


def slow_entropy(counts: np.ndarray, levels: int) -> float:
    """The same search, one length at a time, as the method is usually written."""
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    best, where = np.inf, len(bins)
    for length in range(levels, len(bins) + 1):
        p = bins[:length].copy()
        p[np.flatnonzero(p)[-1] if p.any() else -1] += bins[length:].sum()
        q = np.zeros(length)
        for level in range(levels):
            part = slice(level * length // levels, (level + 1) * length // levels)
            filled = bins[part] > 0
            if filled.any():
                q[part][filled] = bins[part].sum() / filled.sum()
        if not q.sum():
            continue
        p, q = p / p.sum(), q / q.sum()
        there = p > 0
        with np.errstate(divide="ignore"):
            divergence = float((p[there] * np.log(p[there] / q[there])).sum())
        if divergence < best - 1e-12:
            best, where = divergence, length
    return where / len(bins)


@pytest.mark.parametrize("seed", range(4))
def test_entropy_equals_the_slow_search(seed: int) -> None:
    """Bell curves with a long tail and empty bins; the vectorised search finds the same length."""
    rng = np.random.default_rng(seed)
    values = np.abs(np.concatenate([rng.normal(size=20000), 4 * rng.normal(size=200)]))
    counts = np.histogram(values, 256, (0, values.max()))[0]
    assert entropy_limit(counts, 16) == slow_entropy(counts, 16)
    assert 16 / 256 <= entropy_limit(counts, 16) < 1


def test_limits_of_plain_histograms() -> None:
    counts = np.zeros(BINS, np.int64)
    counts[:100] = 10
    assert percentile_limit(counts, 0.5) == pytest.approx(50 / BINS)
    assert percentile_limit(counts, 1.0) == pytest.approx(100 / BINS)
    counts[:100:2], counts[-1] = 1000, 1
    assert entropy_limit(counts) == 128 / BINS  # one stray value does not widen the range
    assert entropy_limit(np.eye(1, BINS, dtype=np.int64)[0]) == 1  # nothing but zeros


def test_a_dead_tensor_has_no_width(canonical: bytes, tiny_images: Any) -> None:
    model = onnx.load_model_from_string(canonical)
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "b1"):
            zeros = np.zeros_like(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    methods = ("minmax", "percentile", "entropy")
    found = activation_ranges(model.SerializeToString(), tiny_images, ["x5"], methods=methods)
    assert found == {method: {"x5": (0.0, 0.0)} for method in methods}


def test_nothing_asked(canonical: bytes, tiny_images: Any) -> None:
    assert activation_ranges(canonical, tiny_images, [], methods=("entropy",)) == {"entropy": {}}


def test_what_is_not_finite_is_named(canonical: bytes, tiny_images: Any) -> None:
    """NaN and infinity, with the image."""
    for value in (np.nan, np.inf):
        model = onnx.load_model_from_string(canonical)
        tensor = next(i for i in model.graph.initializer if i.name == "b2")
        bias = numpy_helper.to_array(tensor).copy()
        bias[3] = value
        tensor.CopyFrom(numpy_helper.from_array(bias, "b2"))
        with pytest.raises(TraceError, match=r"Tensor 'x6' holds NaN or infinity on .*image 0"):
            activation_ranges(
                model.SerializeToString(), tiny_images, ["x4", "x6"], methods=("minmax",)
            )


def test_bad_requests(canonical: bytes, tiny_images: Any) -> None:
    minmax = ("minmax",)
    with pytest.raises(UsageError, match="computes no tensor 'nowhere'"):
        activation_ranges(canonical, tiny_images, ["x4", "nowhere"], methods=minmax)
    with pytest.raises(UsageError, match="computes no tensor 'w1'"):
        activation_ranges(canonical, tiny_images, ["w1"], methods=minmax)
    for images in (tiny_images[:0], tiny_images[:, :16], tiny_images.astype(np.float32)):
        with pytest.raises(UsageError, match="Calibration images are"):
            activation_ranges(canonical, images, ["x4"], methods=minmax)
    with pytest.raises(TraceError, match="not an ONNX model"):
        activation_ranges(b"\xff\xd8", tiny_images, ["x4"], methods=minmax)
    model = onnx.load_model_from_string(canonical)
    model.graph.node[4].op_type = "Konv"
    with pytest.raises(EngineError, match="cannot run the model for calibration"):
        activation_ranges(model.SerializeToString(), tiny_images, ["x4"], methods=minmax)
    model = onnx.load_model_from_string(canonical)
    whole = onnx.helper.make_node("Shape", ["x4"], ["shape"], "shape")
    model.graph.node.append(whole)
    with pytest.raises(UsageError, match=r"'shape' is tensor\(int64\), not float32"):
        activation_ranges(model.SerializeToString(), tiny_images, ["shape"], methods=minmax)
