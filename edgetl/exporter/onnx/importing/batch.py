"""A given graph made to work for any number of images at once.

Shapes that are computed, or stated with the number of images in them, are written anew. Nothing is
proved here: `import_onnx` compares what comes out with the given file, on one image and on several.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgetl.exporter.onnx.checks import FLOAT, host_runtime
from edgetl.exporter.onnx.importing.passes import fold_constants
from edgetl.exporter.onnx.passes import Array, attribute, refill


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
    if batch:
        fold_constants(model)
        Fixed(model, [batch, *shape]).free()
    else:
        _free_reshapes(model, seen)


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


# --- for a fixed number ------------------------------------------------------------------------


class Fixed:
    """One pass over a graph whose shapes are all constant, from the input to the output.

    For every tensor, its shape is inferred for `batch` images and for twice as many of the graph
    as rewritten so far: the axis that doubled holds their number.
    """

    def __init__(self, model: onnx.ModelProto, shape: list[int]) -> None:
        self.model, self.batch = model, shape[0]
        name = model.graph.input[0].name
        self.stored: dict[str, onnx.TensorProto] = {}
        self.once = {name: _type(FLOAT, shape)}
        self.twice = {name: _type(FLOAT, [2 * self.batch, *shape[1:]])}
        self._know(model.graph.initializer)
        self.inner: set[str] = set()  # tensors with images as the inner part of an axis: tokens

    def free(self) -> None:
        """Leave the number of images open in every Reshape, and repeat constants for each image."""
        graph, nodes = self.model.graph, list[onnx.NodeProto]()
        for given in graph.node:
            before = len(graph.initializer)
            node = self._plain(given)
            self._know(graph.initializer[before:])
            if node.op_type == "Reshape":
                fresh = [self._reshaped(node)]
            else:
                fresh = self._repeated(node) if node.op_type == "Concat" else [node]
                if self.inner & set(node.input):
                    self.inner |= set(node.output)
            self._know(graph.initializer[before:])
            self.once |= self._inferred(node, self.once)
            for item in fresh:
                self.twice = self._inferred(item, self.twice) | self.twice
            nodes += fresh
        refill(graph.node, nodes)

    def _reshaped(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """The Reshape for any number of images, or as it is where that is not known.

        It keeps the values' order, so images are as far apart in its result as in what it reads.
        """
        self.once |= self._inferred(node, self.once)
        source, result = node.input[0], node.output[0]
        axis, before, after = self._axis(source), self._dims(source), self._dims(result)
        if axis is None or not after:
            return node
        distance = math.prod(before[axis + 1 :])
        if source not in self.inner:
            distance *= before[axis] // self.batch
        place, inside = self._place(after, distance)
        if place is None:
            return node
        if inside:
            self.inner.add(result)
        kept = place == axis and before[axis] == after[axis]
        return reshape(self.model, node, [*after[:place], 0 if kept else -1, *after[place + 1 :]])

    def _plain(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """The same node with less in its constants that holds for this number of images alone."""
        dims = [self._dims(name) for name in node.input]
        if not dims or not dims[0]:
            return node
        if node.op_type == "Expand" and node.input[1] in self.stored:
            wanted = numpy_helper.to_array(self.stored[node.input[1]]).tolist()
            own = [1] * (len(wanted) - len(dims[0])) + dims[0]
            kept = [1 if o == w else w for o, w in zip(own, wanted, strict=False)]
            return self._with(node, 1, np.array(kept, np.int64)) if kept != wanted else node
        if node.op_type == "Resize" and len(node.input) > 3 and node.input[3] in self.stored:
            sizes = numpy_helper.to_array(self.stored[node.input[3]]).astype(np.float64)
            scales = (sizes / dims[0]).astype(np.float32)
            short = np.floor(scales * np.array(dims[0], np.float32)) < sizes
            scales = np.where(short, np.nextafter(scales, np.float32(np.inf)), scales)
            scaled = self._with(node, 2, scales)
            del scaled.input[3:]
            return scaled
        if node.op_type == "Gather" and len(dims[0]) == 1 and node.input[1] in self.stored:
            order = numpy_helper.to_array(
                self.stored[node.input[1]]
            )  # torch writes some changes of shape so
            if np.array_equal(order.ravel(), np.arange(dims[0][0])):
                turned = helper.make_node("Reshape", [node.input[0], ""], list(node.output))
                return self._with(turned, 1, np.array(order.shape, np.int64))
        return node

    def _with(self, node: onnx.NodeProto, place: int, values: Array) -> onnx.NodeProto:
        """The node with another constant as one of its inputs."""
        fresh = copy.deepcopy(node)
        fresh.input[place] = f"{node.output[0]}.input_{place}"
        self.model.graph.initializer.append(numpy_helper.from_array(values, fresh.input[place]))
        return fresh

    def _place(self, shape: list[int], distance: int) -> tuple[int | None, bool]:
        """The axis to hold images that lie `distance` values apart; whether as its inner part.

        An axis of their own goes first. Else rows of a matrix are tokens of all images, and in
        larger shapes images come before what shares their axis, as heads of attention or windows.
        """
        own, outer, inside = list[int](), list[int](), list[int]()
        for axis, length in enumerate(shape):
            behind = math.prod(shape[axis + 1 :])
            if length % self.batch:
                continue
            if behind == distance:
                (own if length == self.batch else inside).append(axis)
            elif behind * (length // self.batch) == distance:
                outer.append(axis)
        if own or (outer and (len(shape) != 2 or not inside)):
            return (own or outer)[0], False
        return (inside[0], True) if inside else (None, False)

    def _repeated(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The Concat, and before it what repeats constants of one image, such as a class token."""
        moving = [(name, self._axis(name)) for name in node.input]
        model, axis = next(((n, a) for n, a in moving if a is not None), ("", None))
        along = int(attribute(node, "axis", 0))
        if axis is None or self.batch != 1 or along % len(self._dims(model)) == axis:
            return [node]
        nodes, inputs = list[onnx.NodeProto](), list(node.input)
        for number, (name, found) in enumerate(moving):
            if found is None and self._dims(name)[axis : axis + 1] == [1]:
                inputs[number] = f"{node.output[0]}.repeated_{number}"
                nodes += self._repeat(name, inputs[number], model, axis)
        return [
            *nodes,
            helper.make_node("Concat", inputs, list(node.output), node.name, axis=along),
        ]

    def _repeat(self, name: str, result: str, model: str, axis: int) -> list[onnx.NodeProto]:
        """`result` is `name` for as many images as `model` holds."""
        shape = self._dims(name)
        parts = {
            f"{result}.axis": [axis],
            f"{result}.before": shape[:axis],
            f"{result}.after": shape[axis + 1 :],
        }
        for title, values in parts.items():
            self.model.graph.initializer.append(
                numpy_helper.from_array(np.array(values, np.int64), title)
            )
        kind = self.twice[name].tensor_type.elem_type
        self.twice[result] = _type(kind, [*shape[:axis], 2, *shape[axis + 1 :]])
        place, *rest = parts
        every, count, to = (f"{result}.{end}" for end in ("shape", "count", "to"))
        return [
            helper.make_node("Shape", [model], [every]),
            helper.make_node("Gather", [every, place], [count], axis=0),
            helper.make_node("Concat", [rest[0], count, rest[1]], [to], axis=0),
            helper.make_node("Expand", [name, to], [result]),
        ]

    # --- what is known ------------------------------------------------------------------------

    def _know(self, tensors: Iterable[onnx.TensorProto]) -> None:
        for tensor in tensors:
            self.stored[tensor.name] = tensor
            self.once[tensor.name] = self.twice[tensor.name] = _type(tensor.data_type, tensor.dims)

    def _axis(self, name: str) -> int | None:
        """The axis of the images; None for what does not depend on their number, or is unknown."""
        pairs = list(zip(self._dims(name), _lengths(self.twice.get(name)), strict=False))
        found = [axis for axis, (once, twice) in enumerate(pairs) if once and twice == 2 * once]
        return found[0] if found else None

    def _dims(self, name: str) -> list[int]:
        return _lengths(self.once.get(name))

    def _inferred(
        self, node: onnx.NodeProto, known: dict[str, onnx.TypeProto]
    ) -> dict[str, onnx.TypeProto]:
        """Types of what a node makes, as far as they can be inferred."""
        opset = next(e.version for e in self.model.opset_import if not e.domain)
        types = {name: known[name] for name in node.input if name in known}
        data = {name: self.stored[name] for name in node.input if name in self.stored}
        try:
            schema = onnx.defs.get_schema(node.op_type, opset)
            return dict(
                onnx.shape_inference.infer_node_outputs(
                    schema, node, types, data, opset_imports=list(self.model.opset_import)
                )
            )
        except Exception:  # of many types; the tensor is then not known, and left as it is
            return {}


def _type(kind: int, shape: Iterable[int]) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(kind, list(shape))


def _lengths(known: onnx.TypeProto | None) -> list[int]:
    return [] if known is None else [d.dim_value for d in known.tensor_type.shape.dim]


def reshape(model: onnx.ModelProto, node: onnx.NodeProto, target: list[int]) -> onnx.NodeProto:
    """The Reshape with another target, or the Flatten that is the same."""
    if target[0] == 0 and len(target) == 2:
        return helper.make_node("Flatten", [node.input[0]], list(node.output), axis=1)
    name = f"{node.output[0]}.shape"
    model.graph.initializer.append(numpy_helper.from_array(np.array(target), name))
    return helper.make_node("Reshape", [node.input[0], name], list(node.output))
