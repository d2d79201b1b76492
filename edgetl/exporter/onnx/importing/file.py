"""Somebody else's ONNX file as one self-contained, sorted graph of plain tensors."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import external_data_helper, inliner, numpy_helper

from edgetl.engines.base import first_line
from edgetl.errors import TraceError, UsageError
from edgetl.exporter.onnx.passes import reads, refill
from edgetl.files import sha256_bytes

OLDEST_OPSET = 7
_NOT_ONNX = "give a whole file that an exporter to ONNX wrote."
_AGAIN = "export the model again; the file breaks ONNX's own rules."


class GivenFile(NamedTuple):
    """What a file holds."""

    model: onnx.ModelProto  # self-contained, sorted, without local functions or sparse tensors
    name: str  # for messages
    sha256: str  # of the file, and of its external data after it
    opset: int


def read_file(source: bytes | Path) -> GivenFile:
    """Read an ONNX file, and what it keeps in files beside it.

    Raises UsageError for a file that cannot be read, TraceError for what is no valid ONNX.
    """
    if isinstance(source, bytes):
        name, home, data = "the ONNX model", None, source
    else:
        name, home, data = source.name, source.parent, _bytes(source)
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise TraceError(f"{name} is not an ONNX file.", fix=_NOT_ONNX) from error
    if not model.graph.node or not model.ir_version:
        raise TraceError(f"{name} is not an ONNX file.", fix=_NOT_ONNX)
    sha256 = sha256_bytes(data + _load_outside(model, name, home))
    opset = _opset(model, name)
    if model.functions:
        model = inliner.inline_local_functions(model)
    _densify(model.graph, name)
    _sort(model.graph, name)
    return GivenFile(model=model, name=name, sha256=sha256, opset=opset)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, inner graphs after the node that holds them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from all_nodes(inner)


def called(node: onnx.NodeProto) -> str:
    """A node in messages: its operator and its name, or what it makes where it has none."""
    return f"{node.op_type} '{node.name or next((o for o in node.output if o), '')}'"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"Cannot read {path}: {error.strerror}.", fix="give the path of an ONNX file."
        ) from error


def _load_outside(model: onnx.ModelProto, name: str, home: Path | None) -> bytes:
    """Take the tensors that lie in other files into the model; return the files' bytes."""
    places: dict[str, None] = {}  # in order of first use
    for tensor in _tensors(model.graph):
        if external_data_helper.uses_external_data(tensor):
            places |= {e.value: None for e in tensor.external_data if e.key == "location"}
    held = b""
    for place in places:
        inside = not Path(place).is_absolute() and ".." not in Path(place).parts
        path = home / place if home is not None and inside else None
        if path is None or not path.is_file():
            raise TraceError(
                f"{name} keeps weights in the file '{place}', which is not beside it.",
                fix=f"put '{Path(place).name}' into the folder of the ONNX file, or export it "
                "with external_data=False.",
            )
        held += _bytes(path)
    if places:
        try:
            external_data_helper.load_external_data_for_model(model, str(home))
        except Exception as error:  # OSError, ValueError or the checker's own
            raise TraceError(
                f"{name} cannot read its external data: {first_line(error)}",
                fix="copy the ONNX file and its data again, or export with external_data=False.",
            ) from error
    return held


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in all_nodes(graph):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t


def _opset(model: onnx.ModelProto, name: str) -> int:
    versions = {e.version for e in model.opset_import if e.domain in ("", "ai.onnx")}
    newest = onnx.defs.onnx_opset_version()
    if len(versions) > 1:
        both = " and ".join(str(version) for version in sorted(versions))
        raise TraceError(f"{name} imports opsets {both} at once.", fix=_AGAIN)
    opset = int(next(iter(versions), 0))
    if not OLDEST_OPSET <= opset <= newest:
        found = f"opset {opset}" if versions else "no standard opset"
        raise TraceError(
            f"{name} has {found}; read are opsets {OLDEST_OPSET} to {newest}.",
            fix="export the model again at opset 17.",
        )
    others = [e for e in model.opset_import if e.domain not in ("", "ai.onnx")]
    stated = onnx.OperatorSetIdProto(domain="", version=opset)  # once, and under one name
    refill(model.opset_import, [*others, stated])
    return opset


def _densify(graph: onnx.GraphProto, name: str) -> None:
    """Write sparse initializers out: no target reads them."""
    for sparse in graph.sparse_initializer:
        title = sparse.values.name
        values, indices = (numpy_helper.to_array(t) for t in (sparse.values, sparse.indices))
        dense = np.zeros(list(sparse.dims), values.dtype)
        try:
            if indices.ndim == 2:
                dense[tuple(indices.T)] = values
            else:
                dense.reshape(-1)[indices] = values
        except (IndexError, ValueError) as error:
            raise TraceError(
                f"{name}: the sparse weight '{title}' does not fit its shape {list(sparse.dims)}: "
                f"{first_line(error)}",
                fix=_AGAIN,
            ) from error
        graph.initializer.append(numpy_helper.from_array(dense, title))
    del graph.sparse_initializer[:]


def _sort(graph: onnx.GraphProto, name: str) -> None:
    """Put every node behind those whose results it reads; TraceError where that cannot be."""
    _check_names(graph, name)
    nodes = list(graph.node)
    maker = {output: i for i, n in enumerate(nodes) for output in n.output if output}
    before = [{maker[read] for read in reads(n) if read in maker} for n in nodes]
    behind: dict[int, list[int]] = {}
    for i, makers in enumerate(before):
        for made in makers:
            behind.setdefault(made, []).append(i)
    ready = [i for i, makers in enumerate(before) if not makers]  # a heap: the first goes first
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for i in behind.get(order[-1], []):
            before[i].discard(order[-1])
            if not before[i]:
                heapq.heappush(ready, i)
    if len(order) < len(nodes):
        stuck = next(n for n, makers in zip(nodes, before, strict=True) if makers)
        raise TraceError(f"{name}: {called(stuck)} needs its own result, in a circle.", fix=_AGAIN)
    if order != sorted(order):
        refill(graph.node, [nodes[i] for i in order])


def _check_names(graph: onnx.GraphProto, name: str) -> None:
    """TraceError for what ONNX Runtime refuses a whole file for: things of the same name."""
    made = Counter(output for n in graph.node for output in n.output if output)
    for tensor, count in made.items():
        if count > 1:
            raise TraceError(f"{name} makes the tensor '{tensor}' {count} times.", fix=_AGAIN)
    for title, count in Counter(n.name for n in graph.node if n.name).items():
        if count > 1:
            raise TraceError(
                f"{name} has {count} nodes with the name '{title}'.",
                fix="give every node a name of its own, or none.",
            )
