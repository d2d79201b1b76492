"""OpenVINO: the canonical ONNX as it is, or an IR quantized by NNCF; for a CPU, GPU or NPU."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from edgetl.exporter.backends.base import CANONICAL, Backend, Files, Proxy
from edgetl.exporter.context import BuildContext
from edgetl.exporter.quantize.calibration import Rounding
from edgetl.exporter.quantize.nncf import nncf_int8
from edgetl.machine import this_machine
from edgetl.spec import Calibrator, Recipe

NNCF = "nncf"
HINT = "INFERENCE_PRECISION_HINT"


class OpenVino(Backend):
    """Forms: float, nncf."""

    name = "openvino"
    forms = {"float": ("fp32", "bf16", "fp16"), NNCF: ("int8",)}
    integers = frozenset({NNCF})

    def contradictions(self, recipe: Recipe) -> Iterator[tuple[str, str]]:
        """Its precision hint is always stated; NNCF lacks one method."""
        if recipe.activation:
            yield (
                f"form '{recipe.form}' with activation '{recipe.activation}'",
                "leave activation away.",
            )
        if recipe.form == NNCF and "entropy" in recipe.calibration:
            yield "NNCF does not calibrate by entropy", "use minmax or percentile."
        if HINT not in recipe.session:
            yield (
                "the session does not say in which precision OpenVINO runs what is not quantized",
                f'set session = {{ {HINT} = "f32" }}, bf16 or f16.',
            )

    def build(
        self,
        recipe: Recipe,
        context: BuildContext,
        method: Calibrator,
        keep_float: frozenset[str],
    ) -> Files:
        """One ONNX file, or an IR of two."""
        if recipe.form == "float":
            return {CANONICAL: context.canonical}
        images, _ = context.calibrate(recipe.calibration_images)
        xml, weights = nncf_int8(
            context.canonical,
            images,
            recipe,
            method,
            keep_float=keep_float,
            trained=bool(context.trained),
        )
        return {f"models/{recipe.name}.xml": xml, f"models/{recipe.name}.bin": weights}

    def proxy(self, recipe: Recipe) -> Proxy:
        """Its CPU in FP32 in place of its GPU and NPU."""
        if recipe.session.get("DEVICE", "CPU") == "CPU":
            return super().proxy(recipe)
        precision = "int8" if recipe.precision == "int8" else "fp32"
        return Proxy(self.name, precision, {HINT: "f32"})

    def rounding(self, recipe: Recipe) -> Rounding:
        """By NNCF's preset; without one it takes "performance"."""
        return "asymmetric" if recipe.preset == "mixed" else "signed"

    def hints(self, recipe: Recipe) -> tuple[str, ...]:
        """What the processor computes by itself."""
        return ("f32", "bf16") if this_machine().bf16 else ("f32",)

    def hint(self, recipe: Recipe) -> str:
        """As the session states it."""
        return recipe.session.get(HINT, "")

    def with_hint(self, recipe: Recipe, hint: str) -> Recipe:
        """The recipe with another hint in its session."""
        return msgspec.structs.replace(recipe, session=recipe.session | {HINT: hint})

    def runs_fp16(self, recipe: Recipe) -> bool:
        """By precision or hint."""
        return super().runs_fp16(recipe) or self.hint(recipe) == "f16"


backend = OpenVino()
