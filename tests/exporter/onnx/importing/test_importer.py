"""A given ONNX classifier becomes the canonical ONNX, and what cannot is refused by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetl.errors import TraceError, UsageError
from edgetl.exporter.onnx.importing.given import read_given
from edgetl.exporter.onnx.importing.importer import AS_IT_IS, import_onnx
from edgetl.metrics import softmax
from edgetl.spec import Normalize
from tests.exporter.given import (
    BYTE,
    CLASSES,
    FLOAT,
    HALF,
    PLAIN,
    PREPROCESSING,
    SIZE,
    body,
    build,
    head,
    imported,
    kinds,
    node,
    pictures,
    run_canonical,
    run_given,
    value,
)

# --- what is imported --------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 15, 17, 18, 20, 22, 23])
def test_every_opset(opset: int) -> None:
    """From 7 to the newest that ONNX Runtime reads: equal logits, the same plain operators."""
    data = build(body(norm=True), opset=opset)
    result = imported(data)
    np.testing.assert_allclose(
        run_canonical(result, pictures()), run_given(data, pictures()), atol=1e-5
    )
    assert kinds(result) == [*PREPROCESSING, *PLAIN]
    assert result.notes == ("batch normalisations folded into their convolutions: 1",)
    assert result.classes == CLASSES
    assert (result.input_name, result.output_name) == ("x", "y")


@pytest.mark.parametrize(("kind", "opset"), [("Softmax", 11), ("Softmax", 17), ("LogSoftmax", 17)])
def test_softmax_is_left_out(kind: str, opset: int) -> None:
    """The canonical ONNX returns logits whose softmax is what the file returned."""
    end = [node(kind, ["l"], ["s"], axis=1), node("Identity", ["s"], ["y"])]
    data = build([*body(result="l"), *end], opset=opset)
    result = imported(data)
    wanted = run_given(data, pictures())
    logits = run_canonical(result, pictures())
    np.testing.assert_allclose(
        softmax(logits), wanted if kind == "Softmax" else np.exp(wanted), atol=1e-5
    )
    assert np.abs(logits.sum(axis=1) - 1).min() > 1e-2
    assert kinds(result) == [*PREPROCESSING, *PLAIN]
    assert "left out" in result.notes[0]


def test_channels_last_with_its_own_transpose() -> None:
    """As tf2onnx writes it; the two transposes meet and go."""
    turn = node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])
    data = build([turn, *body("t")], shape=("N", SIZE, SIZE, 3))
    result = imported(data)
    np.testing.assert_allclose(
        run_canonical(result, pictures()), run_given(data, pictures()), atol=1e-5
    )
    assert kinds(result) == [*PREPROCESSING, *PLAIN]


def test_channels_last_with_its_own_normalisation() -> None:
    """A Keras-like file that scales pixels 0…255 by itself before it transposes."""
    steps = [
        node("Div", ["x", "half"], ["d"]),
        node("Sub", ["d", "one"], ["s"]),
        node("Transpose", ["s"], ["t"], perm=[0, 3, 1, 2]),
    ]
    extra = {"half": np.float32(127.5), "one": np.ones(3, np.float32)}
    data = build([*steps, *body("t")], shape=("N", SIZE, SIZE, 3), extra=extra)
    result = imported(data, AS_IT_IS)
    np.testing.assert_allclose(
        run_canonical(result, pictures()), run_given(data, pictures(), AS_IT_IS), atol=1e-5
    )


@pytest.mark.parametrize("shape", [("N", SIZE, SIZE, 3), (1, 3, SIZE, SIZE)])
def test_uint8_input(shape: tuple[Any, ...]) -> None:
    """Pixels as they are: the file's own cast and scaling do the rest."""
    steps = [node("Cast", ["x"], ["k"], to=FLOAT), node("Div", ["k", "full"], ["d"])]
    source = "d"
    if shape[3] == 3:
        steps.append(node("Transpose", ["d"], ["t"], perm=[0, 3, 1, 2]))
        source = "t"
    data = build([*steps, *body(source)], shape=shape, kind=BYTE, extra={"full": np.float32(255)})
    result = imported(data, AS_IT_IS)
    np.testing.assert_allclose(
        run_canonical(result, pictures()), run_given(data, pictures()), atol=1e-5
    )
    assert kinds(result).count("Cast") == 1
    with pytest.raises(UsageError, match=r"reads uint8.*Fix: leave --mean"):
        imported(data, Normalize())


def test_float16_becomes_float32() -> None:
    """The canonical ONNX is FP32; it equals the float16 file up to that file's own rounding."""
    data = build(body(norm=True), kind=HALF)
    result = imported(data)
    wanted = run_given(data, pictures()).astype(np.float32)
    assert 0 < np.abs(run_canonical(result, pictures()) - wanted).max() < 1e-2 * np.ptp(wanted)
    stored = onnx.load_model_from_string(result.canonical).graph.initializer
    assert {i.data_type for i in stored} == {FLOAT}
    assert "float16" in result.notes[0]


@pytest.mark.parametrize("target", [[1, 8], [1, -1], [-1, 8]])
def test_fixed_batch_is_freed(target: list[int]) -> None:
    """A file for one image becomes one for any number."""
    nodes = [*body()[:2], *head()]
    data = build(nodes, shape=(1, 3, SIZE, SIZE), extra={"to": np.array(target, np.int64)})
    result = imported(data)
    np.testing.assert_allclose(
        run_canonical(result, pictures()), run_given(data, pictures()), atol=1e-5
    )
    assert kinds(result) == [*PREPROCESSING, *PLAIN]


def test_images_merged_into_another_axis() -> None:
    """A channel shuffle and a split into windows, written for one image."""
    extra = {
        "groups": np.array([1, 2, 4, 15, 15], np.int64),
        "back": np.array([1, 8, 15, 15], np.int64),
        "windows": np.array([8, 1, 15, 15], np.int64),
        "to": np.array([1, 8], np.int64),
    }
    shuffle = [
        node("Reshape", ["r", "groups"], ["g"]),
        node("Transpose", ["g"], ["s"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["s", "windows"], ["u"]),
        node("Sigmoid", ["u"], ["v"]),
        node("Reshape", ["v", "back"], ["m"]),
        node("GlobalAveragePool", ["m"], ["p"]),
    ]
    nodes = [*body()[:2], *shuffle, *head()[1:]]
    data = build(nodes, shape=(1, 3, SIZE, SIZE), extra=extra)
    result = imported(data)
    np.testing.assert_allclose(
        run_canonical(result, pictures()), run_given(data, pictures()), atol=1e-5
    )


def test_computed_shapes_go() -> None:
    """As torch's old exporter writes `x.view(x.size(0), -1)`: Shape, Gather, Concat, Reshape."""
    steps = [
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Shape", ["p"], ["sh"]),
        node("Constant", [], ["zero"], value=numpy_helper.from_array(np.array(0))),
        node("Gather", ["sh", "zero"], ["n"]),
        node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([0]))),
        node("Unsqueeze", ["n", "axes"], ["n1"]),
        node("Constant", [], ["rest"], value=numpy_helper.from_array(np.array([-1]))),
        node("Concat", ["n1", "rest"], ["to"], axis=0),
        *head()[1:],
    ]
    result = imported(build([*body()[:2], *steps]))
    assert kinds(result) == [*PREPROCESSING, *PLAIN]


@pytest.mark.parametrize("opset", [13, 18])
def test_mean_over_space_is_a_pool(opset: int) -> None:
    """ReduceMean in both ways of writing its axes; Dropout and Identity go."""
    if opset < 18:
        mean = node("ReduceMean", ["r"], ["p"], axes=[-1, 2], keepdims=0)
    else:
        mean = node("ReduceMean", ["r", "to"], ["p"], keepdims=0)
    end = [
        node("Dropout", ["p"], ["d"]),
        node("Identity", ["w2"], ["w"]),
        node("Gemm", ["d", "w", "b2"], ["y"], transB=1),
    ]
    extra = {"to": np.array([2, 3], np.int64)}
    data = build([*body()[:2], mean, *end], opset=opset, extra=extra)
    result = imported(data)
    np.testing.assert_allclose(
        run_canonical(result, pictures()), run_given(data, pictures()), atol=1e-5
    )
    assert kinds(result) == [*PREPROCESSING, *PLAIN]


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_split_into_equal_parts(opset: int) -> None:
    """Its number of parts is the outputs' before opset 18, and stated from then on."""
    stated = {"num_outputs": 2} if opset >= 18 else {}
    nodes = [
        *body()[:2],
        node("Split", ["r"], ["s1", "s2"], axis=1, **stated),
        node("Concat", ["s2", "s1"], ["t"], axis=1),
        node("GlobalAveragePool", ["t"], ["p"]),
        *body()[3:],
    ]
    data = build(nodes, opset=opset)
    result = imported(data)
    np.testing.assert_allclose(
        run_canonical(result, pictures()), run_given(data, pictures()), atol=1e-5
    )


@pytest.mark.parametrize(("kind", "opset"), [("Gelu", 20), ("Mish", 18)])
def test_newer_operators_are_written_in_older_ones(kind: str, opset: int) -> None:
    """Operators that came after opset 17 and are defined by others."""
    nodes = body()
    nodes[1] = node(kind, ["c"], ["r"])
    data = build(nodes, opset=opset)
    result = imported(data)
    np.testing.assert_allclose(
        run_canonical(result, pictures()), run_given(data, pictures()), atol=1e-5
    )
    assert kind not in kinds(result)
    assert "CastLike" not in kinds(result)


def test_batch_norm_that_cannot_be_folded_stays() -> None:
    """Two readers of the convolution: folding would change one of them."""
    nodes = body(norm=True)
    nodes[2] = node("Add", ["n", "c"], ["r"])
    data = build(nodes)
    result = imported(data)
    np.testing.assert_allclose(
        run_canonical(result, pictures()), run_given(data, pictures()), atol=1e-5
    )
    assert "BatchNormalization" in kinds(result)


def test_open_size() -> None:
    """--size fixes what the file leaves open."""
    data = build(body(), shape=("N", 3, "H", "W"))
    with pytest.raises(UsageError, match=r"leaves the image size open.*Fix: .*--size 224"):
        read_given(data)
    given = read_given(data, size=48)
    result = import_onnx(given, normalize=Normalize(), images=pictures(size=48))
    assert (given.height, given.width) == (48, 48)
    assert run_canonical(result, pictures(size=48)).shape == (5, CLASSES)


def test_initializers_among_the_inputs() -> None:
    """Before IR version 4 every weight had to be listed as an input."""
    model = onnx.load_model_from_string(build(body(norm=True), opset=8))
    for item in model.graph.initializer:
        model.graph.input.append(value(item.name, item.data_type, item.dims))
    model.ir_version = 3
    result = imported(model.SerializeToString())
    assert result.canonical == imported(build(body(norm=True), opset=8)).canonical


def test_local_functions_are_written_out() -> None:
    """As exporters write that keep modules apart."""
    model = onnx.load_model_from_string(build(body()))
    inner = [node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["b"])]
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("mine", "Act", ["a"], ["b"], inner, imports))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Act", "mine"
    data = model.SerializeToString()
    result = imported(data)
    np.testing.assert_allclose(
        run_canonical(result, pictures()), run_given(data, pictures()), atol=1e-5
    )
    assert {"Sigmoid", "Mul"} <= set(kinds(result)[4:])


def test_same_bytes_and_given_unchanged() -> None:
    """Adoption is repeatable and leaves the given model as it is."""
    given = read_given(build(body(norm=True)))
    before = given.model.SerializeToString(deterministic=True)
    first = import_onnx(given, normalize=Normalize())
    assert first.canonical == import_onnx(given, normalize=Normalize()).canonical
    assert given.model.SerializeToString(deterministic=True) == before
    assert (
        first.canonical != import_onnx(given, normalize=Normalize(mean=(0.5, 0.5, 0.5))).canonical
    )


def test_imports_its_own_canonical() -> None:
    """A canonical ONNX that `edgetl unpack` gave comes back as the same network."""
    data = build(body())
    first = imported(data)
    again = imported(first.canonical, AS_IT_IS)
    np.testing.assert_allclose(
        run_canonical(again, pictures()), run_given(data, pictures()), atol=1e-5
    )


@pytest.fixture
def exported(single: None) -> Callable[..., bytes]:
    """torchvision's squeezenet as torch's exporters write it."""
    torch = pytest.importorskip("torch")
    import torchvision

    def make(*, dynamo: bool, opset: int) -> bytes:
        from edgetl.telemetry import quiet

        torch.manual_seed(0)
        model = torchvision.models.mobilenet_v3_small(weights=None, num_classes=CLASSES).eval()
        buffer, example = io.BytesIO(), torch.zeros(1, 3, SIZE, SIZE)
        options: dict[str, Any] = {"opset_version": opset, "input_names": ["x"], "dynamo": dynamo}
        with quiet():
            if dynamo:
                model_proto = torch.onnx.export(model, (example,), verbose=False, **options)
                return model_proto.model_proto.SerializeToString()
            training = torch.onnx.TrainingMode.PRESERVE  # leaves batch normalisations in
            options |= {"training": training, "do_constant_folding": False}
            torch.onnx.export(model, (example,), buffer, **options)
        return buffer.getvalue()

    return make


@pytest.mark.parametrize(("dynamo", "opset"), [(True, 20), (False, 11)])
def test_files_of_torch(exported: Callable[..., bytes], dynamo: bool, opset: int) -> None:
    """Both of torch's exporters, for one image, newer and older than opset 17."""
    data = exported(dynamo=dynamo, opset=opset)
    result = imported(data)
    wanted = run_given(data, pictures())
    assert np.abs(run_canonical(result, pictures()) - wanted).max() <= 1e-4 * np.ptp(wanted)
    assert kinds(result).count("Conv") == 52
    assert not {"BatchNormalization", "ReduceMean", "Reshape", "Identity"} & set(kinds(result))


# --- what is refused --------------------------------------------------------------------------


def quantized() -> bytes:
    extra = {"s": np.float32(0.1), "z": np.uint8(0)}
    steps = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
    ]
    return build([*steps, *body("d")], extra=extra)


def control_flow(condition: list[onnx.NodeProto], yes: bool = True) -> bytes:
    """An If between ReLU and Sigmoid, by the tensor "yes"."""
    branches = [
        helper.make_graph(
            [node(kind, ["c"], ["i"]), node("Identity", ["i"], ["o"])],
            kind,
            [],
            [value("o", FLOAT, None)],
        )
        for kind in ("Relu", "Sigmoid")
    ]
    nodes = [*condition, *body()]
    place = len(condition) + 1
    nodes[place] = node(
        "If", ["yes"], ["r"], "choice", then_branch=branches[0], else_branch=branches[1]
    )
    return build(nodes, extra={} if condition else {"yes": np.array(yes)})


BY_THE_IMAGE = [
    node("ReduceMax", ["x"], ["most"], keepdims=0),
    node("Cast", ["most"], ["yes"], to=TensorProto.BOOL),
]


def unknown_opset() -> bytes:
    model = onnx.load_model_from_string(build(body()))
    model.opset_import[0].version = 99
    return model.SerializeToString()


def training() -> bytes:
    nodes = body(norm=True)
    nodes[1] = node(
        "BatchNormalization",
        list(nodes[1].input),
        ["n", "m2", "v2"],
        "norm",
        training_mode=1,
    )
    return build(nodes)


def resized() -> bytes:
    nodes = body()
    nodes[1] = node("Resize", ["c", "", "s"], ["r"], "grow", antialias=1, mode="linear")
    return build(nodes, opset=18, extra={"s": np.array([1, 1, 2, 2], np.float32)})


REFUSED = {
    "noise": (b"\x08\xff\xff" * 20, "is not an ONNX file"),
    "empty": (b"", "is not an ONNX file"),
    "opset 6": (build(body(), opset=6), "opset 6; read are opsets 7 to"),
    "opset 99": (unknown_opset(), "opset 99; read are opsets 7 to"),
    "quantized": (quantized(), "quantized already: it holds QuantizeLinear 'quantize'"),
    "control flow": (control_flow(BY_THE_IMAGE), "If 'choice' is control flow"),
    "training": (training(), "BatchNormalization 'norm' belongs to training"),
    "domain": (
        build(
            [node("FusedConv", ["x", "w1"], ["c"], "fused", domain="com.microsoft"), *body()[1:]],
            domains=("com.microsoft",),
        ),
        "FusedConv 'fused' is of the operator domain 'com.microsoft'",
    ),
    "two inputs": (
        build([node("Add", ["x", "z"], ["a"]), *body("a")], inputs=("x", "z")),
        r"2 inputs \(x, z\), not one",
    ),
    "two outputs": (build(body(), outputs=("y", "f")), r"2 outputs \(y, f\), not one"),
    "feature map": (
        build(body()[:2], outputs=("r",)),
        r"shape \[2, 8, 15, 15\].*not \(N, classes\)",
    ),
    "grey": (build(body(), shape=("N", 1, SIZE, SIZE)), "no axis holds three colours"),
    "vectors": (build(body(), shape=("N", 3)), r"float \[\?, 3\], not float32"),
    "sigmoid": (
        build([*body(result="l"), node("Sigmoid", ["l"], ["y"], "each")]),
        "ends in Sigmoid 'each'",
    ),
    "hidden softmax": (
        build(
            [
                *body(result="l"),
                node("Exp", ["l"], ["e"]),
                node("ReduceSum", ["e", "to"], ["s"]),
                node("Div", ["e", "s"], ["y"]),
            ],
            extra={"to": np.array([1], np.int64)},
        ),
        r"probabilities \(a row of 'y' adds up to 1\), but does not end in Softmax",
    ),
    "unknown operator": (
        build([node("Nonsense", ["x"], ["y"], "what")]),
        "ONNX Runtime cannot load",
    ),
    "newer attribute": (resized(), "Resize 'grow' has the attribute antialias"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refuses(name: str) -> None:
    """Each says what and where, and how to mend it."""
    data, message = REFUSED[name]
    with pytest.raises(TraceError, match=message) as caught:
        imported(data)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (("N", 3, SIZE, SIZE), {"size": 48}, "--size 48 contradicts"),
        (("N", 3, "H", "W"), {"size": 0}, "--size 0 is not possible"),
        (("N", 3, SIZE, SIZE), {"layout": "nhwc"}, "--layout nhwc contradicts"),
        (("N", 3, 3, 3), {}, "which axis holds the colours is not clear"),
        (("N", "C", "H", "W"), {"size": SIZE}, "which axis holds the colours is not clear"),
    ],
)
def test_refuses_options(shape: tuple[Any, ...], options: Any, message: str) -> None:
    """Options that the file contradicts, and those that it needs."""
    with pytest.raises(UsageError, match=message):
        read_given(build(body(), shape=shape), **options)


def test_layout_decides_where_the_shape_does_not() -> None:
    """An entirely open shape, with --layout and --size."""
    data = build(body(), shape=("N", "C", "H", "W"))
    given = read_given(data, size=SIZE, layout="nchw")
    assert run_canonical(import_onnx(given, normalize=Normalize()), pictures()).shape == (
        5,
        CLASSES,
    )
    with pytest.raises(TraceError, match="fails on 32x32 pixels"):
        read_given(data, size=SIZE, layout="nhwc")


@pytest.mark.parametrize("std", [(0.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (float("nan"), 1.0, 1.0)])
def test_refuses_impossible_normalisation(std: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="cannot normalise images"):
        imported(build(body()), Normalize(std=std))


def test_refuses_a_file_that_answers_nan() -> None:
    nodes = [node("Sqrt", ["x"], ["g"], "root"), *body("g")]
    with pytest.raises(TraceError, match=r"NaN or infinity .* Sqrt 'root' makes the first"):
        imported(build(nodes))


def test_refuses_a_result_that_differs() -> None:
    """A file in which images influence each other: the comparison finds it."""
    steps = [
        node("ReduceMean", ["l"], ["m"], axes=[0], keepdims=1),
        node("Mul", ["m", "half"], ["h"]),
        node("Sub", ["l", "h"], ["y"]),
    ]
    data = build(
        [*body(result="l"), *steps],
        shape=("N", 3, SIZE, SIZE),
        extra={"half": np.float32(0.5)},
    )
    with pytest.raises(TraceError, match=r"The rewritten model differs from .* a logit by"):
        imported(data)


def test_sides_need_not_be_equal() -> None:
    """Of the file, or by --size where it leaves them open."""
    for shape, size in ((("N", 3, 32, 48), None), (("N", 3, "H", "W"), (32, 48))):
        given = read_given(build(body(), shape=shape), size=size)
        assert (given.height, given.width) == (32, 48)
        made = import_onnx(given, normalize=Normalize())
        images = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)
        assert run_canonical(made, images).shape == (3, CLASSES)
    with pytest.raises(UsageError, match=r"--size 48x32 contradicts .* which reads 32x48 pixels"):
        read_given(build(body(), shape=("N", 3, 32, 48)), size=(48, 32))


def test_one_of_several_outputs_is_taken_by_name() -> None:
    """Here the logits and the features before them."""
    data = build(body(result="logits"), outputs=("logits", "r"))
    with pytest.raises(TraceError, match=r"has 2 outputs \(logits, r\), not one.*--output NAME"):
        read_given(data)
    with pytest.raises(UsageError, match=r"has no output 'y'.*name one of logits, r"):
        read_given(data, output="y")
    given = read_given(data, output="logits")
    assert [o.name for o in given.model.graph.output] == ["logits"]
    alone = import_onnx(
        read_given(build(body(result="logits"), outputs=("logits",))), normalize=Normalize()
    )
    assert import_onnx(given, normalize=Normalize()).canonical == alone.canonical
