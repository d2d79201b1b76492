"""Normalisation folded into the first convolution, for engines that read pixels as integers.

The canonical ONNX subtracts a mean and multiplies by a scale for each channel before its first
layer. In INT8 that costs a pass over the image in floating point and two changes of layout; here
the weights take the scale, the bias takes the mean, and the layer reads `pixel - centre` with one
centre for all channels: an integer, exactly.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgetl.exporter.onnx.checks import FLOAT, INPUT, NORMALIZED, PREPROCESS, parse_onnx
from edgetl.exporter.onnx.passes import attribute, drop_unused, refill, stored_constants

CENTRE = f"{PREPROCESS}centre"
_WEIGHT, _BIAS = f"{PREPROCESS}weight", f"{PREPROCESS}bias"  # names that no network has


def fold_normalisation(canonical: bytes) -> tuple[bytes, int] | None:
    """The model with its normalisation in the first Conv, and the centre (0…255) it subtracts.

    Equal but for rounding, except where that Conv pads: zero then means the centre and not each
    channel's own mean, which differ by about 10 of 255 for ImageNet's means (0.7 % RMS of the
    logits of a fine-tuned MobileNetV2, where INT8 itself makes 10 %). None when the first layer is
    no plain Conv with stored weights, or something else reads the normalised image too.
    """
    model = parse_onnx(canonical)
    graph = model.graph
    readers = [n for n in graph.node if NORMALIZED in n.input]
    stored = stored_constants(graph)
    if len(readers) != 1 or readers[0].op_type != "Conv":
        return None
    conv = readers[0]
    if attribute(conv, "group", 1) != 1 or not {*conv.input[1:]} <= stored.keys():
        return None
    scale = stored[f"{PREPROCESS}scale"].astype(np.float64).reshape(1, -1, 1, 1)
    mean = stored[f"{PREPROCESS}mean"].astype(np.float64).reshape(1, -1, 1, 1)
    centre = int(np.clip(np.round(mean.mean()), 0, 255))
    weight = stored[conv.input[1]].astype(np.float64) * scale
    old = stored[conv.input[2]] if len(conv.input) > 2 else np.zeros(len(weight))
    bias = old - (weight * (mean - centre)).sum(axis=(1, 2, 3))
    changed = {_WEIGHT: weight, _BIAS: bias, CENTRE: np.array(centre)}
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array, np.float32), name)
        for name, array in changed.items()
    )
    conv.input[:] = [NORMALIZED, _WEIGHT, _BIAS]  # another layer may read the old ones too
    node = helper.make_node
    cast, turned = f"{PREPROCESS}cast_0", f"{PREPROCESS}transpose_0"
    head = [
        node("Cast", [INPUT], [cast], f"{PREPROCESS}cast", to=FLOAT),
        node("Transpose", [cast], [turned], f"{PREPROCESS}transpose", perm=[0, 3, 1, 2]),
        node("Sub", [turned, CENTRE], [NORMALIZED], f"{PREPROCESS}subtract"),
    ]
    refill(graph.node, [*head, *(n for n in graph.node if not n.name.startswith(PREPROCESS))])
    drop_unused(graph)
    return bytes(model.SerializeToString(deterministic=True)), centre


def read_pixels_directly(quantized: bytes) -> bytes:
    """Let a Q/DQ file of such a model read uint8 pixels as its first quantized tensor.

    `pixel - centre` quantized with scale 1 and zero point `centre` is the pixel itself, so that
    Cast, Sub and QuantizeLinear cancel. Files whose first quantization is another are returned as
    they are.
    """
    model = onnx.load_model_from_string(quantized)
    graph = model.graph
    stored = stored_constants(graph)
    first = [n for n in graph.node if NORMALIZED in n.input]
    if len(first) != 1 or first[0].op_type != "QuantizeLinear" or CENTRE not in stored:
        return quantized
    _, scale, zero = (stored.get(name) for name in (*first[0].input, "", "")[:3])
    if scale is None or zero is None or zero.dtype != np.uint8:
        return quantized
    if float(scale) != 1.0 or int(zero) != int(stored[CENTRE]):
        return quantized
    transpose = helper.make_node(
        "Transpose", [INPUT], [first[0].output[0]], f"{PREPROCESS}transpose", perm=[0, 3, 1, 2]
    )
    drop = {f"{PREPROCESS}cast", f"{PREPROCESS}transpose", f"{PREPROCESS}subtract", first[0].name}
    refill(graph.node, [transpose, *(n for n in graph.node if n.name not in drop)])
    drop_unused(graph)
    return bytes(model.SerializeToString(deterministic=True))
