"""Every rule of TensorRT's Q/DQ files, with a file that breaks it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgetl.errors import TraceError
from edgetl.exporter.onnx.fp16 import check_fp16_ranges
from edgetl.exporter.onnx.trace import trace
from edgetl.exporter.quantize.calibration import activation_ranges, float_tensors
from edgetl.exporter.tensorrt.qdq import trt_qdq
from edgetl.exporter.tensorrt.rules import check_trt_qdq
from edgetl.inputs.image import sized
from edgetl.spec import Normalize

SIZE = 32


class Blocks(nn.Module):
    """One of each place that the rules speak of; the comments say how its nodes are called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.Hardswish())  # Conv_1
        self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.SiLU())  # Conv_2, Mul_1
        self.gate = nn.Sequential(  # Conv_3, Mul_2 (SiLU), Conv_4; Mul_3 is the gated product
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(16, 8, 1),
            nn.SiLU(),
            nn.Conv2d(8, 16, 1),
            nn.Sigmoid(),
        )
        self.out = nn.Conv2d(16, 16, 1)  # Conv_5, then Add_1
        self.hard = nn.Sequential(  # Conv_6, Conv_7, Mul_4
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1),
            nn.Hardsigmoid(),
        )  # fmt: skip
        self.main = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 1))
        self.short = nn.Conv2d(16, 32, 1, 2)  # Conv_8, Conv_9; Conv_10; Add_2
        self.left, self.right = nn.Conv2d(32, 16, 1), nn.Conv2d(32, 16, 1)  # Conv_11, Conv_12
        self.joined = nn.Conv2d(32, 32, 3, 1, 1)  # Conv_13, behind Concat_1
        self.thin, self.small = nn.Conv2d(32, 12, (1, 3)), nn.Conv2d(12, 20, 1)  # Conv_14, Conv_15
        self.tokens = nn.Linear(20, 24)  # MatMul_1 and Add_3, many rows
        self.rows = nn.Linear(24, 16)  # Gemm_1, many rows
        self.head = nn.Linear(16, 10)  # Gemm_2, one row an image

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.deep(x)
        x = x + self.out(y * self.gate(y))
        x = x * self.hard(x)
        x = (self.main(x) + self.short(x)).relu()
        x = self.joined(torch.cat([self.left(x), self.right(x)], 1))
        x = self.small(self.thin(x)).flatten(2).transpose(1, 2)
        x = self.tokens(x)
        tokens = x.shape[1]
        x = self.rows(x.reshape(-1, 24)).reshape(-1, tokens, 16)
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def canonical() -> bytes:
    torch.manual_seed(4)
    return trace(Blocks().eval(), sized(SIZE), Normalize())


@pytest.fixture(scope="module")
def files(canonical: bytes) -> dict[bool, bytes]:
    """The Q/DQ file by `strong`."""
    images = np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    names = float_tensors(canonical)
    ranges = activation_ranges(canonical, images, names, methods=("minmax",))["minmax"]
    return {strong: trt_qdq(canonical, ranges, strong=strong) for strong in (False, True)}


def node(m: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in m.graph.node if n.name == name)


def tensor(m: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(i for i in m.graph.initializer if i.name == name)


def replace(m: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    tensor(m, name).CopyFrom(numpy_helper.from_array(array, name))


def value(m: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(tensor(m, name)).copy()


def pair(
    m: onnx.ModelProto, source: str, before: str, slot: int, scale: np.ndarray, *, axis: int = 1
) -> None:
    """Put a further pair on `source`, for one input of node `before`."""
    reader = node(m, before)
    position = list(m.graph.node).index(reader)
    base = f"extra/{source}"
    names = [f"{base}/scale", f"{base}/zero"]
    kind = value(m, "normalized/scale" if tensor_there(m) else "normalized/half/scale").dtype
    m.graph.initializer.append(numpy_helper.from_array(scale.astype(kind), names[0]))
    m.graph.initializer.append(numpy_helper.from_array(np.zeros(scale.shape, np.int8), names[1]))
    make, done = helper.make_node, f"{base}/back"
    m.graph.node.insert(
        position, make("DequantizeLinear", [f"{base}/q", *names], [done], f"{base}/dq", axis=axis)
    )
    m.graph.node.insert(
        position, make("QuantizeLinear", [source, *names], [f"{base}/q"], f"{base}/q", axis=axis)
    )
    node(m, before).input[slot] = done


def tensor_there(m: onnx.ModelProto) -> bool:
    return any(i.name == "normalized/scale" for i in m.graph.initializer)


def unpair(m: onnx.ModelProto, name: str, slot: int) -> None:
    """Let input `slot` of a node read past its pair; a pair without readers goes."""
    reader = node(m, name)
    back = next(n for n in m.graph.node if n.output[0] == reader.input[slot])
    quantize = next(n for n in m.graph.node if n.output[0] == back.input[0])
    reader.input[slot] = quantize.input[0]
    if not any(back.output[0] in n.input for n in m.graph.node):
        m.graph.node.remove(back)
        m.graph.node.remove(quantize)


ONE = np.array(0.05)
Spoil = Callable[[onnx.ModelProto], object]


def zero_point(m: onnx.ModelProto) -> None:
    replace(m, "Add_1_0/zero_point", np.array(3, np.int8))


def zero_point_computed(m: onnx.ModelProto) -> None:
    stored = tensor(m, "Add_1_0/zero_point")
    made = helper.make_node("Constant", [], ["Add_1_0/zero_point"], "made", value=stored)
    m.graph.initializer.remove(stored)
    m.graph.node.insert(0, made)


def unsigned(m: onnx.ModelProto) -> None:
    replace(m, "Add_1_0/zero_point", np.array(0, np.uint8))


def scale_of(number: float) -> Spoil:
    return lambda m: replace(m, "Add_1_0/scale", np.array(number, np.float32))


def no_zero_point(m: onnx.ModelProto) -> None:
    for half in ("quantize", "dequantize"):
        node(m, f"Add_1_0/{half}").input.pop()


def scale_shape(m: onnx.ModelProto) -> None:
    replace(m, "Add_1_0/zero_point", np.zeros(1, np.int8))


def activation_by_channel(m: onnx.ModelProto) -> None:
    replace(m, "Add_1_0/scale", np.full(16, 0.1, np.float32))
    replace(m, "Add_1_0/zero_point", np.zeros(16, np.int8))


def halves_differ(m: onnx.ModelProto) -> None:
    m.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "other"))
    node(m, "Add_1_0/dequantize").input[1] = "other"


def integer_weights(m: onnx.ModelProto) -> None:
    quantize = node(m, "out.weight/quantize")
    scale = value(m, "out.weight/scale").reshape(-1, 1, 1, 1)
    whole = np.rint(value(m, "out.weight") / scale).astype(np.int8)
    m.graph.initializer.append(numpy_helper.from_array(whole, quantize.output[0]))
    m.graph.node.remove(quantize)


def weight_axis(m: onnx.ModelProto) -> None:
    for half in ("quantize", "dequantize"):  # 16 x 16, so that only the axis tells
        node(m, f"out.weight/{half}").attribute[0].i = 1


def gemm_axis(m: onnx.ModelProto) -> None:
    for name in ("rows.weight/scale", "rows.weight/zero_point"):
        replace(m, name, np.resize(value(m, name), 24))
    for half in ("quantize", "dequantize"):
        node(m, f"rows.weight/{half}").attribute[0].i = 1


def weight_by_tensor(m: onnx.ModelProto) -> None:
    replace(m, "out.weight/scale", value(m, "out.weight/scale").max())
    replace(m, "out.weight/zero_point", np.array(0, np.int8))


def dangling(m: onnx.ModelProto) -> None:
    """A pair that nothing reads."""
    pair(m, "Conv_14_0", "Conv_15", 0, ONE)
    node(m, "Conv_15").input[0] = "Conv_14_0"


def second_pair(m: onnx.ModelProto) -> None:
    pair(m, "Add_1_0", "Conv_8", 0, ONE)


def logits(m: onnx.ModelProto) -> None:
    node(m, "Gemm_2").output[0] = "before"
    m.graph.node.append(helper.make_node("Identity", ["before"], ["logits"], "last"))
    pair(m, "before", "last", 0, ONE)
    back = node(m, "extra/before/dq")
    m.graph.node.remove(node(m, "last"))
    back.output[0] = "logits"


def integers_read(m: onnx.ModelProto) -> None:
    cast = helper.make_node("Cast", ["Add_1_0/int8"], ["whole"], "peek", to=TensorProto.FLOAT)
    m.graph.node.append(cast)


def early(m: onnx.ModelProto) -> None:
    pair(m, "preprocess/transpose_0", "preprocess/subtract", 0, ONE)


def early_reader(m: onnx.ModelProto) -> None:
    """A pair on a constant that only preprocessing reads."""
    pair(m, "preprocess/scale", "preprocess/multiply", 1, np.full(3, 0.1))


CONSTANTS = [
    (zero_point, "QuantizeLinear 'Add_1_0/quantize' .*zero-points are 0"),
    (zero_point_computed, "'Add_1_0/quantize' .*constants in the file"),
    (no_zero_point, "'Add_1_0/quantize' .*constants in the file"),
    (unsigned, "'Add_1_0/quantize' .*the type is int8"),
    (scale_of(0.0), "'Add_1_0/quantize' .*finite and positive"),
    (scale_of(-0.1), "'Add_1_0/quantize' .*finite and positive"),
    (scale_of(np.inf), "'Add_1_0/quantize' .*finite and positive"),
    (scale_of(np.nan), "'Add_1_0/quantize' .*finite and positive"),
    (scale_shape, "'Add_1_0/quantize' .*same shape"),
    (activation_by_channel, "'Add_1_0/quantize' .*activations have one scale"),
    (halves_differ, "DequantizeLinear 'Add_1_0/dequantize' .*same scale and axis"),
    (integer_weights, "DequantizeLinear 'out.weight/dequantize' .*floats behind a QuantizeLinear"),
    (weight_axis, "Conv 'Conv_5' .*along axis 0"),
    (gemm_axis, "Gemm 'Gemm_1' .*along axis 0"),
    (weight_by_tensor, "Conv 'Conv_5' .*one scale for each of 16"),
    (dangling, "'extra/Conv_14_0/dq' .*without readers"),
    (second_pair, "'Add_1_0/quantize|extra/Add_1_0/q' .*one Q/DQ pair"),
    (logits, "'extra/before/dq' .*outputs of the network are not quantized"),
    (integers_read, "'Add_1_0/quantize' .*only a DequantizeLinear reads"),
    (early, "'extra/preprocess/transpose_0/q' .*preprocessing is never"),
    (early_reader, "Mul 'preprocess/multiply' .*preprocessing is never"),
]


def on(source: str, before: str, slot: int, size: int = 0) -> Spoil:
    return lambda m: pair(m, source, before, slot, np.full(size, 0.05) if size else ONE, axis=0)


def off(name: str, *slots: int) -> Spoil:
    return lambda m: [unpair(m, name, slot) for slot in slots]


def all_of(*spoils: Spoil) -> Spoil:
    return lambda m: [spoil(m) for spoil in spoils]


def concat_scale(m: onnx.ModelProto) -> None:
    replace(m, "Conv_11_0/scale", value(m, "Conv_11_0/scale") * 2)


PLACES = [
    (off("Conv_5", 0, 1), "Conv 'Conv_5' .*of this layer are quantized"),
    (off("Conv_1", 0, 1), "Conv 'Conv_1' .*of this layer are quantized"),
    (off("Conv_2", 0, 1), "Conv 'Conv_2' .*of this layer are quantized"),
    (off("MatMul_1", 0, 1), "MatMul 'MatMul_1' .*of this layer are quantized"),
    (off("Gemm_1", 0, 1), "Gemm 'Gemm_1' .*of this layer are quantized"),
    (off("Conv_5", 1), "Conv 'Conv_5' .*quantized together"),
    (off("Conv_8", 0), "Conv 'Conv_8' .*quantized together"),
    (on("Conv_14_0", "Conv_15", 0), "Conv 'Conv_15' .*this small"),
    (on("small.weight", "Conv_15", 1, 20), "Conv 'Conv_15' .*this small"),
    (on("head.weight", "Gemm_2", 1, 10), "Gemm 'Gemm_2' .*this small"),
    (on("out.bias", "Conv_5", 2, 16), "Conv 'Conv_5' .*bias is not quantized"),
    (on("rows.bias", "Gemm_1", 2, 16), "Gemm 'Gemm_1' .*bias is not quantized"),
    (on("tokens.bias", "Add_3", 1, 24), "Add 'Add_3' .*bias is not quantized"),
    (on("MatMul_1_0", "Add_3", 0), "Add 'Add_3' .*stays in floating point"),
    (on("Conv_1_0", "HardSwish_1", 0), "HardSwish 'HardSwish_1' .*no Q/DQ stands between"),
    (on("Conv_4_0", "Sigmoid_3", 0), "Sigmoid 'Sigmoid_3' .*no Q/DQ stands between"),
    (on("Add_2_0", "Relu_3", 0), "Relu 'Relu_3' .*no Q/DQ stands between"),
    (on("Conv_15_0", "Reshape_1", 0), "Reshape 'Reshape_1' .*stays in floating point"),
    (on("Conv_2_0", "Mul_1", 0), "Mul 'Mul_1' .*without a gate"),
    (on("HardSigmoid_1_0", "Mul_4", 1), "Mul 'Mul_4' .*without a gate"),
    (on("Sigmoid_3_0", "Mul_3", 1), "Mul 'Mul_3' .*gate .*stays bare"),
    (off("Mul_3", 0), "Mul 'Mul_3' .*features .*are quantized"),
    (off("GlobalAveragePool_1", 0), "GlobalAveragePool 'GlobalAveragePool_1' .*pooling is"),
    (off("GlobalAveragePool_2", 0), "GlobalAveragePool 'GlobalAveragePool_2' .*pooling is"),
    (off("Add_1", 0), "Add 'Add_1' .*but for one branch"),
    (on("Conv_5_0", "Add_1", 1), "Add 'Add_1' .*one branch .*stays bare"),
    (all_of(on("Conv_5_0", "Add_1", 1), off("Add_1", 0)), "Add 'Add_1' .*only a branch"),
    (off("Add_2", 1), "Add 'Add_2' .*but for one branch"),
    (on("Conv_9_0", "Add_2", 0), "Add 'Add_2' .*one branch .*stays bare"),
    (off("Concat_1", 0), "Concat 'Concat_1' .*are quantized"),
    (off("Conv_13", 0, 1), "Concat 'Concat_1' .*unless its output"),
    (concat_scale, "Concat 'Concat_1' .*one scale"),
]


@pytest.mark.parametrize(("spoil", "message"), [*CONSTANTS, *PLACES])
def test_a_broken_rule_is_named(files: dict[bool, bytes], spoil: Spoil, message: str) -> None:
    """One change to a good file; node and rule stand in the message."""
    model = onnx.load_model_from_string(files[False])
    check_trt_qdq(model.SerializeToString(), strong=False)
    spoil(model)
    with pytest.raises(TraceError, match=message):
        check_trt_qdq(model.SerializeToString(), strong=False)


@pytest.mark.parametrize(("spoil", "message"), PLACES)
def test_places_are_the_same_when_strong(
    files: dict[bool, bytes], spoil: Spoil, message: str
) -> None:
    """The strongly typed file is held to the same places."""
    model = onnx.load_model_from_string(files[True])
    spoil(model)
    with pytest.raises(TraceError, match=message):
        check_trt_qdq(model.SerializeToString(), strong=True)


def test_two_conv_branches_leave_the_longer_one_bare(files: dict[bool, bytes]) -> None:
    """Both ends of Add_2 are convolutions; the shortcut is quantized, the main path is not."""
    wires = {o: n for n in onnx.load_model_from_string(files[False]).graph.node for o in n.output}
    made = {wires[n].op_type for n in wires["Add_2_0"].input}
    assert made == {"Conv", "DequantizeLinear"}
    bare = next(wires[n] for n in wires["Add_2_0"].input if wires[n].op_type == "Conv")
    assert bare.name == "Conv_9"


def test_opset_and_types(files: dict[bool, bytes]) -> None:
    """Weak is float32 up to opset 17, strong is float16 at 19: neither passes as the other."""
    with pytest.raises(TraceError, match="opset 19; its targets read up to 17"):
        check_trt_qdq(files[True], strong=False)
    with pytest.raises(TraceError, match="float, not float16"):
        check_trt_qdq(files[False], strong=True)
    model = onnx.load_model_from_string(files[True])
    model.opset_import[0].version = 17
    with pytest.raises(TraceError, match=r"contradict each other|ONNX checker refuses"):
        check_trt_qdq(model.SerializeToString(), strong=True)
    model = onnx.load_model_from_string(files[True])
    replace(model, "Add_1_0/scale", value(model, "Add_1_0/scale").astype(np.float32))
    with pytest.raises(TraceError, match=r"contradict each other|ONNX checker refuses"):
        check_trt_qdq(model.SerializeToString(), strong=True)
    model = onnx.load_model_from_string(files[False])
    model.opset_import[0].version, model.ir_version = 19, 9
    with pytest.raises(TraceError, match="opset 19; its targets read up to 17"):
        check_trt_qdq(model.SerializeToString(), strong=False)


def test_what_was_to_stay_float_must(files: dict[bool, bytes]) -> None:
    """Nodes and operator types that were kept read no pair."""
    for kept, match in ((("Conv_5", ()), "Conv 'Conv_5'"), (("", ("Concat",)), "Concat_1'")):
        with pytest.raises(TraceError, match=f"{match} .*was to stay in floating point"):
            check_trt_qdq(
                files[False], strong=False, keep_float=frozenset({kept[0]}), exclude=kept[1]
            )


def test_the_float_canonical_lacks_everything(canonical: bytes) -> None:
    with pytest.raises(TraceError, match=r"Conv 'Conv_1' .*of this layer are quantized"):
        check_trt_qdq(canonical, strong=False)


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        ({}, None),
        ({"a": (-3.0, 65504.0), "b": (0.0, 0.0)}, None),
        ({"a": (-7e4, 1.0), "b": (0.0, 1e5)}, "tensor 'b' reaches 100000; FP16 ends at 65504"),
        ({"a": (-7e4, 1.0), "b": (0.0, 6e4)}, "tensor 'a' reaches 70000; FP16 ends at 65504"),
        ({"a": (0.0, float("inf"))}, "tensor 'a' reaches inf; FP16 ends at 65504"),
        ({"a": (0.0, float("nan")), "b": (0.0, 1e9)}, "tensor 'a' is not a number"),
    ],
)
def test_ranges_beyond_fp16(ranges: dict[str, tuple[float, float]], reason: str | None) -> None:
    """The worst tensor is named, with how far it reaches."""
    assert check_fp16_ranges(ranges) == reason


def one_conv(shape: tuple[int, ...], group: int, *, first: bool) -> bytes:
    """A canonical ONNX with a Conv of that weight: the first layer, or behind a pointwise one."""
    inputs = shape[1] * group
    before = nn.Identity() if first else nn.Conv2d(3, inputs, 1)
    torch.manual_seed(6)
    conv = nn.Conv2d(inputs, shape[0], shape[2:], groups=group)
    net = nn.Sequential(before, conv, nn.Flatten(), nn.LazyLinear(10))
    with torch.no_grad():
        net(torch.zeros(1, 3, 8, 8))
    return trace(net.eval(), sized(8), Normalize())


@pytest.mark.parametrize(
    ("shape", "group", "first", "pays"),
    [
        ((16, 16, 1, 1), 1, False, True),
        ((24, 20, 1, 3), 1, False, True),
        ((32, 3, 3, 3), 1, True, True),
        ((8, 3, 3, 3), 1, True, True),  # the first layer may be narrow
        ((12, 3, 3, 3), 1, True, False),  # but not of any width
        ((8, 3, 3, 2), 1, True, False),
        ((8, 12, 1, 1), 1, False, False),
        ((8, 16, 1, 1), 1, False, True),
        ((20, 8, 1, 1), 1, False, True),
        ((20, 12, 1, 1), 1, False, False),
        ((16, 8, 1, 3), 1, False, False),
        ((16, 1, 3, 3), 16, False, True),  # depthwise
        ((16, 1, 1, 3), 16, False, False),
        ((16, 1, 2, 2), 16, False, False),
        ((12, 1, 3, 3), 12, False, False),
        ((24, 8, 3, 3), 3, False, True),
    ],
)
def test_sizes_for_which_int8_pays(
    shape: tuple[int, ...], group: int, first: bool, pays: bool
) -> None:
    """Writer and checker, which share no code, agree with NVIDIA's sizes."""
    canonical = one_conv(shape, group, first=first)
    name = "Conv_1" if first else "Conv_2"
    ranges = dict.fromkeys(float_tensors(canonical), (-1.0, 1.0))
    kept = frozenset() if first else frozenset({"Conv_1"})
    if not pays:
        with pytest.raises(TraceError, match="No layer of the network is left"):
            trt_qdq(canonical, ranges, strong=False, keep_float=kept)
        check_trt_qdq(canonical, strong=False, keep_float=kept)
        return
    data = trt_qdq(canonical, ranges, strong=False, keep_float=kept)
    reader = node(onnx.load_model_from_string(data), name)
    assert [i.endswith("/dequantized") for i in reader.input[:2]] == [True, True]
    with pytest.raises(TraceError, match=f"Conv '{name}' .*of this layer are quantized"):
        check_trt_qdq(canonical, strong=False, keep_float=kept)
