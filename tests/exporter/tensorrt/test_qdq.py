"""Explicit Q/DQ: placed by the rules, executed exactly, near to the float network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image
from torch import nn
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

from edgetl.engines.onnxruntime import UNFUSED
from edgetl.errors import TraceError
from edgetl.exporter.backends.base import CANONICAL
from edgetl.exporter.backends.tensorrt import dla_friendly
from edgetl.exporter.onnx.checks import check_fp16
from edgetl.exporter.onnx.fp16 import raise_opset, strong_fp16
from edgetl.exporter.onnx.trace import trace
from edgetl.exporter.quantize.calibration import activation_ranges, float_tensors
from edgetl.exporter.tensorrt.qdq import trt_qdq
from edgetl.exporter.tensorrt.rules import check_trt_qdq
from edgetl.inputs.image import sized
from edgetl.spec import Normalize

SIZE = 64


def pictures(count: int, size: int) -> np.ndarray:
    """Colour gradients, uint8 `(count, size, size, 3)`."""
    small = np.random.default_rng(2).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    resized = [Image.fromarray(s).resize((size, size), Image.Resampling.BICUBIC) for s in small]
    return np.stack([np.asarray(r) for r in resized])


def traced(model: nn.Module, images: np.ndarray) -> bytes:
    """The canonical ONNX; batch norms first see `images`, so that no layer dies out or explodes."""
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (Normalize().mean, Normalize().std))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()((pixels - mean) / std)
    return trace(model.eval(), sized(images.shape[1]), Normalize())


def mobilenet_v2() -> nn.Module:
    blocks = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]
    return torchvision.models.MobileNetV2(num_classes=10, inverted_residual_setting=blocks)


def mobilenet_v3() -> nn.Module:
    rows = [
        (16, 3, 16, 16, True, "RE", 2, 1),
        (16, 3, 72, 24, False, "RE", 2, 1),
        (24, 5, 88, 24, True, "HS", 1, 1),
    ]
    return MobileNetV3([InvertedResidualConfig(*r, width_mult=1) for r in rows], 64, 10)


def efficientnet() -> nn.Module:
    rows = [(1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2)]
    return EfficientNet([MBConvConfig(*r) for r in rows], 0.2, num_classes=10)


NETS = {f.__name__: f for f in (mobilenet_v2, mobilenet_v3, efficientnet)}


class Case:
    """A network with photos, its ranges, and both Q/DQ files."""

    def __init__(self, canonical: bytes, images: np.ndarray) -> None:
        self.canonical, self.images = canonical, images
        names = float_tensors(canonical)
        self.ranges = activation_ranges(canonical, images, names, methods=("minmax",))["minmax"]
        self.weak = trt_qdq(canonical, self.ranges, strong=False)
        self.strong = trt_qdq(canonical, self.ranges, strong=True)

    def run(self, data: bytes) -> np.ndarray:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        for key, value in UNFUSED.items():
            options.add_session_config_entry(key, value)
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return session.run(["logits"], {"images": self.images})[0]


@pytest.fixture(scope="module")
def case() -> Callable[[str], Case]:
    made: dict[str, Case] = {}

    def make(name: str) -> Case:
        if name not in made:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            torch.manual_seed(3)
            images = pictures(12, SIZE)
            made[name] = Case(traced(NETS[name](), images), images)
            torch.set_num_threads(threads)
        return made[name]

    return make


def noise_db(found: np.ndarray, wanted: np.ndarray) -> float:
    """Signal-to-noise ratio of logits in dB, of what differs between images."""
    signal = np.square(wanted - wanted.mean(0)).sum()
    return float(10 * np.log10(signal / np.square(found - wanted).sum()))


def graph(data: bytes) -> onnx.GraphProto:
    return onnx.load_model_from_string(data).graph


def quantized(data: bytes) -> dict[str, list[bool]]:
    """By node name, which inputs come through a Q/DQ pair."""
    nodes = graph(data).node
    made = {o for n in nodes if n.op_type == "DequantizeLinear" for o in n.output}
    return {
        n.name: [i in made for i in n.input] for n in nodes if not n.op_type.endswith("zeLinear")
    }


@pytest.mark.parametrize("name", NETS)
def test_near_to_the_float_network_in_both_typings(case: Any, name: str) -> None:
    """Random networks of a few blocks; the two typings differ by FP16's rounding only."""
    one = case(name)
    wanted, weak, strong = (one.run(d) for d in (one.canonical, one.weak, one.strong))
    assert noise_db(weak, wanted) > 10
    assert noise_db(strong, wanted) > 10
    assert noise_db(strong, weak) > 13
    assert noise_db(strong, weak) > noise_db(weak, wanted)


@pytest.mark.parametrize("name", NETS)
def test_the_rules_hold_and_the_typings_agree_on_placement(case: Any, name: str) -> None:
    """Same nodes read pairs in both; same bytes twice; every Conv of these networks is INT8."""
    one = case(name)
    check_trt_qdq(one.weak, strong=False)
    check_trt_qdq(one.strong, strong=True)
    check_fp16(one.strong)
    weak, strong = quantized(one.weak), quantized(one.strong)
    assert {n: q for n, q in strong.items() if any(q)} == {n: q for n, q in weak.items() if any(q)}
    convs = [q for n, q in weak.items() if n.startswith("Conv")]
    assert all(q[:2] == [True, True] and not any(q[2:]) for q in convs)
    assert len(convs) >= 9
    for data, is_strong in ((one.weak, False), (one.strong, True)):
        assert trt_qdq(one.canonical, one.ranges, strong=is_strong) == data
    assert onnx.load_model_from_string(one.weak).opset_import[0].version == 17
    assert onnx.load_model_from_string(one.strong).opset_import[0].version == 19
    assert onnx.load_model_from_string(one.strong).ir_version == 9


def test_scales_are_the_ranges_and_the_same_in_fp16(case: Any) -> None:
    """max|range| / 127 rounded up to float16; weights hold the values that Q and DQ give."""
    one = case("mobilenet_v2")
    weak = {i.name: numpy_helper.to_array(i) for i in graph(one.weak).initializer}
    strong = {i.name: numpy_helper.to_array(i) for i in graph(one.strong).initializer}
    scale = weak["normalized/scale"]
    peak = max(map(abs, one.ranges["normalized"]))
    assert peak / 127 <= scale <= peak / 127 * 1.001
    for name in (n for n in weak if n.endswith("/scale") and n != "preprocess/scale"):
        half = name if name in strong else name.replace("normalized/", "normalized/half/")
        if half in strong:
            assert strong[half].dtype == np.float16
            np.testing.assert_array_equal(strong[half].astype(np.float32), weak[name])
    name = "features.0.0.weight"
    steps = weak[name] / weak[f"{name}/scale"].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    assert np.abs(steps).max() <= 127
    original = next(
        numpy_helper.to_array(i) for i in graph(one.canonical).initializer if i.name == name
    )
    assert np.abs(weak[name] - original).max() <= weak[f"{name}/scale"].max() / 2 * 1.001
    assert len(weak[f"{name}/scale"]) == 32


def test_onnx_runtime_executes_what_is_written(tiny: Any, tiny_images: Any) -> None:
    """ONNX's own reference implementation gives the same logits, in both typings."""
    one = Case(tiny("ort-fp32").files[CANONICAL], tiny_images)
    for data, near in ((one.weak, 1e-4), (one.strong, 2e-2)):
        reference = ReferenceEvaluator(onnx.load_model_from_string(raise_opset(data)))
        wanted = reference.run(None, {"images": one.images[:2]})[0]
        np.testing.assert_allclose(one.run(data)[:2], wanted, atol=near, rtol=near)
    placed = quantized(one.weak)
    assert placed["conv1"] == placed["conv2"] == [True, True, False]
    assert placed["pool"] == [True]
    assert placed["head"] == [False, False, False]  # a vector times a matrix


def test_squeeze_and_excitation_by_kind_of_gate(case: Any) -> None:
    """Conv → Sigmoid → Mul takes quantized features; a HardSigmoid gate takes none; SiLU none."""
    nodes = {n.name: n for n in graph(case("efficientnet").canonical).node}
    maker = {o: n for n in nodes.values() for o in n.output}
    seen = set()
    for name, taken in quantized(case("efficientnet").weak).items():
        if name.startswith("Mul"):
            first, second = (maker[i] for i in nodes[name].input)
            silu = first.output[0] in second.input or second.output[0] in first.input
            assert taken == (
                [False, False]
                if silu
                else [first.op_type != "Sigmoid", silu or second.op_type != "Sigmoid"]
            )
            seen.add(silu)
    assert seen == {True, False}
    other = quantized(case("mobilenet_v3").weak)
    assert all(not any(q) for n, q in other.items() if n.startswith("Mul"))
    assert all(q == [True] for n, q in other.items() if n.startswith("GlobalAveragePool"))


def test_residual_sums_leave_the_conv_bare(case: Any) -> None:
    """One input through a pair; the other is the block's last Conv, straight."""
    for name in NETS:
        one = case(name)
        wires = {o: n for n in graph(one.canonical).node for o in n.output}
        sums = [n for n in graph(one.canonical).node if n.op_type == "Add"]
        assert sums
        for node in sums:
            taken = quantized(one.weak)[node.name]
            assert sorted(taken) == [False, True]
            assert wires[node.input[taken.index(False)]].op_type == "Conv"


def test_what_is_kept_in_floating_point(case: Any) -> None:
    """Named nodes and whole operator types; the rules know of both."""
    one = case("efficientnet")
    kept = trt_qdq(one.canonical, one.ranges, strong=True, keep_float=frozenset({"Conv_5"}))
    placed = quantized(kept)
    assert placed["Conv_5"][:2] == [False, False]
    assert placed["Conv_6"][:2] == [True, True]
    with pytest.raises(TraceError, match="Conv 'Conv_5' breaks a rule"):
        check_trt_qdq(kept, strong=True)
    excluded = ("Mul", "Add", "GlobalAveragePool")
    data = trt_qdq(one.canonical, one.ranges, strong=False, exclude=excluded)
    placed = quantized(data)
    assert not any(any(q) for n, q in placed.items() if n.split("_")[0] in excluded)
    assert noise_db(one.run(data), one.run(one.canonical)) > 15
    with pytest.raises(TraceError, match="No layer of the network is left to quantize"):
        trt_qdq(one.canonical, one.ranges, strong=False, exclude=("Conv", "Gemm"))


def test_every_subset_asks_only_for_calibrated_tensors(case: Any) -> None:
    """Whatever stays in floating point, `float_tensors` names all that is needed."""
    one = case("mobilenet_v2")
    names = [n.name for n in graph(one.canonical).node if not n.name.startswith("preprocess/")]
    rng = np.random.default_rng(5)
    for _ in range(6):
        kept = frozenset(rng.choice(names, len(names) // 2, replace=False).tolist())
        data = trt_qdq(one.canonical, one.ranges, strong=False, keep_float=kept)
        assert not any(any(q) for n, q in quantized(data).items() if n in kept)


def test_ranges_must_be_there_and_finite(case: Any) -> None:
    one = case("mobilenet_v2")
    name = next(iter(one.ranges))
    fewer = {n: r for n, r in one.ranges.items() if n != name}
    with pytest.raises(TraceError, match=f"Tensor '{name}' has no calibrated range"):
        trt_qdq(one.canonical, fewer, strong=False)
    for bound in (np.inf, np.nan, 1e9):
        with pytest.raises(TraceError, match=f"Tensor '{name}' reaches"):
            trt_qdq(one.canonical, one.ranges | {name: (0.0, bound)}, strong=False)
    dead = trt_qdq(one.canonical, one.ranges | {name: (0.0, 0.0)}, strong=True)
    stored = {i.name: numpy_helper.to_array(i) for i in graph(dead).initializer}
    assert stored[f"{name}/scale"] == 1


def test_given_weight_scales_are_used(case: Any) -> None:
    """Scales of quantization-aware training replace max|w| / 127, in either typing."""
    one, name = case("mobilenet_v2"), "features.0.0.weight"
    scales = np.linspace(0.01, 0.02, 32)
    for strong in (False, True):
        data = trt_qdq(one.canonical, one.ranges, strong=strong, weight_scales={name: scales})
        stored = {i.name: numpy_helper.to_array(i) for i in graph(data).initializer}
        np.testing.assert_allclose(stored[f"{name}/scale"], scales, rtol=2e-3)
    for bad in (scales[:-1], -scales, np.full(32, np.nan)):
        with pytest.raises(TraceError, match=f"scales of weight '{name}'"):
            trt_qdq(one.canonical, one.ranges, strong=False, weight_scales={name: bad})


def test_a_layer_without_weight_gets_a_scale(tiny: Any, tiny_images: Any) -> None:
    """Channels that are all zero, or too small for FP16, keep positive scales."""
    model = onnx.load_model_from_string(tiny("ort-fp32").files[CANONICAL])
    tensor = next(i for i in model.graph.initializer if i.name == "w1")
    weight = numpy_helper.to_array(tensor).copy()
    weight[0], weight[1] = 0, weight[1] * 1e-9
    tensor.CopyFrom(numpy_helper.from_array(weight, "w1"))
    one = Case(bytes(model.SerializeToString()), tiny_images)
    stored = {i.name: numpy_helper.to_array(i) for i in graph(one.strong).initializer}
    assert stored["w1/scale"][0] == 1
    assert stored["w1/scale"][1] == np.float16(2**-24)
    assert np.isfinite(one.run(one.strong)).all()


def test_the_accelerators_pool_is_the_same_mean(case: Any) -> None:
    """Only the pools change; logits stay, also in FP16; the kernel is the plane."""
    one = case("efficientnet")
    data = dla_friendly(one.canonical)
    kinds = [n.op_type for n in graph(one.canonical).node]
    assert [n.op_type for n in graph(data).node] == [
        "AveragePool" if k == "GlobalAveragePool" else k for k in kinds
    ]
    pools = [n for n in graph(data).node if n.op_type == "AveragePool"]
    assert [tuple(p.attribute[0].ints) for p in pools[:1]] == [(SIZE // 2, SIZE // 2)]
    np.testing.assert_allclose(one.run(data), one.run(one.canonical), atol=1e-5)
    assert noise_db(one.run(strong_fp16(data)), one.run(one.canonical)) > 30
    model = onnx.load_model_from_string(one.canonical)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "H"
    with pytest.raises(TraceError, match=r"GlobalAveragePool_1' reads .* not fixed"):
        dla_friendly(model.SerializeToString())
    assert TensorProto.FLOAT16 not in {i.data_type for i in graph(data).initializer}
