"""ONNX Runtime: the canonical ONNX as it is, or with Q/DQ by its own quantizer."""

from __future__ import annotations

from collections.abc import Iterator

from edgetl.exporter.backends.base import CANONICAL, Backend, Files
from edgetl.exporter.context import BuildContext
from edgetl.exporter.quantize.calibration import Rounding
from edgetl.exporter.quantize.ort import ort_int8
from edgetl.spec import Calibrator, Recipe

QDQ = "ort-qdq"


class OnnxRuntime(Backend):
    """Forms: float, ort-qdq."""

    name = "onnxruntime"
    forms = {"float": ("fp32",), QDQ: ("int8",)}
    integers = frozenset({QDQ})

    def contradictions(self, recipe: Recipe) -> Iterator[tuple[str, str]]:
        """Its quantizer has to be told the type of activations."""
        if (recipe.form == QDQ) != bool(recipe.activation):
            yield (
                f"form '{recipe.form}' with activation '{recipe.activation}'",
                "set activation to quint8 or qint8 with form ort-qdq, and with no other.",
            )

    def build(
        self,
        recipe: Recipe,
        context: BuildContext,
        method: Calibrator,
        keep_float: frozenset[str],
    ) -> Files:
        """One ONNX file."""
        if recipe.form == "float":
            return {CANONICAL: context.canonical}
        ranges = context.ranges_of(recipe)[method]
        data = ort_int8(context.canonical, ranges, recipe, keep_float=keep_float)
        return {f"models/{recipe.name}.onnx": data}

    def rounding(self, recipe: Recipe) -> Rounding:
        """By the type of activations."""
        return "symmetric" if recipe.activation == "qint8" else "asymmetric"


backend = OnnxRuntime()
