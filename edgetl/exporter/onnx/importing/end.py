"""What a given classifier ends in: its logits are found, a Softmax is cut off, the rest refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
from onnx import helper

from edgetl.errors import TraceError
from edgetl.exporter.onnx.checks import FLOAT
from edgetl.exporter.onnx.importing.file import called
from edgetl.exporter.onnx.importing.passes import tensor_types
from edgetl.exporter.onnx.importing.run import Given, GivenNetwork
from edgetl.exporter.onnx.passes import refill
from edgetl.inputs.base import Pixels
from edgetl.spec import Normalize

_SAME = ("Identity", "Cast", "Dropout", "Flatten", "Squeeze", "Unsqueeze", "Reshape", "Transpose")
_SCALING = ("Mul", "Div", "Add", "Sub", "Neg", "Clip", "Min", "Max", "Log", "Exp", "Pow", "Round")
_SUMS = (1.0, 100.0)  # of probabilities


def find_logits(given: Given) -> Given:
    """The file with logits `(N, classes)` as its output, and their number.

    A Softmax over the classes at the end is left out, axes of 1 behind or before the classes go.
    Raises TraceError for outputs that are no logits.
    """
    answer = _answer(given)
    _check_type(given, answer)
    _classes_axis(given, answer.shape, given.output)
    given = _cut(given)
    shape = _answer(given).shape
    _classes_axis(given, shape, given.model.graph.output[0].name)
    if len(shape) > 2:  # axes of 1 are left out
        graph = given.model.graph
        old = graph.output[0]
        flat = f"{old.name}/flat"
        kind = old.type.tensor_type.elem_type
        graph.node.append(helper.make_node("Flatten", [old.name], [flat], axis=1))
        refill(graph.output, [helper.make_tensor_value_info(flat, kind, None)])
    return given._replace(classes=_trial(given))


def _noise(given: Given) -> Pixels:
    shape = (given.batch or 2, given.height, given.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _answer(given: Given) -> Any:
    return GivenNetwork(given).answer(_noise(given), Normalize())


# --- what is refused --------------------------------------------------------------------------


def _check_type(given: Given, answer: Any) -> None:
    """TraceError unless the output is an array of float32 or float16."""
    kind = str(answer.dtype) if isinstance(answer, np.ndarray) else "a sequence or map"
    if kind in ("float32", "float16"):
        return
    what = f"{given.name} returns '{given.output}' as {kind}"
    last, _ = _behind(given.model.graph)
    if last is not None and last.op_type in ("ArgMax", "TopK"):
        raise TraceError(
            f"{what}: {called(last)} picks classes, and their logits are lost.",
            fix=_extract(given, last.input[0]),
        )
    if kind == "float64":
        raise TraceError(
            f"{what} (double), not as float32.",
            fix="export the model in float32: model.float() before the export.",
        )
    raise TraceError(
        f"{what}, not as float32 logits.", fix="end the model with one float logit a class."
    )


def _classes_axis(given: Given, shape: tuple[int, ...], tensor: str) -> int:
    """The axis of the classes: the only one behind the first that is longer than 1."""
    long = [axis for axis, length in enumerate(shape) if axis and length > 1]
    count = given.batch or 2
    if len(shape) > 1 and shape[0] == count and not long:
        raise TraceError(
            f"{given.name} returns '{tensor}' with 1 column.",
            fix="end the model with one logit a class, two at least.",
        )
    if len(shape) < 2 or shape[0] != count or len(long) != 1:
        raise TraceError(
            f"{given.name} returns '{tensor}' of shape {list(shape)} for {count} images, not "
            "(N, classes).",
            fix="end the model with one row of logits an image.",
        )
    return long[0]


def _trial(given: Given) -> int:
    """The number of classes; TraceError where the file returns probabilities after all."""
    rows = GivenNetwork(given).logits(_noise(given), Normalize())
    sums = rows.sum(axis=1)
    for total in _SUMS:
        if (rows >= 0).all() and np.allclose(sums, total, rtol=1e-3):
            raise TraceError(
                f"{given.name} returns probabilities (a row of '{given.output}' adds up to "
                f"{total:g}), but does not end in Softmax.",
                fix="cut the file to its logits with onnx.utils.extract_model.",
            )
    return int(rows.shape[1])


# --- the end of the graph ---------------------------------------------------------------------


def _cut(given: Given) -> Given:
    """Make the input of a Softmax over the classes at the end the output; say so."""
    node, scaled = _behind(given.model.graph)
    if node is not None and node.op_type == "Sigmoid":
        raise TraceError(
            f"{given.name} ends in {called(node)}: several classes may be true at once.",
            fix="give a model that picks one class, or one without the Sigmoid.",
        )
    if node is None or node.op_type not in ("Softmax", "LogSoftmax"):
        return given
    if [n.op_type for n in scaled] not in ([], ["Log"]):
        raise TraceError(
            f"{given.name} ends in {called(node)} and then {called(scaled[-1])}: changed "
            "probabilities, no logits.",
            fix=_extract(given, node.input[0]),
        )
    kind = tensor_types(given.model).get(node.input[0], FLOAT)
    model = copy.deepcopy(given.model)
    refill(model.graph.output, [helper.make_tensor_value_info(node.input[0], kind, None)])
    cut = given._replace(model=model)
    shape = _answer(cut).shape
    found = _classes_axis(cut, shape, node.input[0])
    old = given.opset < 13  # then Softmax is over all axes from the stated one on
    stated = next((a.i for a in node.attribute if a.name == "axis"), 1 if old else -1)
    first = stated % len(shape)
    if not (1 <= first <= found if old else first == found):
        raise TraceError(
            f"{given.name} ends in {called(node)} over axis {stated} of {list(shape)}, and the "
            f"classes are axis {found}.",
            fix=_extract(given, node.input[0]),
        )
    before, _ = _behind(model.graph)
    if before is not None and before.op_type in ("Softmax", "LogSoftmax"):
        raise TraceError(
            f"{given.name} holds two Softmax in a row: {called(before)} and {called(node)}.",
            fix=_extract(given, before.input[0]),
        )
    note = f"the {node.op_type} at the end is left out: edgetl's models return logits"
    return cut._replace(notes=(*given.notes, note))


def _behind(graph: onnx.GraphProto) -> tuple[onnx.NodeProto | None, list[onnx.NodeProto]]:
    """The last node that does more than reshape or scale, and the scaling nodes behind it."""
    makers = {output: node for node in graph.node for output in node.output}
    constant = {i.name for i in graph.initializer} | {""}
    for node in graph.node:
        if constant.issuperset(node.input):
            constant |= set(node.output)
    scaled: list[onnx.NodeProto] = []
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in (*_SAME, *_SCALING):
        computed = [name for name in node.input if name not in constant]
        if node.op_type in _SAME:
            computed = computed[:1]  # a Reshape may compute its shape
        if len(computed) != 1:
            break
        if node.op_type in _SCALING:
            scaled.append(node)
        node = makers.get(computed[0])
    return node, scaled


def _extract(given: Given, tensor: str) -> str:
    file = given.name if given.name.endswith(".onnx") else "model.onnx"
    return (
        f"cut the file at its logits: onnx.utils.extract_model('{file}', 'logits.onnx', "
        f"['{given.input}'], ['{tensor}'])."
    )
