"""Make the canonical ONNX of somebody else's classifier, and prove that it computes the same."""

from __future__ import annotations

import contextlib
import copy
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, inliner, version_converter

from edgetl.engines.base import first_line
from edgetl.errors import TraceError, UsageError
from edgetl.exporter.golden import drawing
from edgetl.exporter.onnx.checks import FLOAT, FLOAT16, INPUT, NORMALIZED, UINT8, host_runtime
from edgetl.exporter.onnx.importing.batch import free_batch
from edgetl.exporter.onnx.importing.passes import (
    drop_idle,
    drop_transposes,
    fold_batch_norm,
    fold_constants,
    renumber,
    simplify,
    widen,
)
from edgetl.exporter.onnx.importing.run import Given, GivenNetwork, first_not_finite
from edgetl.exporter.onnx.passes import (
    OPSET,
    drop_unused,
    finish,
    lower,
    prepend,
    refill,
    rename,
)
from edgetl.inputs.base import Pixels
from edgetl.metrics import Logits
from edgetl.spec import Normalize

AS_IT_IS = Normalize(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))  # pixels 0…255

OUTPUT = "logits"  # as a classifier's output is called from here on
_SEED, _DRAWINGS = 1, 4
_TOLERANCE = {FLOAT: 5e-4, UINT8: 5e-4, FLOAT16: 3e-2}  # of the logits' range
# Attributes that came after opset 17, by the values that mean what 17 does.
_HARMLESS = {
    "antialias": (0,),
    "ceil_mode": (0,),
    "keep_aspect_ratio_policy": (b"stretch",),
    "noop_with_empty_axes": (0,),
    "saturate": (1,),
    "stash_type": (1,),
}
_FIX = "replace this layer in the network, or export at opset 17 or below."


class Imported(NamedTuple):
    """A given classifier in edgetl's form."""

    canonical: bytes  # as `check_onnx` accepts it
    classes: int
    single: bool  # takes one image a run, as its graph holds that number
    input_name: str  # as the given file calls it
    output_name: str
    largest_difference: float  # of any logit from the given file's
    notes: tuple[str, ...]


def import_onnx(given: Given, *, normalize: Normalize, images: Pixels | None = None) -> Imported:
    """Rewrite a given classifier as the canonical ONNX.

    `normalize` is what the given file wants in front of it; for a file that reads uint8, AS_IT_IS.
    A file for one image a run is freed to take any number, or stays for one where its graph does
    not allow that. The result is compared with the given file on noise and on `images` uint8
    `(N, H, W, 3)`. Raises UsageError for an impossible `normalize`, TraceError naming the
    operator that targets cannot read, or when the result differs.
    """
    _check_normalize(given, normalize)
    if given.batch != 1:
        return _rewritten(given, normalize, images)
    with contextlib.suppress(TraceError):
        return _rewritten(given, normalize, images)
    return _rewritten(given, normalize, images, single=True)


def _rewritten(
    given: Given, normalize: Normalize, images: Pixels | None, *, single: bool = False
) -> Imported:
    model = copy.deepcopy(given.model)
    notes = list(given.notes)
    _fix_interface(model, given, 1 if single else "N")
    if widen(model.graph):
        notes.append("float16 becomes float32; recipes narrow it again where a target gains")
    simplify(model)
    drop_unused(model.graph)
    drop_idle(model)
    model = _at_opset(model, given)
    fold_constants(model)
    drop_idle(model)
    if single:
        notes.append("takes one image a run, as its graph holds that number")
    else:
        free_batch(model, _sides(given), given.batch)
    lower(model, _accept)
    drop_unused(model.graph)
    if folded := fold_batch_norm(model.graph):
        notes.append(f"batch normalisations folded into their convolutions: {folded}")
    _join(model.graph, given, normalize)
    canonical = finish(
        model.graph,
        (given.height, given.width, 3),
        {OUTPUT: (given.classes,)},
        single=single,
    )
    return Imported(
        canonical=canonical,
        classes=given.classes,
        single=single,
        input_name=given.input,
        output_name=given.output,
        largest_difference=_compare(canonical, given, normalize, images, single=single),
        notes=tuple(notes),
    )


def _check_normalize(given: Given, normalize: Normalize) -> None:
    values = np.array([*normalize.mean, *normalize.std])
    if not np.isfinite(values).all() or min(normalize.std) <= 0:
        raise UsageError(
            f"Mean {normalize.mean} and deviation {normalize.std} cannot normalise images.",
            fix="give finite numbers, and deviations above 0.",
        )
    if given.dtype == UINT8 and normalize != AS_IT_IS:
        raise UsageError(
            f"{given.name} reads uint8, so pixels as they are; --mean and --std contradict that.",
            fix="leave --mean and --std away.",
        )


def _fix_interface(model: onnx.ModelProto, given: Given, count: int | str) -> None:
    """State one float input of known shape, and leave all inferred shapes to be inferred again."""
    kind = FLOAT16 if given.dtype == FLOAT16 else FLOAT
    images = helper.make_tensor_value_info(given.input, kind, [count, *_sides(given)])
    refill(model.graph.input, [images])
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.ir_version = max(model.ir_version, 4)  # before 4, initializers had to be inputs


def _sides(given: Given) -> list[int]:
    sides = [given.height, given.width]
    return [3, *sides] if given.layout == "nchw" else [*sides, 3]


# --- opsets -----------------------------------------------------------------------------------


def _at_opset(model: onnx.ModelProto, given: Given) -> onnx.ModelProto:
    """The model in operators of opset 17, but for what `lower` rewrites and `_accept` judges."""
    if given.opset > OPSET:
        return _expand(model, given.opset)
    if given.opset == OPSET:
        return model
    try:
        converted = version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises many unrelated types
        raise TraceError(
            f"{given.name} cannot be converted from opset {given.opset} to {OPSET}: "
            f"{first_line(error)}",
            fix="export the model again at opset 17.",
        ) from error
    del converted.graph.value_info[:]
    return converted


def _expand(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Write operators that came after opset 17 in simpler ones, where they are defined so."""
    newer = set()
    for node in model.graph.node:
        schema = onnx.defs.get_schema(node.op_type, opset)
        defined = schema.has_function or schema.has_context_dependent_function
        if defined and not onnx.defs.has(node.op_type, OPSET):
            newer.add(("", node.op_type))
    if not newer:
        return model
    return inliner.inline_selected_functions(model, sorted(newer), inline_schema_functions=True)


def _accept(node: onnx.NodeProto) -> None:
    """Bring a node of a newer opset to 17; TraceError where that would change its meaning.

    Most operators changed in the types that they take only; `_compare` proves the rest.
    """
    name = f"{node.op_type} '{node.name or node.output[0]}'"
    if not onnx.defs.has(node.op_type, OPSET):
        raise TraceError(f"{name} does not exist at opset {OPSET}, which targets read.", fix=_FIX)
    ours = onnx.defs.get_schema(node.op_type, OPSET)
    for item in [item for item in node.attribute if item.name not in ours.attributes]:
        value = helper.get_attribute_value(item)
        plain = item.name == "dilations" and set(value) == {1}
        if not plain and value not in _HARMLESS.get(item.name, ()):
            raise TraceError(
                f"{name} has the attribute {item.name}, which came after opset {OPSET}.", fix=_FIX
            )
        node.attribute.remove(item)
    if len(node.input) > ours.max_input:
        raise TraceError(
            f"{name} has {len(node.input)} inputs; at opset {OPSET} it has {ours.max_input}.",
            fix=_FIX,
        )


# --- joining and proving ----------------------------------------------------------------------


def _join(graph: onnx.GraphProto, given: Given, normalize: Normalize) -> None:
    """Put edgetl's preprocessing in front, and name everything as the canonical ONNX does."""
    renumber(graph, {given.input: "given", graph.output[0].name: OUTPUT})
    if given.layout == "nhwc":
        back = helper.make_node("Transpose", [NORMALIZED], ["given"], perm=[0, 2, 3, 1])
        refill(graph.node, [back, *graph.node])
        drop_transposes(graph)
        drop_unused(graph)
    else:
        for node in graph.node:
            node.input[:] = [NORMALIZED if name == "given" else name for name in node.input]
    rename(graph)
    prepend(graph, normalize)


def _compare(
    canonical: bytes, given: Given, normalize: Normalize, images: Pixels | None, *, single: bool
) -> float:
    """The largest difference of a logit; TraceError when it is more than rounding.

    Noise looks all alike to a network, so that mixed-up images would not show; drawings do not.
    """
    height, width = given.height, given.width
    noise = np.random.default_rng(_SEED).integers(0, 256, (1, height, width, 3), np.uint8)
    drawn = [drawing(seed, (width, height)) for seed in range(_DRAWINGS)]
    more = [] if images is None else [images]
    tried = np.concatenate([noise, drawn, *more])
    wanted = GivenNetwork(given).logits(tried, normalize)
    if not np.isfinite(wanted).all():
        bad = int((~np.isfinite(wanted)).any(axis=1).argmax())
        where = first_not_finite(given, tried[bad : bad + 1], normalize)
        raise TraceError(
            f"{given.name} returns NaN or infinity on {height}x{width} pixels; {where} makes the "
            "first.",
            fix="give the --mean, --std and --range that the model was trained with.",
        )
    made = _logits(canonical, tried, given.name, single=single)
    largest = float(np.abs(made - wanted).max())
    rounding = 1e-6 * float(np.abs(wanted).max())
    allowed = _TOLERANCE[given.dtype] * float(np.ptp(wanted)) + rounding
    if not largest <= allowed:
        raise TraceError(
            f"The rewritten model differs from {given.name}: a logit by {largest:.3g}, where "
            f"{allowed:.3g} is rounding.",
            fix="export the model again at opset 17, in evaluation mode.",
        )
    return largest


def _logits(canonical: bytes, images: Pixels, name: str, *, single: bool) -> Logits:
    """The canonical ONNX's logits, of one image and then of all others at once, or one by one."""
    try:
        session = host_runtime("A given ONNX model")(canonical)
        blocks = np.split(images, np.arange(1, len(images) if single else 2))
        parts = [session.run([OUTPUT], {INPUT: block})[0] for block in blocks]
    except Exception as error:
        raise _mixed(name, f"fails: {first_line(error)}") from error
    if any(len(part) != len(block) for part, block in zip(parts, blocks, strict=True)):
        raise _mixed(name, f"returns {sum(map(len, parts))} rows for {len(images)} images.")
    return np.concatenate(parts)


def _mixed(name: str, what: str) -> TraceError:
    return TraceError(
        f"{name}, rewritten for any number of images, {what}",
        fix="export the model again with a free (dynamic) batch axis.",
    )
