"""Models that name other files: found wherever a tensor can be, in any way to encode it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edgetl.engines import ENGINES, Options, find_engine, onnx_wire
from edgetl.engines.onnx_wire import DATA_LOCATION, EXTERNAL_DATA, HOLDERS, check_sealed
from edgetl.errors import EngineError
from edgetl.exporter.candidates import Built

OUTSIDE = "names another file for some of its weights"
OPTIONS = {
    "onnxruntime": {},
    "openvino": {"INFERENCE_PRECISION_HINT": "f32"},
    "tensorrt": {"typing": "weak"},
}
Tiny = Callable[[str], Built]


def outside(name: str = "w", location: str = "weights.bin") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def inside() -> TensorProto:
    return helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])


def constant(tensor: TensorProto) -> Any:
    return helper.make_node("Constant", [], ["c"], value=tensor)


def graph(nodes: Any = (), **more: Any) -> Any:
    return helper.make_graph(list(nodes), "g", [], [], **more)


def branch(inner: Any) -> Any:
    return graph([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=graph())])


def sparse(tensor: TensorProto) -> Any:
    indices = helper.make_tensor("i", TensorProto.INT64, [4], [0, 1, 2, 3])
    return helper.make_sparse_tensor(tensor, indices, [9])


def several(field: str, tensor: TensorProto) -> Any:
    """A node with an attribute that holds a list."""
    node, attribute = helper.make_node("Any", [], []), onnx.AttributeProto(name="list")
    value = {"tensors": tensor, "graphs": graph([constant(tensor)])}.get(field) or sparse(tensor)
    getattr(attribute, field).append(value)
    node.attribute.append(attribute)
    return graph([node])


def with_function(tensor: TensorProto) -> Any:
    model = helper.make_model(graph())
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("d", "f", [], ["c"], [constant(tensor)], opset))
    return model


def in_training(tensor: TensorProto) -> Any:
    model = helper.make_model(graph())
    model.training_info.add().algorithm.CopyFrom(graph(initializer=[tensor]))
    return model


PLACES: dict[str, Callable[[TensorProto], Any]] = {
    "initializer": lambda t: helper.make_model(graph(initializer=[inside(), t])),
    "sparse initializer": lambda t: helper.make_model(graph(sparse_initializer=[sparse(t)])),
    "constant": lambda t: helper.make_model(graph([constant(t)])),
    "branch": lambda t: helper.make_model(branch(branch(graph([constant(t)])))),
    "list of tensors": lambda t: helper.make_model(several("tensors", t)),
    "list of graphs": lambda t: helper.make_model(several("graphs", t)),
    "list of sparse tensors": lambda t: helper.make_model(several("sparse_tensors", t)),
    "function": with_function,
    "training": in_training,
}


@pytest.mark.parametrize("place", PLACES)
def test_another_file_is_found_wherever_a_tensor_can_be(place: str) -> None:
    check_sealed(PLACES[place](inside()).SerializeToString())
    with pytest.raises(EngineError, match=OUTSIDE) as error:
        check_sealed(PLACES[place](outside()).SerializeToString())
    assert error.value.fix


def test_the_fields_are_those_of_onnx() -> None:
    """Every way from a model to a tensor, as the `onnx` package describes its messages."""

    def inner(message: Any) -> dict[int, Any]:
        return {f.number: f.message_type for f in message.fields if f.message_type is not None}

    messages, waiting = {}, [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if message.name not in messages:
            messages[message.name] = inner(message)
            waiting += messages[message.name].values()
    holders = {"TensorProto"}
    while (
        more := {
            name for name, fields in messages.items() if holders & {m.name for m in fields.values()}
        }
        - holders
    ):
        holders |= more
    assert set(HOLDERS) == holders
    for name in holders - {"TensorProto"}:
        found = {n: m.name for n, m in messages[name].items() if m.name in holders}
        assert HOLDERS[name] == found
    fields = TensorProto.DESCRIPTOR.fields_by_name
    assert fields["external_data"].number == EXTERNAL_DATA
    assert fields["data_location"].number == DATA_LOCATION


@pytest.mark.parametrize(
    "field",
    [
        bytes([DATA_LOCATION << 3, 1]),
        bytes([DATA_LOCATION << 3, 0x81, 0x80, 0]),  # the same, longer than it need be
        bytes([DATA_LOCATION << 3 | 0x80, 0x80, 0, 1]),
        bytes([EXTERNAL_DATA << 3 | 2, 0]),
    ],
    ids=["location", "long value", "long tag", "empty entry"],
)
def test_one_field_is_enough(field: bytes) -> None:
    tensor = bytes([0x2A, len(field)]) + field  # GraphProto.initializer
    with pytest.raises(EngineError, match=OUTSIDE):
        check_sealed(bytes([0x3A, len(tensor)]) + tensor)  # ModelProto.graph
    twice = bytes([0x3A, 0]) + bytes([0x3A, len(tensor)]) + tensor  # readers merge the two
    with pytest.raises(EngineError, match=OUTSIDE):
        check_sealed(twice)


@pytest.mark.parametrize(
    "data",
    [
        b"\x3a\x05\x2a",  # longer than the file
        b"\x3a\x02\x2a\x05\x00\x00\x00\x00\x00",  # longer than what it lies in
        b"\x3b\x3c",  # a group, which ONNX has none of
        b"\x00\x00",  # field 0
        b"\xba\x80\x80\x80\x10\x00",  # beyond 32 bits, where readers cut off
        b"\xff" * 20,
        b"\x08",
        b"<html>404</html>",
    ],
)
def test_other_bytes_are_no_onnx(data: bytes) -> None:
    with pytest.raises(EngineError, match="it is no ONNX file") as error:
        check_sealed(data)
    assert "\n" not in error.value.message


def test_the_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_wire, "MOST_FIELDS", 1000)
    check_sealed(b"\x08\x08" * 1000)
    with pytest.raises(EngineError, match="more than 1000 fields"):
        check_sealed(b"\x08\x08" * 1001)


def test_deep_nesting_ends() -> None:
    data = b""
    for _ in range(2000):  # an attribute with a graph of a node, and so on
        for tag in (0x32, 0x2A, 0x0A):
            size = len(data)
            length = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
            data = bytes([tag]) + length + data
    size = len(data)
    length = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
    check_sealed(bytes([0x3A]) + length + data)


@pytest.mark.parametrize("engine", ENGINES.own)
@pytest.mark.parametrize("place", ["beside", "elsewhere"])
def test_no_engine_reads_another_file(
    engine: Any, place: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are there, and OpenVINO, for one, would read them."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    (canonical,) = tiny("ort-fp32").files.values()
    location = {"beside": "weights.bin", "elsewhere": "../weights.bin"}[place]
    model = onnx.load_model_from_string(canonical)
    kept, position = (home / location), 0
    with kept.open("wb") as stream:
        for tensor in model.graph.initializer:
            raw = bytes(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", position), ("length", len(raw))):
                tensor.external_data.add(key=key, value=str(value))
            position += stream.write(raw)
    options = Options(precision="fp16" if engine == "tensorrt" else "fp32", session=OPTIONS[engine])
    with pytest.raises(EngineError, match=OUTSIDE):
        find_engine(engine).open((model.SerializeToString(),), options)
    weights = kept.read_bytes()  # a second file does not make it an IR
    if engine == "openvino":
        with pytest.raises(EngineError, match=OUTSIDE):
            find_engine(engine).open((model.SerializeToString(), weights), options)
