"""Reading somebody else's ONNX file: what it keeps beside it, and what is untidy in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgetl.errors import TraceError, UsageError
from edgetl.exporter.onnx.importing.file import read_file
from edgetl.exporter.onnx.importing.given import read_given
from tests.exporter.given import FLOAT, body, build, imported, node, same, value, weights


def parsed(data: bytes) -> onnx.ModelProto:
    return onnx.load_model_from_string(data)


def test_external_data(tmp_path: Path) -> None:
    """Weights beside the file are read, part of the hash, and missed by name."""
    data = build(body(norm=True))
    inline, path = tmp_path / "inline.onnx", tmp_path / "given.onnx"
    inline.write_bytes(data)
    options = {"save_as_external_data": True, "location": "given.bin", "size_threshold": 0}
    onnx.save_model(onnx.load_model_from_string(data), path, **options)
    assert imported(path).canonical == imported(inline).canonical
    before = read_given(path).sha256
    blob = (tmp_path / "given.bin").read_bytes()
    (tmp_path / "given.bin").write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
    assert read_given(path).sha256 != before
    (tmp_path / "given.bin").unlink()
    with pytest.raises(TraceError, match=r"weights in the file 'given\.bin'.*Fix: put 'given"):
        read_given(path)
    with pytest.raises(TraceError, match=r"'given\.bin', which is not beside it"):
        read_given(path.read_bytes())


def test_external_data_stays_in_its_folder(tmp_path: Path) -> None:
    """A file cannot make edgetl read something elsewhere."""
    (tmp_path / "secret").write_bytes(b"0" * 4096)
    for place in ("../secret", str(tmp_path / "secret")):
        model = onnx.load_model_from_string(build(body()))
        onnx.external_data_helper.set_external_data(model.graph.initializer[0], place)
        model.graph.initializer[0].ClearField("raw_data")
        home = tmp_path / "models"
        home.mkdir(exist_ok=True)
        (home / "m.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(TraceError, match="which is not beside it"):
            read_given(home / "m.onnx")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Cannot read .*No such file"):
        read_given(tmp_path / "absent.onnx")
    with pytest.raises(UsageError, match=r"Cannot read .*directory"):
        read_given(tmp_path)


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_weights_are_written_out(flat: bool) -> None:
    """Indices count through the whole tensor, or name each value's place by axis."""
    model = parsed(build(body()))
    stored = next(i for i in model.graph.initializer if i.name == "w2")
    array = numpy_helper.to_array(stored).copy()
    array[np.abs(array) < 0.5] = 0
    places = np.flatnonzero(array) if flat else np.argwhere(array)
    values = numpy_helper.from_array(array[array != 0], "w2")
    indices = numpy_helper.from_array(places.astype(np.int64), "")
    model.graph.initializer.remove(stored)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, array.shape))
    dense = parsed(build(body()))
    next(i for i in dense.graph.initializer if i.name == "w2").CopyFrom(
        numpy_helper.from_array(array, "w2")
    )
    assert (
        same(model.SerializeToString()).canonical == imported(dense.SerializeToString()).canonical
    )


def test_a_sparse_weight_outside_its_shape_is_named() -> None:
    model = parsed(build(body()))
    values = numpy_helper.from_array(np.ones(1, np.float32), "w2")
    indices = numpy_helper.from_array(np.array([99]), "")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, (5, 8)))
    with pytest.raises(TraceError, match=r"sparse weight 'w2' does not fit its shape \[5, 8\]"):
        read_file(model.SerializeToString())


@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_nodes_in_any_order(order: list[int]) -> None:
    nodes = body()
    result = same(build([nodes[i] for i in order]))
    assert result.canonical == imported(build(nodes)).canonical


def test_a_sorted_file_keeps_its_order() -> None:
    nodes = [*body(), node("Relu", ["x"], ["apart"])]
    model = read_file(build(nodes)).model
    assert [n.op_type for n in model.graph.node] == [n.op_type for n in nodes]


def test_nodes_that_a_branch_waits_for_come_first() -> None:
    """What an If reads is read by the graphs inside it."""
    inside = helper.make_graph(
        [node("Relu", ["c"], ["i"])], "inside", [], [value("i", FLOAT, None)]
    )
    conv, _, *rest = body()
    choice = node("If", ["yes"], ["r"], then_branch=inside, else_branch=inside)
    same(build([choice, conv, *rest], extra={"yes": np.array(True)}))


def test_a_circle_is_named() -> None:
    nodes = body()
    nodes[1] = node("Add", ["c", "f"], ["r"], "back")
    with pytest.raises(TraceError, match=r"Add 'back' needs its own result, in a circle"):
        read_file(build(nodes))


def test_two_things_of_one_name_are_named() -> None:
    nodes = body()
    for item in nodes[:2]:
        item.name = "same"
    with pytest.raises(TraceError, match=r"has 2 nodes with the name 'same'"):
        read_file(build(nodes))
    with pytest.raises(TraceError, match=r"makes the tensor 'r' 2 times"):
        read_file(build([*body(), node("Relu", ["c"], ["r"])]))


def test_an_opset_stated_twice() -> None:
    model = parsed(build(body()))
    model.opset_import.append(helper.make_opsetid("ai.onnx", 17))
    assert same(model.SerializeToString()).canonical == imported(build(body())).canonical
    model.opset_import[1].version = 18
    with pytest.raises(TraceError, match="imports opsets 17 and 18 at once"):
        read_file(model.SerializeToString())


def test_weights_are_the_files() -> None:
    """What is read is what was written, whatever form it had."""
    stored = {
        i.name: numpy_helper.to_array(i) for i in read_file(build(body())).model.graph.initializer
    }
    np.testing.assert_array_equal(stored["w2"], weights()["w2"].astype(np.float32))
