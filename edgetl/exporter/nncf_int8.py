"""INT8 for OpenVINO: an IR quantized by NNCF."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgetl.errors import EngineError, missing_extra
from edgetl.exporter.check import INPUT, PREPROCESS
from edgetl.exporter.fold import fold_normalisation
from edgetl.exporter.ort_int8 import check_images
from edgetl.spec import Calibrator, Recipe
from edgetl.telemetry import quiet, silence

Images = npt.NDArray[np.uint8]

SOURCE = "master.onnx"


def nncf_int8(
    master: bytes,
    images: Images,
    recipe: Recipe,
    method: Calibrator = "minmax",
    *,
    keep_float: frozenset[str] = frozenset(),
    trained: bool = False,
) -> tuple[bytes, bytes]:
    """Quantize the master ONNX to INT8 with NNCF; return OpenVINO IR as (xml, bin).

    `images` is uint8 `(N, size, size, 3)`, N ≥ 1; all are used. Nodes in `keep_float` are not
    quantized. A network `trained` for integers keeps its biases: correcting them would pull it to
    its own answers in floating point, which are not what it was trained for. Preprocessing stays
    float32 and nothing is compressed to FP16; the IR's batch is dynamic. Raises UsageError for images that do not fit, EngineMissingError without openvino and
    nncf, EngineError when they fail.
    """
    check_images(onnx.load_model_from_string(master), images)
    folded = fold_normalisation(master) if recipe.fold_normalisation else None
    silence()
    with quiet(), tempfile.TemporaryDirectory(prefix="edgetl-") as folder:
        path = Path(folder) / "int8.xml"
        path.with_name(SOURCE).write_bytes(master if folded is None else folded[0])
        try:
            _quantize(path, images, recipe, keep_float, _advanced(method, trained=trained))
        except ImportError as error:
            raise missing_extra("export", "INT8 for OpenVINO") from error
        except Exception as error:  # NNCF and OpenVINO raise many unrelated types
            raise EngineError(
                f"NNCF cannot quantize the model by recipe '{recipe.name}': {error}",
                fix="use another recipe, or other calibration images.",
            ) from error
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _quantize(
    path: Path,
    images: Images,
    recipe: Recipe,
    keep_float: frozenset[str],
    advanced: Any,
) -> None:
    """Quantize the ONNX file beside `path` and save it there."""
    import nncf
    import openvino

    source = path.with_name(SOURCE)
    # Core.read_model would leave biases and clamps as chains in which NNCF sees no bias to correct
    model = openvino.convert_model(source)
    shape = [1, *images.shape[1:]]
    model.reshape({INPUT: shape})
    kinds = {n.name: n.op_type for n in onnx.load(source).graph.node}
    excluded = keep_float | {name for name, kind in kinds.items() if kind in recipe.exclude}
    ignored = [
        name
        for name in (op.get_friendly_name() for op in _operations(model))
        # conversion splits a node into several, such as Conv_1 and Conv_1/WithoutBiases
        if name.startswith(PREPROCESS) or name.partition("/")[0] in excluded
    ]
    preset = {"": None, "performance": "PERFORMANCE", "mixed": "MIXED"}[recipe.preset]
    quantized = nncf.quantize(
        model,
        nncf.Dataset(range(len(images)), lambda i: {INPUT: images[i : i + 1]}),
        preset=None if preset is None else nncf.QuantizationPreset[preset],
        subset_size=len(images),
        fast_bias_correction=recipe.fast_bias_correction,
        ignored_scope=nncf.IgnoredScope(names=sorted(ignored)),
        advanced_parameters=advanced,
    )
    quantized.reshape({INPUT: [-1, *shape[1:]]})
    openvino.save_model(quantized, path, compress_to_fp16=False)


def _advanced(method: Calibrator, *, trained: bool) -> Any:
    """NNCF's own ranges for "minmax"; for "percentile" 0.01 % of each photo's values are cut."""
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    if method == "entropy":
        raise ValueError("NNCF does not calibrate by entropy")
    if method == "minmax":
        return AdvancedQuantizationParameters(disable_bias_correction=trained)

    def end(aggregator: AggregatorType) -> StatisticsCollectorParameters:
        return StatisticsCollectorParameters(
            statistics_type=StatisticsType.QUANTILE,
            aggregator_type=aggregator,
            quantile_outlier_prob=1e-4,
        )

    ranges = RangeEstimatorParameters(min=end(AggregatorType.MIN), max=end(AggregatorType.MAX))
    return AdvancedQuantizationParameters(
        disable_bias_correction=trained, activations_range_estimator_params=ranges
    )


def _operations(model: Any) -> list[Any]:
    return [o for o in model.get_ops() if o.get_type_name() not in ("Parameter", "Constant")]
