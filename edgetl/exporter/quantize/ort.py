"""INT8 for ONNX Runtime: Q/DQ by its own quantizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgetl.errors import UsageError
from edgetl.exporter.onnx.checks import NORMALIZED, PREPROCESS, Wires, check_onnx, parse_onnx
from edgetl.exporter.onnx.fold import fold_normalisation, read_pixels_directly
from edgetl.exporter.onnx.passes import refill
from edgetl.exporter.quantize.calibration import Range
from edgetl.exporter.quantize.scratch import quantizing
from edgetl.spec import Recipe

TARGET = "int8.onnx"
PAIR = ("QuantizeLinear", "DequantizeLinear")


def ort_int8(
    canonical: bytes,
    ranges: Mapping[str, Range],
    recipe: Recipe,
    *,
    keep_float: frozenset[str] = frozenset(),
) -> bytes:
    """Quantize the canonical ONNX to INT8 in QDQ form for ONNX Runtime.

    `ranges` holds (low, high) of every tensor of `float_tensors`. Nodes in `keep_float` stay as
    they are, and so do the outputs; weights are int8. Interface, opset and IR stay within what
    `check_onnx` allows. Raises UsageError for a recipe that does not fit, EngineMissingError
    without onnxruntime, EngineError when its quantizer fails, StorageError when temporary files
    find no room.
    """
    if not recipe.activation:
        raise UsageError(
            f"Recipe '{recipe.name}' does not say how to quantize for ONNX Runtime.",
            fix='set activation = "quint8" or "qint8" in the recipe.',
        )
    folds = recipe.fold_normalisation and recipe.activation == "quint8"
    folded = fold_normalisation(canonical) if folds else None
    data, centre = folded or (canonical, None)
    with quantizing(recipe, "ONNX Runtime", "ONNX Runtime") as folder:
        _quantize(parse_onnx(data), folder, ranges, recipe, keep_float=keep_float, centre=centre)
        data = _tidy(onnx.load(folder / TARGET))
    if centre is not None:
        data = read_pixels_directly(data)
    check_onnx(data, max_opset=recipe.max_opset)
    return data


def _quantize(
    model: onnx.ModelProto,
    folder: Path,
    ranges: Mapping[str, Range],
    recipe: Recipe,
    *,
    keep_float: frozenset[str],
    centre: int | None,
) -> None:
    """Write the quantized model to `TARGET` in the folder."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

    excluded = [
        node.name
        for node in model.graph.node
        if node.name.startswith(PREPROCESS)
        or node.op_type in recipe.exclude
        or node.name in keep_float
    ]
    extra: dict[str, Any] = {
        "ActivationSymmetric": recipe.activation == "qint8",
        # 8-bit logits would tie; the product itself runs in INT8 all the same
        "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
    }
    if centre is not None:  # pixels are integers already
        scale, zero = np.array(1, np.float32), np.array(centre, np.uint8)
        pixels = {"quant_type": QuantType.QUInt8, "scale": scale, "zero_point": zero}
        extra["TensorQuantOverrides"] = {NORMALIZED: [pixels]}
    stored = folder / "ranges.json"
    both = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, both), stored)
    quantize_static(
        model,
        folder / TARGET,
        None,
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8 if recipe.activation == "qint8" else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=recipe.per_channel,
        nodes_to_exclude=excluded,
        calibrate_method=CalibrationMethod.MinMax,
        calibration_cache_path=stored,
        extra_options=extra,
    )


def _float_outputs(graph: onnx.GraphProto) -> None:
    """Leave out Q and DQ between an output and the layers whose weights compute it.

    The values of the output would else be some of 256.
    """
    makers = {output: node for node in graph.node for output in node.output}
    for output in graph.output:
        source = _source(output.name, makers)
        if source != output.name:
            graph.node.remove(makers[output.name])
            for node in graph.node:
                for names in (node.input, node.output):
                    names[:] = [output.name if name == source else name for name in names]
    wires = Wires(graph)
    after = wires.after_weights()
    for node in graph.node:
        if after & {*node.output} and node.op_type not in PAIR:
            node.input[:] = [_source(name, wires.maker) for name in node.input]
    _prune(graph)


def _source(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    """What a tensor is before Q and DQ, or its own name where they do not make it."""
    back = makers.get(name)
    pair = makers.get(back.input[0]) if back and back.op_type == "DequantizeLinear" else None
    return pair.input[0] if pair and pair.op_type == "QuantizeLinear" else name


def _prune(graph: onnx.GraphProto) -> None:
    """Remove Q and DQ that nothing reads."""
    while True:
        read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
        unread = [n for n in graph.node if n.op_type in PAIR and not read & {*n.output}]
        if not unread:
            return
        for node in unread:
            graph.node.remove(node)


def _tidy(model: onnx.ModelProto) -> bytes:
    """Serialize without what the quantizer leaves behind and no reader needs."""
    _float_outputs(model.graph)
    del model.graph.value_info[:]
    del model.metadata_props[:]
    domains = {n.domain for n in model.graph.node}
    refill(model.opset_import, [o for o in model.opset_import if o.domain in domains])
    return bytes(model.SerializeToString(deterministic=True))
