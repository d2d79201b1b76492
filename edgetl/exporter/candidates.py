"""From the canonical ONNX and a recipe to the artifact files of one candidate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from edgetl.bundle.manifest import Quantization
from edgetl.errors import EdgetlError, EngineError
from edgetl.exporter.backends import backend_of
from edgetl.exporter.backends.base import Files
from edgetl.exporter.context import BuildContext
from edgetl.inputs.base import Pixels
from edgetl.spec import Calibrator, Recipe
from edgetl.tasks.base import Outputs, Task, finite, join

WHOLE: frozenset[str] = frozenset()  # nothing is kept in floating point


class Built(NamedTuple):
    """Artifact files by member path, in the order that the engine wants them."""

    recipe: Recipe
    files: Files
    quantization: Quantization | None = None


def build(recipe: Recipe, context: BuildContext, keep_float: frozenset[str] = WHOLE) -> Built:
    """Write the model as `recipe` wants it, with the nodes in `keep_float` not quantized.

    Several calibration methods are tried where the recipe names them, and the one whose outputs are
    nearest to FP32's on training samples that calibrate nothing is kept.
    """
    backend, methods = backend_of(recipe), context.methods(recipe)
    if recipe.form not in backend.integers:
        return Built(recipe, backend.build(recipe, context, methods[0], keep_float))
    made: dict[Calibrator, Files] = {}
    tried: dict[str, float] = {}
    problem: EngineError | None = None
    for method in methods:
        try:
            made[method] = backend.build(recipe, context, method, keep_float)
            if len(methods) > 1:
                tried[method] = _distance(recipe, made[method], context)
        except EngineError as error:  # one method may fail where another does not
            made.pop(method, None)
            problem = error
    if not made:
        raise problem or EngineError(f"Recipe '{recipe.name}' gave nothing.", fix="use another.")
    best = min(made, key=lambda method: tried.get(method, 0.0))
    photos = context.calibrate(recipe.calibration_images)[1]
    return Built(
        recipe,
        made[best],
        Quantization(calibration=best, photos=photos, divergence=tried.get(best), tried=tried),
    )


def _distance(recipe: Recipe, files: Files, context: BuildContext) -> float:
    images, reference = context.held_out()
    (found,), _ = candidate_outputs(Built(recipe, files), [images])
    return mean_distance(context.source.task, reference, found)


def mean_distance(task: Task, reference: Outputs, outputs: Outputs) -> float:
    """The task's distance over all samples; infinite where an output is not finite."""
    if not finite(outputs).all():
        return math.inf
    return float(task.distance(reference, outputs).mean())


def candidate_outputs(built: Built, blocks: Sequence[Pixels]) -> tuple[list[Outputs], str]:
    """Outputs `(N, …)` of each block, one image at a time as deployed, and "engine version".

    Raises EngineMissingError or EngineError.
    """
    backend = backend_of(built.recipe)
    proxy = backend.proxy(built.recipe)
    opened = proxy.open(backend.proxy_files(built.recipe, built.files))
    try:
        found: list[Outputs] = [
            join([opened.run(images[i : i + 1]) for i in range(len(images))]) for images in blocks
        ]
    finally:
        opened.close()
    return found, proxy.version


def renamed(built: Built, name: str, **changes: Any) -> Built:
    """The files of a variant under its own name, with changes of its `quantization`."""
    old = f"models/{built.recipe.name}."
    files = {path.replace(old, f"models/{name}."): data for path, data in built.files.items()}
    assert built.quantization is not None
    return built._replace(
        files=files, quantization=msgspec.structs.replace(built.quantization, **changes)
    )


def why(error: EdgetlError) -> str:
    """An error as the one-line reason of a refused candidate."""
    return f"{error.message.rstrip('.')} ({error.fix.rstrip('.')})" if error.fix else error.message
