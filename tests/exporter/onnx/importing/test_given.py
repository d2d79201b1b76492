"""What a given classifier computes decides what is refused, not how its constants are written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgetl.errors import TraceError
from edgetl.exporter.onnx.importing.given import read_given
from tests.exporter.given import body, build, imported, kinds, node, same
from tests.exporter.onnx.importing.test_importer import BY_THE_IMAGE, control_flow


def standardised(source: str = "w1") -> list[onnx.NodeProto]:
    """Weight standardisation as torch writes it: a BatchNormalization that trains."""
    steps = [
        node("Reshape", [source, "rows"], ["w_rows"]),
        node(
            "BatchNormalization",
            ["w_rows", "one", "none", "none", "one"],
            ["w_norm", "m_new", "v_new"],
            "standardise",
            training_mode=1,
        ),
        node("Reshape", ["w_norm", "back"], ["w_back"]),
    ]
    nodes = body()
    nodes[0].input[1] = "w_back"
    return [*steps, *nodes]


EXTRA = {
    "rows": np.array([1, 8, -1]),
    "back": np.array([8, 3, 3, 3]),
    "one": np.ones(8, np.float32),
    "none": np.zeros(8, np.float32),
}


def test_weight_standardisation_is_no_training() -> None:
    """It reads weights alone, so it is computed once."""
    result = same(build(standardised(), extra=EXTRA))
    assert kinds(result)[4:] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]


def test_what_the_chosen_output_leaves_out_may_be_anything() -> None:
    nodes = [*body(), node("RandomNormalLike", ["y"], ["aux"], "noise")]
    data = build(nodes, outputs=("y", "aux"))
    assert read_given(data, output="y").output == "y"
    with pytest.raises(TraceError, match="RandomNormalLike 'noise' belongs to training"):
        read_given(data, output="aux")


def test_normalising_by_the_images_is_training() -> None:
    nodes = body(norm=True)
    nodes[1].attribute.append(onnx.helper.make_attribute("training_mode", 1))
    nodes[1].output.extend(["m_new", "v_new"])
    with pytest.raises(TraceError, match="BatchNormalization 'norm' belongs to training"):
        read_given(build(nodes))


@pytest.mark.parametrize("yes", [True, False])
def test_a_constant_condition_is_no_control_flow(yes: bool) -> None:
    result = same(build_if(yes))
    assert ("Relu" in kinds(result)) is yes
    assert ("Sigmoid" in kinds(result)) is not yes


def build_if(yes: bool) -> bytes:
    return control_flow([], yes)


def test_two_ifs_with_equal_names_inside() -> None:
    """Tensors of a branch get names of their own."""
    model = onnx.load_model_from_string(control_flow([]))
    again = onnx.NodeProto()
    again.CopyFrom(next(n for n in model.graph.node if n.op_type == "If"))
    again.name, again.output[0] = "second", "r2"
    place = [n.op_type for n in model.graph.node].index("If")
    nodes = [*model.graph.node[: place + 1], again, *model.graph.node[place + 1 :]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    pool = next(n for n in model.graph.node if n.op_type == "GlobalAveragePool")
    pool.input[0] = "sum"
    model.graph.node.insert(place + 2, node("Add", ["r", "r2"], ["sum"]))
    assert kinds(same(model.SerializeToString())).count("Relu") == 2


def test_a_condition_of_the_image_is_control_flow() -> None:
    with pytest.raises(TraceError, match="If 'choice' is control flow"):
        read_given(control_flow(BY_THE_IMAGE))


@pytest.mark.parametrize("kind", ["RandomNormal", "RandomUniform"])
def test_random_weights_are_not_folded(kind: str) -> None:
    """They read nothing, but are another value each time."""
    nodes = [node(kind, [], ["drawn"], "dice", shape=[8, 3, 3, 3]), *body()]
    nodes[1].input[1] = "drawn"
    with pytest.raises(TraceError, match=f"{kind} 'dice' belongs to training"):
        read_given(build(nodes))


def test_a_dropout_that_drops_is_named() -> None:
    nodes = body()
    nodes[1] = node("Dropout", ["c", "ratio", "training"], ["r"], "drop")
    extra = {"ratio": np.float32(0.5), "training": np.array(True)}
    with pytest.raises(TraceError, match=r"Dropout 'drop' is in training mode.*model.eval"):
        read_given(build(nodes, extra=extra))
    same(build(nodes, extra=extra | {"training": np.array(False)}))


@pytest.mark.parametrize(
    ("name", "bad", "reader"),
    [("w1", np.nan, "Conv 'conv'"), ("b2", np.inf, "Gemm 'head'"), ("w2", -np.inf, "Gemm 'head'")],
)
def test_weights_that_are_no_numbers_are_named(name: str, bad: float, reader: str) -> None:
    model = onnx.load_model_from_string(build(body()))
    stored = next(i for i in model.graph.initializer if i.name == name)
    array = numpy_helper.to_array(stored).copy()
    array.flat[:2] = bad
    stored.CopyFrom(numpy_helper.from_array(array, name))
    what = "NaN" if np.isnan(bad) else "infinity"
    said = f"'{name}', which {reader} reads, holds {what} in 2 of {array.size} values"
    with pytest.raises(TraceError, match=said):
        read_given(model.SerializeToString())


def test_an_infinite_limit_is_no_weight() -> None:
    nodes = body()
    nodes[1] = node("Clip", ["c", "zero", "most"], ["r"])
    limits = {"zero": np.float32(0), "most": np.float32(np.inf)}
    assert "Clip" in kinds(imported(build(nodes, extra=limits)))


def test_what_nothing_reads_is_not_judged() -> None:
    """A dead end with a random node, and a weight of NaN that no layer reads."""
    dead = [node("RandomNormalLike", ["c"], ["d"]), node("Mul", ["d", "bad"], ["e"])]
    data = build([*body(), *dead], extra={"bad": np.float32(np.nan)})
    assert imported(data).canonical == imported(build(body())).canonical
