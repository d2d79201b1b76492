"""INT8 for OpenVINO: an IR quantized by NNCF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from edgetl.exporter.onnx.checks import INPUT, PREPROCESS, check_images
from edgetl.exporter.onnx.fold import fold_normalisation
from edgetl.exporter.quantize.openvino_passes import (
    exact_pixels,
    fusible_gates,
    unsigned_activations,
    zero_points_into_biases,
)
from edgetl.exporter.quantize.scratch import quantizing
from edgetl.inputs.base import Pixels
from edgetl.spec import Calibrator, Recipe
from edgetl.telemetry import silence

SOURCE = "canonical.onnx"
CUT = 1e-4  # share of a photo's values that "percentile" leaves out at each end


def nncf_int8(
    canonical: bytes,
    images: Pixels,
    recipe: Recipe,
    method: Calibrator = "minmax",
    *,
    keep_float: frozenset[str] = frozenset(),
    trained: bool = False,
) -> tuple[bytes, bytes]:
    """Quantize the canonical ONNX to INT8 with NNCF; return OpenVINO IR as (xml, bin).

    `images` is uint8 `(N, size, size, 3)`, N ≥ 1; all are used. Nodes in `keep_float` are not
    quantized. A network `trained` for integers keeps its biases: correcting them would pull it to
    its own answers in floating point, which are not what it was trained for. Preprocessing stays
    float32 and nothing is compressed to FP16; the IR's batch is dynamic. Raises UsageError for
    images that do not fit, EngineMissingError without openvino and nncf, EngineError when they
    fail.
    """
    check_images(onnx.load_model_from_string(canonical), images)
    folded = fold_normalisation(canonical) if recipe.fold_normalisation else None
    data, centre = folded or (canonical, None)
    silence()
    with quantizing(recipe, "NNCF", "OpenVINO") as folder:
        path = folder / "int8.xml"
        path.with_name(SOURCE).write_bytes(data)
        advanced = _advanced(method, trained=trained)
        _quantize(path, images, recipe, keep_float, advanced=advanced, centre=centre)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _quantize(
    path: Path,
    images: Pixels,
    recipe: Recipe,
    keep_float: frozenset[str],
    *,
    advanced: Any,
    centre: int | None,
) -> None:
    """Quantize the ONNX file beside `path` and save it there."""
    import nncf
    import openvino

    source = path.with_name(SOURCE)
    # Core.read_model would leave biases and clamps as chains in which NNCF sees no bias to correct
    model = openvino.convert_model(source)
    shape = [1, *images.shape[1:]]
    model.reshape({INPUT: shape})
    fusible_gates(model)
    nodes = onnx.load(source).graph.node
    excluded = keep_float | {n.name for n in nodes if n.op_type in recipe.exclude}
    stored = ("Parameter", "Constant")
    names = [o.get_friendly_name() for o in model.get_ops() if o.get_type_name() not in stored]
    ignored = [
        name
        for name in names
        # conversion splits a node into several, such as Conv_1 and Conv_1/WithoutBiases
        if name.startswith(PREPROCESS) or name.partition("/")[0] in excluded
    ]
    quantized = nncf.quantize(
        model,
        nncf.Dataset(range(len(images)), lambda i: {INPUT: images[i : i + 1]}),
        preset=nncf.QuantizationPreset[recipe.preset.upper()] if recipe.preset else None,
        subset_size=len(images),
        fast_bias_correction=recipe.fast_bias_correction,
        ignored_scope=nncf.IgnoredScope(names=sorted(ignored)),
        advanced_parameters=advanced,
    )
    if centre is not None:
        exact_pixels(quantized, centre)
    unsigned_activations(quantized)
    if recipe.session.get("DEVICE", "CPU") == "CPU":
        zero_points_into_biases(quantized)
    quantized.reshape({INPUT: [-1, *shape[1:]]})
    openvino.save_model(quantized, path, compress_to_fp16=False)


def _advanced(method: Calibrator, *, trained: bool) -> Any:
    """Ranges over all photos; "percentile" cuts 0.01 % of each photo's values at both ends."""
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    if method == "entropy":
        raise ValueError("NNCF does not calibrate by entropy")

    def end(extreme: str) -> Any:
        quantile = method == "percentile"
        return StatisticsCollectorParameters(
            statistics_type=StatisticsType["QUANTILE" if quantile else extreme],
            aggregator_type=AggregatorType[extreme],
            quantile_outlier_prob=CUT,
        )

    return AdvancedQuantizationParameters(
        disable_bias_correction=trained,
        activations_range_estimator_params=RangeEstimatorParameters(min=end("MIN"), max=end("MAX")),
    )
