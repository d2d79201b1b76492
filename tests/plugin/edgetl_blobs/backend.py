"""The engine's backend: the canonical ONNX as it is, or with Q/DQ."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx.version_converter import convert_version

from edgetl.exporter.backends.base import CANONICAL, Backend, Files, Proxy
from edgetl.exporter.context import BuildContext
from edgetl.exporter.onnx.checks import check_onnx
from edgetl.exporter.quantize.calibration import Rounding
from edgetl.exporter.quantize.ort import ort_int8
from edgetl.spec import Calibrator, Recipe


class RefOnnx(Backend):
    """Forms: float, ref-qdq."""

    name = "refonnx"
    forms = {"float": ("fp32",), "ref-qdq": ("int8",)}
    integers = frozenset({"ref-qdq"})

    def contradictions(self, recipe: Recipe) -> Iterator[tuple[str, str]]:
        """The quantizer has to be told the type of activations."""
        if (recipe.form in self.integers) != bool(recipe.activation):
            yield f"form '{recipe.form}' with activation '{recipe.activation}'", "see the form."

    def build(
        self, recipe: Recipe, context: BuildContext, method: Calibrator, keep_float: frozenset[str]
    ) -> Files:
        """One ONNX file; the interpreter knows Q and DQ from opset 19 on."""
        if recipe.form not in self.integers:
            return {CANONICAL: context.canonical}
        ranges = context.ranges_of(recipe)[method]
        data = ort_int8(context.canonical, ranges, recipe, keep_float=keep_float)
        newer = convert_version(onnx.load_model_from_string(data), 19).SerializeToString()
        check_onnx(newer, max_opset=recipe.max_opset)
        return {f"models/{recipe.name}.onnx": newer}

    def proxy(self, recipe: Recipe) -> Proxy:
        """The engine runs wherever an export does, so that it scores its own files."""
        return Proxy(self.name, recipe.precision, recipe.session)

    def rounding(self, recipe: Recipe) -> Rounding:
        """By the type of activations."""
        return "symmetric" if recipe.activation == "qint8" else "asymmetric"


backend = RefOnnx()
