"""The end of a given classifier: its logits are found, and what is none is called by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgetl.errors import TraceError
from edgetl.exporter.onnx.importing.given import read_given
from edgetl.metrics import softmax
from tests.exporter.given import (
    CLASSES,
    body,
    build,
    imported,
    kinds,
    node,
    pictures,
    run_canonical,
    run_given,
    same,
    value,
)


def ending(*nodes: onnx.NodeProto, kind: int = TensorProto.FLOAT, **options: Any) -> bytes:
    """The body with logits "l", and what follows."""
    model = onnx.load_model_from_string(build([*body(result="l"), *nodes], **options))
    model.graph.output[0].type.tensor_type.elem_type = kind
    return model.SerializeToString()


@pytest.mark.parametrize("axes", [[2, 3], [1, 2]])
def test_axes_of_one_are_left_out(axes: list[int]) -> None:
    """(N, C, 1, 1) as squeezenet ends, and (N, 1, 1, C) as channels-last networks do."""
    data = ending(node("Unsqueeze", ["l", "axes"], ["y"]), extra={"axes": np.array(axes)})
    result = same(data)
    assert result.classes == CLASSES
    assert kinds(result)[-1] == "Flatten"


@pytest.mark.parametrize(
    ("axes", "axis", "opset"), [([2, 3], 1, 17), ([2, 3], 1, 9), ([1, 2], -1, 17), ([1, 2], 1, 11)]
)
def test_a_softmax_over_four_axes_is_left_out(axes: list[int], axis: int, opset: int) -> None:
    shape = np.array([-1, CLASSES, 1, 1] if axes == [2, 3] else [-1, 1, 1, CLASSES])
    data = ending(
        node("Reshape", ["l", "to"], ["k"]),
        node("Softmax", ["k"], ["y"], axis=axis),
        extra={"to": shape},
        opset=opset,
    )
    result = imported(data)
    wanted = run_given(data, pictures()).reshape(5, CLASSES)
    np.testing.assert_allclose(softmax(run_canonical(result, pictures())), wanted, atol=1e-5)
    assert "Softmax" not in kinds(result)


def test_a_softmax_before_reshaping_and_logs_is_left_out() -> None:
    for last in ("Reshape", "Log"):
        inputs = ["s", "to"] if last == "Reshape" else ["s"]
        data = ending(
            node("Softmax", ["l"], ["s"], axis=1),
            node(last, inputs, ["y"]),
            extra={"to": np.array([-1, CLASSES])},
        )
        result = imported(data)
        wanted = run_given(data, pictures())
        found = softmax(run_canonical(result, pictures()))
        np.testing.assert_allclose(
            found, wanted if last == "Reshape" else np.exp(wanted), atol=1e-5
        )
        assert "Softmax" not in kinds(result)


def test_logits_scaled_before_the_softmax_stay_scaled() -> None:
    """As calibrated models have it: the probabilities are the file's."""
    data = ending(
        node("Div", ["l", "t"], ["k"]),
        node("Softmax", ["k"], ["y"], axis=1),
        extra={"t": np.float32(2.5)},
    )
    found = softmax(run_canonical(imported(data), pictures()))
    np.testing.assert_allclose(found, run_given(data, pictures()), atol=1e-5)


SOFTMAX = node("Softmax", ["l"], ["s"], "probs", axis=1)
HUNDRED = {"h": np.float32(100), "top": np.float32(1)}
REFUSED: dict[str, tuple[bytes, str]] = {
    "percent": (
        ending(SOFTMAX, node("Mul", ["s", "h"], ["y"], "percent"), extra=HUNDRED),
        r"Softmax 'probs' and then Mul 'percent'.*extract_model\('model.onnx', .*\['x'\], \['l'\]",
    ),
    "clipped": (
        ending(SOFTMAX, node("Clip", ["s", "", "top"], ["y"]), extra=HUNDRED),
        r"Softmax 'probs' and then Clip 'y': changed probabilities",
    ),
    "smoothed and scaled": (
        ending(
            SOFTMAX,
            node("Mul", ["s", "h"], ["k"], "percent"),
            node("Add", ["k", "top"], ["y"]),
            extra=HUNDRED,
        ),
        r"Softmax 'probs' and then Mul 'percent'",
    ),
    "twice": (
        ending(SOFTMAX, node("Softmax", ["s"], ["y"], "again", axis=1)),
        r"two Softmax in a row: Softmax 'probs' and Softmax 'again'.*\['l'\]",
    ),
    "over images": (
        ending(node("Softmax", ["l"], ["y"], "first", axis=0)),
        r"Softmax 'first' over axis 0 of \[2, 5\], and the classes are axis 1",
    ),
    "over an axis of one": (
        ending(
            node("Unsqueeze", ["l", "axes"], ["k"]),
            node("Softmax", ["k"], ["y"], "last"),
            extra={"axes": np.array([2, 3])},
        ),
        r"Softmax 'last' over axis -1 of \[2, 5, 1, 1\], and the classes are axis 1",
    ),
    "unnamed sigmoid": (
        ending(node("Sigmoid", ["l"], ["y"])),
        r"ends in Sigmoid 'y': several classes",
    ),
    "double": (
        ending(node("Cast", ["l"], ["y"], to=11), kind=TensorProto.DOUBLE),
        r"returns 'y' as float64 \(double\).*Fix: .*float32",
    ),
    "class number": (
        ending(node("ArgMax", ["l"], ["y"], "best", axis=1), kind=TensorProto.INT64),
        r"returns 'y' as int64: ArgMax 'best' picks classes.*\['l'\]",
    ),
    "integers": (
        ending(node("Cast", ["l"], ["y"], to=6), kind=TensorProto.INT32),
        r"returns 'y' as int32, not as float32 logits",
    ),
    "percent by hand": (
        ending(
            node("Exp", ["l"], ["e"]),
            node("ReduceSum", ["e", "axes"], ["n"]),
            node("Div", ["e", "n"], ["d"]),
            node("Mul", ["d", "h"], ["y"]),
            extra=HUNDRED | {"axes": np.array([1])},
        ),
        r"probabilities \(a row of 'y' adds up to 100\)",
    ),
    "one logit": (
        build(
            [*body(result="l"), node("Gather", ["l", "one"], ["y"], axis=1)],
            extra={"one": np.array([2])},
        ),
        r"returns 'y' with 1 column",
    ),
    "map of logits": (
        build([*body()[:2], node("Identity", ["r"], ["y"])]),
        r"'y' of shape \[2, 8, 15, 15\] for 2 images, not \(N, classes\)",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_no_logits(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(TraceError, match=message) as caught:
        read_given(data)
    assert caught.value.fix


def test_the_advice_helps(tmp_path: Any) -> None:
    """The command of the message makes a file that is imported."""
    path, cut = tmp_path / "m.onnx", tmp_path / "logits.onnx"
    model = onnx.load_model_from_string(REFUSED["percent"][0])
    model.graph.output[0].CopyFrom(value("y", TensorProto.FLOAT, ["N", CLASSES]))
    onnx.save(model, path)
    with pytest.raises(TraceError) as caught:
        read_given(path)
    assert "extract_model('m.onnx', 'logits.onnx', ['x'], ['l'])" in str(caught.value.fix)
    onnx.utils.extract_model(str(path), str(cut), ["x"], ["l"])
    assert same(cut).canonical == imported(build(body())).canonical
