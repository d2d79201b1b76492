"""INT8 for ONNX Runtime: Q/DQ by its own quantizer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgetl.errors import EngineError, UsageError, missing_extra
from edgetl.exporter.check import INPUT, NORMALIZED, PREPROCESS, check_images, check_onnx
from edgetl.exporter.fold import fold_normalisation, read_pixels_directly
from edgetl.spec import Calibrator, Recipe
from edgetl.telemetry import quiet

Images = npt.NDArray[np.uint8]

_HELD = 4  # photos whose intermediate tensors are held at once while histograms are filled


def ort_int8(
    master: bytes,
    images: Images,
    recipe: Recipe,
    method: Calibrator,
    *,
    keep_float: frozenset[str] = frozenset(),
    ranges: Path | None = None,
    trained: Mapping[str, tuple[float, float]] | None = None,
) -> bytes:
    """Quantize the master ONNX to INT8 in QDQ form for ONNX Runtime.

    `images` is uint8 `(N, size, size, 3)`, N ≥ 1; ranges of activations come from them by `method`,
    or from the file `ranges` if it exists, which is written else; `trained` ones, by tensor, go
    first. Nodes in `keep_float` stay as
    they are, and so do the logits; weights are int8. Interface, opset and IR stay within what
    `check_onnx` allows. Raises UsageError for images or a recipe that do not fit,
    EngineMissingError without onnxruntime, EngineError when its quantizer fails.
    """
    model = onnx.load_model_from_string(master)
    check_images(model, images)
    if not recipe.activation:
        raise UsageError(
            f"Recipe '{recipe.name}' does not say how to quantize for ONNX Runtime.",
            fix='set activation = "quint8" or "qint8" in the recipe.',
        )
    folded = None
    if recipe.fold_normalisation and recipe.activation == "quint8":
        folded = fold_normalisation(master)
    if folded is not None:
        model = onnx.load_model_from_string(folded[0])
    centre = None if folded is None else folded[1]
    with quiet(), tempfile.TemporaryDirectory(prefix="edgetl-") as folder:
        target = Path(folder) / "int8.onnx"
        options = _options(model, recipe, method, keep_float)
        extra = options["extra_options"]
        if method != "minmax":
            # CalibMaxIntermediateOutputs throws the collected data away (onnxruntime 1.31), and
            # without a stride the histograms hold every tensor of every photo at once.
            extra["CalibStridedMinMax"] = _stride(len(images))
            extra["CalibTensorRangeSymmetric"] = recipe.activation == "qint8"
        extra["TensorQuantOverrides"] = _overrides(
            model, trained or {}, centre, symmetric=recipe.activation == "qint8"
        )
        try:
            _quantize_static(model, target, images, options, ranges)
        except ImportError as error:
            raise missing_extra("export", "INT8 for ONNX Runtime") from error
        except Exception as error:  # the quantizer raises many unrelated types
            raise EngineError(
                f"ONNX Runtime cannot quantize the model by recipe '{recipe.name}': {error}",
                fix="use another recipe, or other calibration images.",
            ) from error
        quantized = onnx.load(target)
    data = _tidy(quantized)
    if centre is not None:
        data = read_pixels_directly(data)
    check_onnx(data, max_opset=recipe.max_opset)
    return data


class _Reader:
    """Hand out calibration photos one by one, as onnxruntime's CalibrationDataReader."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._range = iter(range(len(images)))

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read on from `start_index`, up to `end_index` exclusive."""
        self._range = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, Images] | None:
        """Return the feed of the next photo, batch 1, or None behind the last one."""
        index = next(self._range, None)
        return None if index is None else {INPUT: self._images[index : index + 1]}


def _options(
    model: onnx.ModelProto, recipe: Recipe, method: Calibrator, keep_float: frozenset[str]
) -> dict[str, Any]:
    """Arguments of quantize_static."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    symmetric = recipe.activation == "qint8"
    excluded = {n.name for n in model.graph.node if n.op_type in recipe.exclude} | keep_float
    names = [node.name for node in model.graph.node]
    return {
        "quant_format": QuantFormat.QDQ,
        "activation_type": QuantType.QInt8 if symmetric else QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": recipe.per_channel,
        "calibrate_method": methods[method],
        "nodes_to_exclude": [n for n in names if n.startswith(PREPROCESS) or n in excluded],
        "extra_options": {
            "ActivationSymmetric": symmetric,
            # 8-bit logits would tie; the product itself runs in INT8 all the same
            "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
        },
    }


def _overrides(
    model: onnx.ModelProto,
    trained: Mapping[str, tuple[float, float]],
    centre: int | None,
    *,
    symmetric: bool,
) -> dict[str, list[dict[str, Any]]]:
    """Ranges that need no calibration: trained ones, and pixels, which are integers already."""
    from onnxruntime.quantization import QuantType

    inner = {name for node in model.graph.node for name in node.output}
    found: dict[str, list[dict[str, Any]]] = {}
    for name, (low, high) in trained.items():
        if name in inner and high > low:
            most = max(-low, high)
            ends = (-most, most) if symmetric else (low, high)
            found[name] = [{"rmin": np.float32(ends[0]), "rmax": np.float32(ends[1])}]
    if centre is not None:
        scale, zero = np.array(1, np.float32), np.array(centre, np.uint8)
        found[NORMALIZED] = [{"quant_type": QuantType.QUInt8, "scale": scale, "zero_point": zero}]
    return found


def _quantize_static(
    model: onnx.ModelProto,
    target: Path,
    images: Images,
    options: dict[str, Any],
    ranges: Path | None,
) -> None:
    from onnxruntime.quantization import quantize_static

    quantize_static(
        model,
        target,
        _Reader(images),
        calibration_cache_path=ranges,
        **options,
    )


def _stride(count: int) -> int:
    """Largest divisor of `count` up to `_HELD`: the quantizer refuses a remainder."""
    return max(d for d in range(1, _HELD + 1) if count % d == 0)


def _tidy(model: onnx.ModelProto) -> bytes:
    """Serialize without what the quantizer leaves behind and no reader needs."""
    del model.graph.value_info[:]
    del model.metadata_props[:]
    domains = {n.domain for n in model.graph.node}
    used = [o for o in model.opset_import if o.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(used)
    return bytes(model.SerializeToString(deterministic=True))
