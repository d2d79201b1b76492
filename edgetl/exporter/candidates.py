"""From the canonical ONNX and a recipe to the artifact files of one candidate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from edgetl.bundle.manifest import Quantization
from edgetl.engines import Options, find_engine, onnxruntime, ready_engine
from edgetl.errors import EdgetlError, EngineError, UsageError
from edgetl.exporter.context import BuildContext
from edgetl.exporter.onnx.checks import check_onnx
from edgetl.exporter.onnx.fp16 import strong_fp16
from edgetl.exporter.quantize.nncf import nncf_int8
from edgetl.exporter.quantize.ort import ort_int8
from edgetl.exporter.tensorrt.dla import dla_friendly
from edgetl.exporter.tensorrt.qdq import trt_qdq
from edgetl.inputs.base import Pixels
from edgetl.spec import Calibrator, EngineName, Recipe
from edgetl.tasks.base import Outputs, Task, finite, join

CANONICAL = "models/fp32.onnx"
WHOLE: frozenset[str] = frozenset()  # nothing is kept in floating point

Files = dict[str, bytes]


class Built(NamedTuple):
    """Artifact files by member path, in the order that the engine wants them."""

    recipe: Recipe
    files: Files
    proxy_model: bytes | None = None  # what a proxy engine runs in place of the files
    quantization: Quantization | None = None


def build(recipe: Recipe, context: BuildContext, keep_float: frozenset[str] = WHOLE) -> Built:
    """Write the model as `recipe` wants it, with the nodes in `keep_float` not quantized.

    Several calibration methods are tried where the recipe names them, and the one whose logits
    diverge least from FP32 on training photos that calibrate nothing is kept.
    """
    if recipe.precision != "int8":
        return _floating(recipe, context.canonical)
    methods = recipe.calibration or ("minmax",)
    if context.trained:
        methods = ("minmax",)  # what it was trained with
    tried: dict[str, float] = {}
    best: tuple[float, Calibrator, Files] | None = None
    problem: EngineError | None = None
    for method in methods:
        try:
            files = _quantized(recipe, context, methods, method, keep_float)
            found = 0.0 if len(methods) == 1 else _divergence(recipe, files, context)
        except EngineError as error:  # one method may fail where another does not
            problem = error
            continue
        tried[method] = found
        if best is None or found < best[0]:
            best = found, method, files
    if best is None:
        raise problem or EngineError(f"Recipe '{recipe.name}' gave nothing.", fix="use another.")
    chosen = Quantization(
        calibration=best[1],
        photos=context.calibrate(recipe.calibration_images)[1],
        divergence=best[0] if len(methods) > 1 else None,
        tried=tried if len(methods) > 1 else {},
    )
    return Built(recipe, best[2], quantization=chosen)


def _floating(recipe: Recipe, canonical: bytes) -> Built:
    """FP32, BF16 and FP16 forms."""
    dla = "dla" in recipe.session
    base = dla_friendly(canonical) if dla else canonical
    path = f"models/{recipe.name}.onnx" if dla or recipe.form == "trt-strong" else CANONICAL
    if recipe.form == "trt-strong":
        typed = strong_fp16(base)
        check_onnx(typed, max_opset=recipe.max_opset)
        return Built(recipe, {path: typed})
    # TensorRT before 10.12 is weakly typed: it reads FP32 and its FP16 flag does the rest. The
    # proxy has no such flag, so it is given what the flag amounts to: FP16 throughout.
    weak = recipe.form == "trt-weak"
    return Built(recipe, {path: base}, strong_fp16(base) if weak else None)


def _quantized(
    recipe: Recipe,
    context: BuildContext,
    methods: tuple[Calibrator, ...],
    method: Calibrator,
    keep_float: frozenset[str],
) -> Files:
    """INT8 forms, with ranges by one of the methods, which are collected together."""
    path, canonical = f"models/{recipe.name}", context.canonical
    if recipe.form == "nncf":
        images, _ = context.calibrate(recipe.calibration_images)
        trained = bool(context.trained)
        xml, weights = nncf_int8(
            canonical, images, recipe, method, keep_float=keep_float, trained=trained
        )
        return {f"{path}.xml": xml, f"{path}.bin": weights}
    every = context.ranges(recipe.calibration_images, methods)
    if recipe.form == "ort-qdq":
        data = ort_int8(canonical, every[method], recipe, keep_float=keep_float)
    elif recipe.form in ("trt-qdq-weak", "trt-qdq-strong"):
        strong = recipe.form == "trt-qdq-strong"
        data = trt_qdq(
            canonical, every[method], strong=strong, exclude=recipe.exclude, keep_float=keep_float
        )
    else:
        raise UsageError(
            f"Recipe '{recipe.name}' is int8, but its form '{recipe.form}' has no integers.",
            fix="set form to ort-qdq, nncf, trt-qdq-weak or trt-qdq-strong.",
        )
    check_onnx(data, max_opset=recipe.max_opset)
    return {f"{path}.onnx": data}


def _divergence(recipe: Recipe, files: Files, context: BuildContext) -> float:
    images, reference = context.held_out()
    (found,), _ = candidate_outputs(Built(recipe, files), [images])
    return mean_distance(context.source.task, reference, found)


def mean_distance(task: Task, reference: Outputs, outputs: Outputs) -> float:
    """The task's distance over all samples; infinite where an output is not finite."""
    if not finite(outputs).all():
        return math.inf
    return float(task.distance(reference, outputs).mean())


def proxy_engine(recipe: Recipe) -> EngineName:
    """The engine that scores a recipe here: TensorRT's ONNX is executed by ONNX Runtime."""
    return "onnxruntime" if recipe.engine == "tensorrt" else recipe.engine


def proxy_session(recipe: Recipe) -> dict[str, str]:
    """Its session options: OpenVINO's CPU in FP32 stands in for its GPU and NPU."""
    if recipe.engine == "tensorrt":
        return {}
    if recipe.session.get("DEVICE", "CPU") == "CPU":
        return recipe.session
    return {"INFERENCE_PRECISION_HINT": "f32"}


def candidate_outputs(built: Built, blocks: Sequence[Pixels]) -> tuple[list[Outputs], str]:
    """Outputs `(N, …)` of each block, one image at a time as deployed, and "engine version".

    Raises EngineMissingError or EngineError.
    """
    recipe, name = built.recipe, proxy_engine(built.recipe)
    session = proxy_session(recipe)
    proxy = recipe.engine == "openvino" and session != recipe.session
    precision = "fp32" if proxy and recipe.precision != "int8" else recipe.precision
    options = Options(precision=precision, session=session)
    files = (built.proxy_model,) if built.proxy_model is not None else tuple(built.files.values())
    engine = ready_engine(name, session)
    unfused = recipe.form.startswith("trt-qdq")
    opened = (onnxruntime.open_unfused if unfused else engine.open)(files, options)
    try:
        found: list[Outputs] = [
            join([opened.run(images[i : i + 1]) for i in range(len(images))]) for images in blocks
        ]
    finally:
        opened.close()
    return found, f"{name} {find_engine(name).version()}"


def renamed(built: Built, name: str, **changes: Any) -> Built:
    """The files of a variant under its own name, with changes of its `quantization`."""
    old = f"models/{built.recipe.name}."
    files = {path.replace(old, f"models/{name}."): data for path, data in built.files.items()}
    assert built.quantization is not None
    quantization = msgspec.structs.replace(built.quantization, **changes)
    return built._replace(files=files, quantization=quantization)


def why(error: EdgetlError) -> str:
    """An error as the one-line reason of a refused candidate."""
    return f"{error.message.rstrip('.')} ({error.fix.rstrip('.')})" if error.fix else error.message
