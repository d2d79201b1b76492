"""The canonical ONNX in PyTorch computes what ONNX Runtime does, and rounds as integers would."""

from __future__ import annotations

import functools
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgetl.errors import TraceError
from edgetl.exporter.onnx.checks import NORMALIZED
from edgetl.exporter.onnx.importing.importer import OUTPUT
from edgetl.exporter.onnx.passes import finish, prepend
from edgetl.exporter.quantize.calibration import Rounding
from edgetl.exporter.quantize.qat.module import OnnxModule
from edgetl.exporter.quantize.qat.operators import OPERATORS
from edgetl.spec import Normalize
from edgetl.train.backbones import all_backbones
from tests.exporter import small

QUICK = ("mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5")
ALL = all_backbones("installed") | all_backbones("torchvision")
SIDE = 9  # odd, so that strides and ceil_mode leave a rest

Step = tuple[str, list[str], dict[str, Any]]


def answers(graph: OnnxModule, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = graph(torch.from_numpy(images))[OUTPUT].numpy()
    return found


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ALL],
)
def test_backbones(name: str) -> None:
    """Logits of every backbone that edgetl trains."""
    canonical, _ = small.backbone(name)
    images = small.noise(4)
    wanted = small.run(canonical, images)
    assert np.ptp(wanted, axis=0).min() > 1e-3  # statistics of noise: photos differ
    np.testing.assert_allclose(
        answers(OnnxModule(canonical), images), wanted, atol=2e-4 * np.ptp(wanted)
    )


# --- one operator -----------------------------------------------------------------------------

WEIGHTS = {
    "conv": (6, 3, 3, 3),
    "pair": (6, 1, 3, 2),
    "six": (6,),
    "matrix": (4, 3 * SIDE * SIDE),
    "turned": (3 * SIDE * SIDE, 4),
    "four": (4,),
    "three": (3,),
    "wide": (3,),
}
CONSTANTS = {
    "low": np.float32(-0.5),
    "high": np.float32(0.7),
    "parts": np.array([1, 2]),
    "ones": np.array([1, 1, 1]),
    "shape": np.array([0, 3, -1, SIDE]),
    "rows": np.array([-1, 3 * SIDE]),
}


def of(*steps: Step) -> bytes:
    """A model that does this to the image `x`, and gives all of the last tensor as logits."""
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(size=s).astype(np.float32) for k, s in WEIGHTS.items()}
    arrays["wide"] = arrays["wide"] ** 2 + 0.5
    arrays |= {k: np.asarray(v) for k, v in CONSTANTS.items()}
    nodes, last = [], NORMALIZED
    for index, (kind, inputs, attributes) in enumerate(steps):
        names = [{"x": NORMALIZED, "": ""}.get(n, n) for n in inputs]
        made = [f"o{index}"] if kind != "Split" else [f"o{index}", f"o{index}b"]
        made += [f"o{index}c"] if "three" in attributes else []
        stated = {k: v for k, v in attributes.items() if k != "three"}
        nodes.append(helper.make_node(kind, names, made, f"{kind}_{index}", **stated))
        last = made[-1]
    nodes.append(helper.make_node("Flatten", [last], [OUTPUT], "last"))
    used = {n for node in nodes for n in node.input}
    stored = [numpy_helper.from_array(v, k) for k, v in arrays.items() if k in used]
    graph = helper.make_graph(nodes, "one", [], [], stored)
    prepend(graph, Normalize())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, SIDE, SIDE, 3])
    model.graph.input.append(images)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    dims = next(v for v in inferred if v.name == last).type.tensor_type.shape.dim
    return finish(
        graph, (SIDE, SIDE, 3), {OUTPUT: (int(np.prod([d.dim_value for d in dims][1:])),)}
    )


KERNEL = {"kernel_shape": [3, 3]}
STEPS: list[tuple[Step, ...]] = [
    (("Conv", ["x", "conv", "six"], {}),),
    (("Conv", ["x", "conv"], {"pads": [1, 1, 1, 1], "strides": [2, 2], "dilations": [2, 2]}),),
    (("Conv", ["x", "conv"], {"pads": [0, 1, 2, 3]}),),
    (("Conv", ["x", "pair", "six"], {"group": 3, "strides": [1, 2]}),),
    (("MaxPool", ["x"], {**KERNEL, "strides": [2, 2], "pads": [1, 0, 0, 1]}),),
    (("MaxPool", ["x"], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),),
    (("MaxPool", ["x"], {"kernel_shape": [2, 3]}),),
    (("MaxPool", ["x"], {**KERNEL, "dilations": [2, 2]}),),
    (("AveragePool", ["x"], {**KERNEL, "strides": [2, 2], "pads": [1, 1, 1, 1]}),),
    (("AveragePool", ["x"], {**KERNEL, "pads": [1, 1, 1, 1], "count_include_pad": 1}),),
    (("AveragePool", ["x"], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),),
    (("AveragePool", ["x"], {"kernel_shape": [3, 2]}),),
    (("BatchNormalization", ["x", "three", "three", "three", "wide"], {"epsilon": 0.01}),),
    (("Clip", ["x", "low", "high"], {}),),
    (("Clip", ["x", "low"], {}),),
    (("Clip", ["x", "", "high"], {}),),
    (("Clip", ["x"], {}),),
    (("Relu", ["x"], {}), ("Concat", ["x", "o0", "x"], {"axis": 1})),
    (("Relu", ["x"], {}), ("Concat", ["x", "o0"], {"axis": -1})),
    (("Sigmoid", ["x"], {}), ("Mul", ["x", "o0"], {}), ("Add", ["o1", "x"], {})),
    (("Sub", ["x", "low"], {}),),
    (("HardSigmoid", ["x"], {}),),
    (("HardSigmoid", ["x"], {"alpha": 1 / 6, "beta": 0.4}),),
    (("HardSwish", ["x"], {}),),
    (("GlobalAveragePool", ["x"], {}),),
    (("Split", ["x", "parts"], {"axis": 1}),),
    (("Split", ["x", "ones"], {"axis": 1, "three": True}),),
    (("Split", ["x"], {"axis": 1, "three": True}),),  # equal parts, three of them
    (("Reshape", ["x", "shape"], {}), ("Transpose", ["o0"], {"perm": [0, 2, 1, 3]})),
    (("Flatten", ["x"], {}), ("Gemm", ["o0", "matrix", "four"], {"transB": 1})),
    (("Flatten", ["x"], {}), ("Gemm", ["o0", "turned"], {})),
    (("Cast", ["x"], {"to": TensorProto.FLOAT}),),
]


def named(steps: tuple[Step, ...]) -> str:
    return "-".join(f"{kind}{len(options)}" for kind, _, options in steps)


@pytest.mark.parametrize("steps", STEPS, ids=named)
def test_operators(steps: tuple[Step, ...]) -> None:
    canonical, images = of(*steps), small.noise(3, SIDE)
    wanted = small.run(canonical, images)
    found = answers(OnnxModule(canonical), images)
    np.testing.assert_allclose(found, wanted, atol=2e-5 * max(1, abs(wanted).max()))


def test_every_operator_is_tried() -> None:
    tried = {kind for steps in STEPS for kind, _, _ in steps} | {"Transpose", "Cast"}
    assert tried == set(OPERATORS)


def test_flatten_behind_another_axis() -> None:
    """ONNX makes two axes of any number."""
    graph = OnnxModule(of(("Reshape", ["x", "rows"], {})))
    node = next(i for i, n in enumerate(graph.nodes) if n.op_type == "Flatten")
    flatten = OPERATORS["Flatten"]
    tensor = torch.zeros(2, 3, 4, 5)
    for axis, shape in ((0, (1, 120)), (1, (2, 60)), (2, (6, 20)), (3, (24, 5))):
        graph.attributes[node]["axis"] = axis
        assert flatten([tensor], graph.attributes[node]).shape == shape


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((("Tanh", ["x"], {}),), "Tanh 'Tanh_0' is an operator"),
        ((("LeakyRelu", ["x"], {}),), "LeakyRelu 'LeakyRelu_0' is an operator"),
        (
            (("Conv", ["x", "conv"], {"auto_pad": "SAME_UPPER"}),),
            "Conv 'Conv_0' is of auto_pad b'SAME_UPPER'",
        ),
        (
            (("AveragePool", ["x"], {**KERNEL, "pads": [0, 0, 1, 1]}),),
            r"AveragePool 'AveragePool_0' is of pads \[0, 0, 1, 1\]",
        ),
        (
            (("Flatten", ["x"], {}), ("Gemm", ["o0", "turned"], {"alpha": 0.5})),
            "Gemm 'Gemm_1' is of alpha 0.5",
        ),
        (
            (("Flatten", ["x"], {}), ("Gemm", ["o0", "turned", "four"], {"beta": 2.0})),
            "Gemm 'Gemm_1' is of beta 2.0",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(steps: tuple[Step, ...], message: str) -> None:
    """Nothing is computed in another way than the file says."""
    canonical = of(*steps)
    small.run(canonical, small.noise(1, SIDE))
    with pytest.raises(TraceError, match=message) as got:
        OnnxModule(canonical)
    assert got.value.fix == "export with --qat never."


# --- rounding ---------------------------------------------------------------------------------


@functools.cache
def images() -> np.ndarray:
    return small.pictures(16)


def observed(rounding: Rounding) -> OnnxModule:
    graph = OnnxModule(small.canonical(), rounding)
    graph.observe = True
    answers(graph, images())
    graph.observe = False
    return graph


@pytest.mark.parametrize("rounding", [None, *get_args(Rounding)])
def test_before_ranges_nothing_is_rounded(rounding: Rounding | None) -> None:
    wanted = small.run(small.canonical(), images())
    found = answers(OnnxModule(small.canonical(), rounding), images())
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.ptp(wanted))


def test_ranges_are_of_what_integer_operators_read() -> None:
    """Each holds 0, and the values of all photos."""
    graph = observed("asymmetric")
    stored = {i.name for i in onnx.load_model_from_string(small.canonical()).graph.initializer}
    own = [n for n in graph.nodes if not n.name.startswith("preprocess/")]
    readers = [n for n in own if n.op_type in ("Conv", "Gemm", "Add", "Mul", "GlobalAveragePool")]
    assert set(graph.ranges) == {i for n in readers for i in n.input} - stored
    assert NORMALIZED in graph.ranges
    for name, (low, high) in graph.ranges.items():
        assert low <= 0 <= high
        values = small.run(small.canonical(), images()[:4], name)
        slack = 0.2 * (high - low)  # weights are rounded before what is observed behind them
        assert low - slack <= values.min()
        assert values.max() <= high + slack


@pytest.mark.parametrize("rounding", get_args(Rounding))
def test_rounded_tensors_have_as_many_values_as_8_bits(rounding: Rounding) -> None:
    graph = observed(rounding)
    graph.ranges["x"] = (-1.0, 3.0)
    tensor = torch.linspace(-5, 5, 20001)
    found = graph._activation("x", tensor)
    levels = found.unique()
    symmetric = rounding != "asymmetric"
    scale = 3 / 127 if symmetric else 4 / 255
    assert len(levels) == (255 if symmetric else 256)
    assert 0 in levels
    np.testing.assert_allclose(levels / scale, (levels / scale).round(), atol=1e-4)
    assert float(levels.min()) == pytest.approx(-3.0 if symmetric else -64 * scale, abs=1e-5)
    assert float(levels.max()) == pytest.approx(3.0 if symmetric else 191 * scale, abs=1e-5)
    inside = tensor.abs() < 0.9
    assert float((found - tensor)[inside].abs().max()) <= scale / 2 + 1e-6


def test_an_empty_range_rounds_nothing() -> None:
    graph = observed("symmetric")
    graph.ranges["x"] = (0.0, 0.0)
    tensor = torch.tensor([0.3, -2.0])
    assert graph._activation("x", tensor) is tensor
    assert graph._activation("never seen", tensor) is tensor


def test_weights_are_rounded_per_output_channel() -> None:
    graph = observed("symmetric")
    for node in graph.nodes:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        weight = graph.weight(node.input[1]).detach()
        found = graph._weight(node, weight).detach().flatten(1)
        peaks = weight.flatten(1).abs().amax(1, keepdim=True)
        steps = found / (peaks / 127)
        np.testing.assert_allclose(steps, steps.round(), atol=1e-3)
        assert float(steps.abs().max()) == pytest.approx(127, abs=1e-3)
        assert float(((found - weight.flatten(1)) / peaks).abs().max()) <= 0.5 / 127 + 1e-6


def test_a_turned_weight_has_its_channels_elsewhere() -> None:
    graph = OnnxModule(of(("Flatten", ["x"], {}), ("Gemm", ["o0", "turned"], {})), "symmetric")
    graph.ranges["o0"] = (0.0, 1.0)
    node = next(n for n in graph.nodes if n.op_type == "Gemm")
    weight = graph.weight("turned").detach()
    steps = graph._weight(node, weight).detach() / (weight.abs().amax(0, keepdim=True) / 127)
    np.testing.assert_allclose(steps, steps.round(), atol=1e-3)


def test_gradients_reach_every_weight_through_the_rounding() -> None:
    graph = observed("asymmetric")
    graph(torch.from_numpy(images()))[OUTPUT].square().mean().backward()
    for name in graph.trained:
        gradient = graph.get_parameter(graph.trained[name]).grad
        assert gradient is not None
        assert float(gradient.abs().max()) > 0, name
    teacher = OnnxModule(small.canonical())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_signed_rounding_is_unsigned_where_values_are() -> None:
    graph = observed("signed")
    graph.ranges["x"] = (0.0, 3.0)
    levels = graph._activation("x", torch.linspace(-5, 5, 20001)).unique()
    assert len(levels) == 256
    assert (float(levels.min()), float(levels.max())) == (0.0, 3.0)
