"""A given graph made to work for any number of images at once.

Shapes that are computed, or stated with the number of images in them, are written anew. Nothing is
proved here: `import_onnx` compares what comes out with the given file, on one image and on several.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgetl.exporter.onnx.checks import host_runtime
from edgetl.exporter.onnx.importing.fixed import Fixed, reshape
from edgetl.exporter.onnx.importing.passes import fold_constants
from edgetl.exporter.onnx.passes import Array, refill


def free_batch(model: onnx.ModelProto, shape: list[int], batch: int) -> None:
    """Free the graph of shapes that are computed, and of those that hold the number of images.

    `shape` is the input's without its first axis, `batch` the only number of images that the file
    takes, or 0. Runs the model: at `batch`, or at 2 and at 3 to see which computed shapes do not
    depend on their number.
    """
    try:
        seen = [_probe(model, [count, *shape]) for count in ([batch] if batch else [2, 3])]
    except Exception:  # ONNX Runtime's; the comparison with the given file will say what is wrong
        return
    _keep_shapes(model, seen)
    if not batch:
        _free_reshapes(model, seen)
        return
    fold_constants(model)
    Fixed(model, [batch, *shape]).free()


def _probe(model: onnx.ModelProto, shape: list[int]) -> dict[str, Array]:
    """Values of computed shapes and of what Reshapes read and write, for one input of noise."""
    wanted = dict.fromkeys(_computed(model.graph))
    for node in model.graph.node:
        if node.op_type == "Reshape":
            wanted |= {node.input[0]: None, node.output[0]: None}
    name = model.graph.input[0].name
    wanted = {key: None for key in wanted if key not in ("", name)}
    if not wanted:
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    refill(watched.graph.output, [onnx.ValueInfoProto(name=key) for key in wanted])
    session = host_runtime("A given ONNX model")(watched.SerializeToString())
    noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return {name: noise} | dict(zip(wanted, session.run(None, {name: noise}), strict=True))


def _computed(graph: onnx.GraphProto) -> list[str]:
    """Tensors that shapes and constants alone decide."""
    known, found = {"", *(i.name for i in graph.initializer)}, list[str]()
    for node in graph.node:
        if node.op_type == "Shape" or known.issuperset(node.input):
            known |= set(node.output)
            found += [name for name in node.output if name]
    return found


def _keep_shapes(model: onnx.ModelProto, seen: list[dict[str, Array]]) -> None:
    """Store the computed shapes that were the same every time."""
    computed, nodes = set(_computed(model.graph)), []
    for node in model.graph.node:
        values = [[s.get(name) for s in seen] for name in node.output]
        if not computed.issuperset(node.output) or not all(_same(v) for v in values):
            nodes.append(node)
            continue
        for name, (value, *_) in zip(node.output, values, strict=True):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    refill(model.graph.node, nodes)


def _same(values: list[Array | None]) -> bool:
    first = values[0]
    return first is not None and all(v is not None and np.array_equal(first, v) for v in values)


def _free_reshapes(model: onnx.ModelProto, seen: list[dict[str, Array]]) -> None:
    """Let every Reshape work for any number of images, as far as that number is its first axis."""
    nodes = []
    for node in model.graph.node:
        target = _target(node, seen) if node.op_type == "Reshape" else None
        nodes.append(node if target is None else reshape(model, node, target))
    refill(model.graph.node, nodes)


def _target(node: onnx.NodeProto, seen: list[dict[str, Array]]) -> list[int] | None:
    """What a Reshape makes, its first axis kept (0) or computed (-1); None where others vary."""
    source, result = node.input[0], node.output[0]
    pairs = [(s[source].shape, s[result].shape) for s in seen if source in s and result in s]
    inner = {after[1:] for _, after in pairs if after}
    if len(inner) != 1 or not all(before and after for before, after in pairs):
        return None
    kept = all(before[0] == after[0] for before, after in pairs)
    return [0 if kept else -1, *inner.pop()]
