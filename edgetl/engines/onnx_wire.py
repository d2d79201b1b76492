"""What lies in an ONNX file and what outside of it, from its bytes alone.

An ONNX tensor can name a file that holds its data, by any path: engines would read it relative to
the working folder. Devices do not have the `onnx` package, so the few fields that matter are found
by walking the protobuf encoding. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from edgetl.errors import EngineError

MOST_FIELDS = 2_000_000  # a network of 10,000 nodes has about 500,000
# Fields of onnx.proto whose messages can hold a tensor at any depth: number → message.
HOLDERS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # fields of TensorProto
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # ways to encode a field


def check_sealed(model: bytes) -> None:
    """EngineError unless the bytes are an ONNX file that holds all of its tensors itself."""
    try:
        outside = _refers_outside(model)
    except (ValueError, IndexError) as error:
        raise EngineError(
            f"edgetl cannot read the model: it is no ONNX file that edgetl wrote ({error}).",
            fix="export the bundle again.",
        ) from error
    if outside:
        raise EngineError(
            "The model names another file for some of its weights, which a bundle may not do.",
            fix="export the bundle again; one that edgetl wrote holds all of its weights.",
        )


def _refers_outside(model: bytes) -> bool:
    """Whether any tensor has a data location or external data; ValueError for other bytes."""
    waiting, fields = [("ModelProto", 0, len(model))], 0
    while waiting:
        message, at, end = waiting.pop()
        holders = HOLDERS[message]
        while at < end:
            fields += 1
            if fields > MOST_FIELDS:
                raise ValueError(f"more than {MOST_FIELDS} fields")
            number, value, start, at = _field(model, at)
            if not number or at > end:
                raise ValueError(f"damaged at byte {start}")
            if message == "TensorProto":
                if number == EXTERNAL_DATA or (number == DATA_LOCATION and value):
                    return True
            elif number in holders and value < 0:
                waiting.append((holders[number], start, at))
    return False


def _field(data: bytes, at: int) -> tuple[int, int, int, int]:
    """Number, value, and where the content begins and ends; the value is -1 for BYTES."""
    tag, at = _varint(data, at, 5)
    number, kind = tag >> 3, tag & 7
    if kind == BYTES:
        size, start = _varint(data, at, 5)
        return number, -1, start, start + size
    if kind == VARINT:
        value, end = _varint(data, at, 10)
        return number, value, at, end
    if kind in (FIXED64, FIXED32):
        return number, 1, at, at + (8 if kind == FIXED64 else 4)
    raise ValueError(f"damaged at byte {at}")


def _varint(data: bytes, at: int, most: int) -> tuple[int, int]:
    """A whole number of up to `most` bytes, and where it ends.

    Numbers of up to 5 bytes keep to 32 bits, as readers cut off what is above.
    """
    value = shift = 0
    for place in range(at, at + most):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if most == 5 and value >> 32:
                break
            return value, place + 1
        shift += 7
    raise ValueError(f"damaged at byte {at}")
