"""INT8 models stay close to FP32, keep their interface, and leave preprocessing alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from PIL import Image
from torch import nn

from edgetl.errors import EngineError, UsageError
from edgetl.exporter import quantize
from edgetl.exporter.check import check_onnx
from edgetl.exporter.quantize import nncf_int8, ort_int8
from edgetl.exporter.trace import trace
from edgetl.spec import Normalize, Preprocess, Recipe

SIZE = 48
ORT = Recipe(
    name="ort-int8",
    title="",
    engine="onnxruntime",
    precision="int8",
    form="ort-qdq",
    min_agreement=0.95,
    activation="quint8",
    per_channel=True,
    calibration="minmax",
)
NNCF = Recipe(
    name="ov-int8",
    title="",
    engine="openvino",
    precision="int8",
    form="nncf",
    min_agreement=0.95,
    preset="mixed",
)


class Block(nn.Module):
    """MobileNet-like: expand, depthwise, project, add."""

    def __init__(self, width: int, act: type[nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o, k, g in ((width, 32, 1, 1), (32, 32, 3, 32), (32, width, 1, 1)):
            layers += [
                nn.Conv2d(i, o, k, 1, k // 2, groups=g, bias=False),
                nn.BatchNorm2d(o),
                act(),
            ]
        self.body = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


@pytest.fixture(scope="module")
def master() -> bytes:
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    model = nn.Sequential(*stem, Block(16, nn.ReLU6), Block(16, nn.Hardswish), *end)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    x = torch.from_numpy(pictures(64)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        model.train()((x - 0.45) / 0.225)
    return trace(model.eval(), Preprocess(size=SIZE), Normalize())


def pictures(count: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(s).resize((SIZE, SIZE))) for s in small])


def run(data: bytes, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def error(ours: np.ndarray, reference: np.ndarray) -> float:
    """Mean deviation relative to how much the logits vary between images."""
    return float(np.abs(ours - reference).mean() / (reference - reference.mean(0)).std())


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test its own folder for temporary files, and see that it is left empty."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("activation", ["quint8", "qint8"])
@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy"])
def test_ort_is_close_and_quiet(
    master: bytes, capfd: pytest.CaptureFixture[str], activation: Any, calibration: Any
) -> None:
    """All calibrations and both activation types; nothing is printed."""
    recipe = msgspec.structs.replace(ORT, activation=activation, calibration=calibration)
    data = ort_int8(master, pictures(24), recipe)
    assert capfd.readouterr() == ("", "")
    check_onnx(data)
    images = pictures(40, seed=1)
    reference = run(master, images)
    assert error(run(data, images), reference) < 0.25
    assert run(data, images[:1]).shape == (1, 10)


@pytest.mark.parametrize("activation", ["quint8", "qint8"])
def test_ort_quantizes_the_network_alone(master: bytes, activation: Any) -> None:
    """Preprocessing and logits stay float32; weights are int8 per channel, zero points as asked."""
    recipe = msgspec.structs.replace(ORT, activation=activation)
    data = ort_int8(master, pictures(8), recipe)
    assert data == ort_int8(master, pictures(8), recipe)
    graph = onnx.load_model_from_string(data).graph
    head = [n for n in graph.node if n.name.startswith("preprocess/")]
    assert [n.op_type for n in head] == ["Cast", "Transpose", "Sub", "Mul"]
    assert not any("Linear" in name for n in head for name in n.input)
    made_by = {o: n for n in graph.node for o in n.output}
    assert made_by["logits"].op_type == "Gemm"
    stored = {i.name: i for i in graph.initializer}
    for conv in (n for n in graph.node if n.op_type == "Conv"):
        sources = [made_by[name] for name in conv.input]
        assert {s.op_type for s in sources} == {"DequantizeLinear"}
        weight, scale = (stored[n] for n in sources[1].input[:2])
        assert weight.data_type == TensorProto.INT8
        assert list(scale.dims) == [weight.dims[0]]
    kind = TensorProto.INT8 if activation == "qint8" else TensorProto.UINT8
    points = [stored[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert {p.data_type for p in points} == {kind}
    if activation == "qint8":
        assert not any(numpy_helper.to_array(p).any() for p in points)


def test_ort_reads_every_photo_one_by_one(master: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Histograms are filled in short stretches, so that memory does not grow with the photos."""
    read: list[int] = []
    get_next = quantize._Reader.get_next

    def spy(self: Any) -> Any:
        feed = get_next(self)
        read.append(0 if feed is None else len(feed["images"]))
        return feed

    monkeypatch.setattr(quantize._Reader, "get_next", spy)
    for calibration in ("minmax", "percentile"):
        read.clear()
        ort_int8(master, pictures(9), msgspec.structs.replace(ORT, calibration=calibration))
        assert sum(read) == 9
        assert max(read) == 1
    assert read == [1, 1, 1, 0] * 3
    assert [quantize._stride(n) for n in (1, 7, 9, 256, 300)] == [1, 1, 3, 4, 4]


def test_one_bright_photo_widens_the_range(master: bytes) -> None:
    """No photo is forgotten: the last of many sets the scale of the input."""
    images = np.full((9, SIZE, SIZE, 3), 120, np.uint8)
    images[-1] = 255

    def scale(data: bytes) -> float:
        graph = onnx.load_model_from_string(data).graph
        first = next(n for n in graph.node if n.input[0] == "normalized")
        return float(
            next(numpy_helper.to_array(i) for i in graph.initializer if i.name == first.input[1])
        )

    assert scale(ort_int8(master, images, ORT)) > 2 * scale(ort_int8(master, images[:-1], ORT))


@pytest.mark.parametrize("preset", ["performance", "mixed"])
def test_nncf_is_close_quiet_and_takes_any_batch(
    master: bytes, capfd: pytest.CaptureFixture[str], preset: Any
) -> None:
    """The IR runs at batch 1 and 3 after reshape, and as it is."""
    xml, weights = nncf_int8(master, pictures(24), msgspec.structs.replace(NNCF, preset=preset))
    assert capfd.readouterr() == ("", "")
    import openvino

    core = openvino.Core()
    images = pictures(40, seed=1)
    reference = run(master, images)
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    for batch in (1, 3, None):
        model = core.read_model(xml, weights)
        if batch:
            model.reshape({"images": [batch, SIZE, SIZE, 3]})
        step = batch or 20
        compiled = core.compile_model(model, "CPU", options)
        parts = [
            compiled(images[i : i + step])[0].copy() for i in range(0, 39 // step * step, step)
        ]
        logits = np.concatenate(parts)
        assert error(logits, reference[: len(logits)]) < 0.25


def test_nncf_keeps_preprocessing_and_float32(master: bytes) -> None:
    """No FP16 constant, the first FakeQuantize behind the normalisation, biases corrected."""
    xml, weights = nncf_int8(master, pictures(8), NNCF)
    assert weights == nncf_int8(master, pictures(8), NNCF)[1]
    assert b'element_type="f16"' not in xml
    assert b'element_type="i8"' in xml
    import openvino

    model = openvino.Core().read_model(xml, weights)
    kinds = {op.get_friendly_name(): op.get_type_name() for op in model.get_ops()}
    assert kinds["preprocess/cast"] == "Convert"
    transpose = next(o for o in model.get_ops() if o.get_friendly_name() == "preprocess/transpose")
    assert transpose.input_value(0).get_node().get_type_name() == "Convert"
    reader = next(iter(transpose.output(0).get_target_inputs())).get_node()
    assert reader.get_type_name() == "Add"
    assert "Clamp" in kinds.values()  # without conversion NNCF would see no bias to correct
    other = nncf_int8(
        master, pictures(8), msgspec.structs.replace(NNCF, fast_bias_correction=False)
    )
    assert other[1] != weights


def test_refuses_images_that_do_not_fit(master: bytes) -> None:
    """Wrong size, type or number, for both quantizers."""
    wrong = [pictures(2)[:, :32], pictures(2).astype(np.float32), pictures(2)[:0], pictures(1)[0]]
    for images in wrong:
        with pytest.raises(
            UsageError, match=r"Calibration images are .*reads uint8 \(N, 48, 48, 3\)"
        ):
            ort_int8(master, images, ORT)
        with pytest.raises(UsageError, match="Calibration images"):
            nncf_int8(master, images, NNCF)


def test_refuses_recipes_that_say_too_little(master: bytes) -> None:
    """A recipe for another form of quantization lacks activation and calibration."""
    with pytest.raises(UsageError, match="Recipe 'ov-int8' does not say how to quantize"):
        ort_int8(master, pictures(2), NNCF)


def test_translates_failures(master: bytes) -> None:
    """A damaged model is an EngineError that names the recipe."""
    model = onnx.load_model_from_string(master)
    model.graph.node[5].input[0] = "nowhere"
    damaged = model.SerializeToString()
    with pytest.raises(EngineError, match="cannot quantize the model by recipe 'ort-int8'"):
        ort_int8(damaged, pictures(2), ORT)
    with pytest.raises(EngineError, match="NNCF cannot quantize the model by recipe 'ov-int8'"):
        nncf_int8(damaged, pictures(2), NNCF)
