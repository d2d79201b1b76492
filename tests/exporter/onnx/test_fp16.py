"""Strongly typed FP16 keeps the result, and refuses weights that FP16 cannot hold."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from PIL import Image
from torch import nn

from edgetl.errors import TraceError
from edgetl.exporter.onnx.checks import check_fp16, check_onnx
from edgetl.exporter.onnx.fp16 import raise_opset, strong_fp16
from edgetl.exporter.onnx.trace import trace
from edgetl.inputs.image import sized
from edgetl.spec import Normalize

SIZE = 48


class Mixed(nn.Module):
    """One of each: clip, hard swish, gate, and a batch normalisation that no convolution takes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6())
        self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Hardswish())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Hardsigmoid())
        self.norm, self.head = nn.BatchNorm2d(32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.deep(x)
        z = self.norm(torch.cat([x, y * self.gate(y)], 1)).relu()
        return self.head(z.mean((2, 3)))


@pytest.fixture(scope="module")
def canonical() -> bytes:
    torch.manual_seed(1)
    model = Mixed()
    with torch.no_grad():
        model.train()(torch.randn(16, 3, SIZE, SIZE))
        model.norm.running_var[0] = 1e-7  # below FP16's smallest normal number
    return trace(model.eval(), sized(SIZE), Normalize())


def smooth_pictures(count: int) -> np.ndarray:
    """Colour gradients with noise: closer to photos than white noise is."""
    rng = np.random.default_rng(2)
    small = rng.integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    resized = [np.asarray(Image.fromarray(s).resize((SIZE, SIZE), Image.BICUBIC)) for s in small]
    noise = rng.integers(-9, 10, (count, SIZE, SIZE, 3))
    return np.clip(np.stack(resized) + noise, 0, 255).astype(np.uint8)


def run(data: bytes, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def test_same_result_in_half_the_size(canonical: bytes) -> None:
    """Equal top-1 and logits within 1 % of their range, at two batch sizes."""
    half = strong_fp16(canonical)
    check_fp16(half)
    check_onnx(half)
    images = smooth_pictures(32)
    wide, narrow = run(canonical, images), run(half, images)
    assert narrow.dtype == np.float32
    assert np.array_equal(wide.argmax(1), narrow.argmax(1))
    assert np.abs(wide - narrow).max() <= 0.01 * np.ptp(wide)
    np.testing.assert_allclose(run(half, images[:1]), narrow[:1], rtol=0.02, atol=0.01)
    assert half == strong_fp16(canonical)


def test_every_weight_behind_the_preprocessing_is_half(canonical: bytes) -> None:
    """Only the preprocessing keeps float32; bounds of Clip are float16 too."""
    graph = onnx.load_model_from_string(strong_fp16(canonical)).graph
    kinds = {i.name: i.data_type for i in graph.initializer}
    wide = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT}
    assert wide == {"preprocess/mean", "preprocess/scale"}
    clip = next(n for n in graph.node if n.op_type == "Clip")
    assert [kinds[n] for n in clip.input[1:]] == [TensorProto.FLOAT16] * 2
    assert not [n for n in graph.node if n.op_type == "BatchNormalization"]
    assert sum(n.op_type == "Cast" for n in graph.node) == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7e4, r"'head.weight' reaches 7e\+04; FP16 ends at 65504"),
        (np.nan, "'head.weight' holds NaN"),
    ],
)
def test_refuses_what_half_cannot_hold(canonical: bytes, value: float, message: str) -> None:
    """The tensor is named."""
    model = onnx.load_model_from_string(canonical)
    tensor = next(i for i in model.graph.initializer if i.name == "head.weight")
    weight = numpy_helper.to_array(tensor).copy()
    weight[3, 2] = value
    tensor.CopyFrom(numpy_helper.from_array(weight, "head.weight"))
    with pytest.raises(TraceError, match=message):
        strong_fp16(model.SerializeToString())


def test_tiny_weights_become_zero(canonical: bytes) -> None:
    """Values below FP16's range are no error."""
    model = onnx.load_model_from_string(canonical)
    tensor = next(i for i in model.graph.initializer if i.name == "head.weight")
    weight = numpy_helper.to_array(tensor).copy()
    weight[0, 0] = 1e-12
    tensor.CopyFrom(numpy_helper.from_array(weight, "head.weight"))
    graph = onnx.load_model_from_string(strong_fp16(model.SerializeToString())).graph
    narrow = next(i for i in graph.initializer if i.name == "head.weight")
    assert numpy_helper.to_array(narrow)[0, 0] == 0


def test_opset_19_computes_the_same() -> None:
    """Reductions and splits of opset 17, rewritten: same result, full checker, FP16 on top."""

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = self.stem(x).chunk(2, 1)
            tokens = torch.cat([left.amax(3), right.mean(3)], 2).transpose(1, 2)
            return self.head(tokens.mean(1) + left.sum((2, 3)))

    torch.manual_seed(5)
    old = trace(Split().eval(), sized(SIZE), Normalize())
    kinds = {n.op_type for n in onnx.load_model_from_string(old).graph.node}
    assert {"Split", "ReduceMax", "ReduceMean"} <= kinds
    new = raise_opset(old)
    check_onnx(new, max_opset=19)
    with pytest.raises(TraceError, match="opset 19"):
        check_onnx(new)
    images = smooth_pictures(3)
    np.testing.assert_allclose(run(new, images), run(old, images), rtol=1e-5, atol=1e-6)
    half = strong_fp16(new)
    check_fp16(half)
    np.testing.assert_allclose(run(half, images), run(old, images), rtol=0.05, atol=0.05)
    with pytest.raises(TraceError, match="not an ONNX model"):
        raise_opset(b"photo")
