"""From the master ONNX and a recipe to the artifact files of one candidate."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edgetl.engines import Options, find_engine, ready_engine
from edgetl.errors import EdgetlError
from edgetl.exporter.check import check_onnx
from edgetl.exporter.fp16 import strong_fp16
from edgetl.exporter.quantize import nncf_int8, ort_int8
from edgetl.metrics import Logits
from edgetl.preprocess import Pixels
from edgetl.spec import EngineName, Recipe

MASTER = "models/fp32.onnx"


class Built(NamedTuple):
    """Artifact files by member path, in the order that the engine wants them."""

    recipe: Recipe
    files: dict[str, bytes]
    rehearsal: bytes | None = None  # what a stand-in engine runs in place of the files


def build(recipe: Recipe, master: bytes, calibrate: Callable[[int], Pixels]) -> Built:
    """Write the model as `recipe` wants it; `calibrate(n)` gives n training photos."""
    if recipe.form in ("float", "trt-weak"):
        # TensorRT before 10.12 is weakly typed: it reads FP32 and its FP16 flag does the rest. The
        # stand-in has no such flag, so it is given what the flag amounts to: FP16 throughout.
        weak = recipe.form == "trt-weak"
        return Built(recipe, {MASTER: master}, strong_fp16(master) if weak else None)
    path = f"models/{recipe.name}"
    if recipe.form == "trt-strong":
        typed = strong_fp16(master)
        check_onnx(typed, max_opset=recipe.max_opset)
        return Built(recipe, {f"{path}.onnx": typed})
    images = calibrate(recipe.calibration_images)
    if recipe.form == "ort-qdq":
        quantized = ort_int8(master, images, recipe)
        check_onnx(quantized, max_opset=recipe.max_opset)
        return Built(recipe, {f"{path}.onnx": quantized})
    xml, weights = nncf_int8(master, images, recipe)
    return Built(recipe, {f"{path}.xml": xml, f"{path}.bin": weights})


def stand_in(recipe: Recipe) -> EngineName:
    """The engine that scores a recipe here: TensorRT's ONNX is executed by ONNX Runtime."""
    return "onnxruntime" if recipe.engine == "tensorrt" else recipe.engine


def candidate_logits(built: Built, images: Pixels) -> tuple[Logits, str]:
    """Logits `(N, classes)` one image at a time, as deployed, and "engine version" that gave them.

    Raises EngineMissingError or EngineError.
    """
    name = stand_in(built.recipe)
    options = Options(
        precision=built.recipe.precision,
        session=built.recipe.session if name == built.recipe.engine else {},
    )
    files = (built.rehearsal,) if built.rehearsal is not None else tuple(built.files.values())
    session = ready_engine(name, options.session).open(files, options)
    try:
        rows = [session.run(images[i : i + 1]) for i in range(len(images))]
    finally:
        session.close()
    return np.concatenate(rows), f"{name} {find_engine(name).version()}"


def why(error: EdgetlError) -> str:
    """An error as the one-line reason of a refused candidate."""
    return f"{error.message.rstrip('.')} ({error.fix.rstrip('.')})" if error.fix else error.message
