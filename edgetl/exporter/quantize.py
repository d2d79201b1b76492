"""Post-training quantization to INT8: QDQ for ONNX Runtime, IR for OpenVINO."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgetl.errors import EngineError, UsageError, missing_extra
from edgetl.exporter.check import INPUT, PREPROCESS, check_onnx
from edgetl.spec import Recipe
from edgetl.telemetry import quiet, silence

Images = npt.NDArray[np.uint8]

_HELD = 4  # photos whose intermediate tensors are held at once while histograms are filled


def ort_int8(master: bytes, images: Images, recipe: Recipe) -> bytes:
    """Quantize the master ONNX to INT8 in QDQ form for ONNX Runtime.

    `images` is uint8 `(N, size, size, 3)`, N ≥ 1. Activations and calibration follow `recipe`;
    weights are int8; preprocessing and the logits stay float32. Interface, opset and IR stay
    within what `check_onnx` allows. Raises UsageError for images or a recipe that do not fit,
    EngineMissingError without onnxruntime, EngineError when its quantizer fails.
    """
    model = onnx.load_model_from_string(master)
    _check_images(model, images)
    if not recipe.activation or not recipe.calibration:
        raise UsageError(
            f"Recipe '{recipe.name}' does not say how to quantize for ONNX Runtime.",
            fix="set activation and calibration in the recipe.",
        )
    with quiet(), tempfile.TemporaryDirectory(prefix="edgetl-") as folder:
        target = Path(folder) / "int8.onnx"
        try:
            _quantize_static(model, target, images, recipe)
        except ImportError as error:
            raise missing_extra("export", "INT8 for ONNX Runtime") from error
        except Exception as error:  # the quantizer raises many unrelated types
            raise EngineError(
                f"ONNX Runtime cannot quantize the model by recipe '{recipe.name}': {error}",
                fix="use another recipe, or other calibration images.",
            ) from error
        quantized = onnx.load(target)
    data = _tidy(quantized)
    check_onnx(data, max_opset=recipe.max_opset)
    return data


def nncf_int8(master: bytes, images: Images, recipe: Recipe) -> tuple[bytes, bytes]:
    """Quantize the master ONNX to INT8 with NNCF; return OpenVINO IR as (xml, bin).

    `images` is uint8 `(N, size, size, 3)`, N ≥ 1; all are used. Preprocessing stays float32 and
    nothing is compressed to FP16; the IR's batch is dynamic. Raises UsageError for images that do
    not fit, EngineMissingError without openvino and nncf, EngineError when they fail.
    """
    _check_images(onnx.load_model_from_string(master), images)
    silence()
    with quiet(), tempfile.TemporaryDirectory(prefix="edgetl-") as folder:
        path = Path(folder) / "int8.xml"
        try:
            _quantize_nncf(master, path, images, recipe)
        except ImportError as error:
            raise missing_extra("export", "INT8 for OpenVINO") from error
        except Exception as error:  # NNCF and OpenVINO raise many unrelated types
            raise EngineError(
                f"NNCF cannot quantize the model by recipe '{recipe.name}': {error}",
                fix="use another recipe, or other calibration images.",
            ) from error
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


# --- ONNX Runtime -----------------------------------------------------------------------------


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


def _quantize_static(model: onnx.ModelProto, target: Path, images: Images, recipe: Recipe) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    symmetric = recipe.activation == "qint8"
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    options: dict[str, Any] = {
        "ActivationSymmetric": symmetric,
        # 8-bit logits would tie; the product itself runs in INT8 all the same
        "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
    }
    if recipe.calibration != "minmax":
        # CalibMaxIntermediateOutputs throws the collected data away (onnxruntime 1.31), and
        # without a stride the histograms hold every tensor of every photo at once.
        options["CalibStridedMinMax"] = _stride(len(images))
        options["CalibTensorRangeSymmetric"] = symmetric
    quantize_static(
        model,
        target,
        _Reader(images),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=recipe.per_channel,
        calibrate_method=methods[recipe.calibration],
        nodes_to_exclude=[n.name for n in model.graph.node if n.name.startswith(PREPROCESS)],
        extra_options=options,
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


# --- OpenVINO ---------------------------------------------------------------------------------


def _quantize_nncf(master: bytes, path: Path, images: Images, recipe: Recipe) -> None:
    import nncf
    import openvino

    source = path.with_name("master.onnx")
    source.write_bytes(master)
    # Core.read_model would leave biases and clamps as chains in which NNCF sees no bias to correct
    model = openvino.convert_model(source)
    shape = [1, *images.shape[1:]]
    model.reshape({INPUT: shape})
    names = [op.get_friendly_name() for op in _operations(model)]
    head = sorted(name for name in names if name.startswith(PREPROCESS))
    preset = {"": None, "performance": "PERFORMANCE", "mixed": "MIXED"}[recipe.preset]
    quantized = nncf.quantize(
        model,
        nncf.Dataset(range(len(images)), lambda i: {INPUT: images[i : i + 1]}),
        preset=None if preset is None else nncf.QuantizationPreset[preset],
        subset_size=len(images),
        fast_bias_correction=recipe.fast_bias_correction,
        ignored_scope=nncf.IgnoredScope(names=head),
    )
    quantized.reshape({INPUT: [-1, *shape[1:]]})
    openvino.save_model(quantized, path, compress_to_fp16=False)


def _operations(model: Any) -> list[Any]:
    return [o for o in model.get_ops() if o.get_type_name() not in ("Parameter", "Constant")]


# --- both -------------------------------------------------------------------------------------


def _check_images(model: onnx.ModelProto, images: Images) -> None:
    """Raise UsageError unless `images` is uint8 `(N, size, size, 3)` of the model's size, N ≥ 1."""
    wanted = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[1:] != wanted
        or not len(images)
    ):
        raise UsageError(
            f"Calibration images are {images.dtype} {images.shape}; the model reads uint8 "
            f"{('N', *wanted)}.".replace("'", ""),
            fix="give at least one image, prepared by the model's own preprocessing.",
        )
