"""TensorRT: ONNX for both ways of typing, with Q/DQ by its rules; scored here by ONNX Runtime.

Files are checked by rule; nothing was executed on a GPU so far.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import helper

from edgetl.errors import TraceError
from edgetl.exporter.backends.base import CANONICAL, Backend, Files, Proxy
from edgetl.exporter.context import BuildContext
from edgetl.exporter.onnx.checks import check_onnx, label, parse_onnx
from edgetl.exporter.onnx.fp16 import strong_fp16
from edgetl.exporter.onnx.passes import inferred_shapes
from edgetl.exporter.quantize.calibration import Rounding
from edgetl.exporter.tensorrt.qdq import trt_qdq
from edgetl.spec import Calibrator, Recipe

WEAK, STRONG = "trt-weak", "trt-strong"
QDQ_WEAK, QDQ_STRONG = "trt-qdq-weak", "trt-qdq-strong"


class TensorRt(Backend):
    """Forms: trt-weak, trt-strong, trt-qdq-weak, trt-qdq-strong."""

    name = "tensorrt"
    forms = {WEAK: ("fp16",), STRONG: ("fp16",), QDQ_WEAK: ("int8",), QDQ_STRONG: ("int8",)}
    integers = frozenset({QDQ_WEAK, QDQ_STRONG})
    rank = 0  # it runs on its own devices only and is best there, whatever other targets prefer

    def contradictions(self, recipe: Recipe) -> Iterator[tuple[str, str]]:
        """Form and session state the typing, and DLA reads no Q/DQ."""
        if recipe.activation:
            yield (
                f"form '{recipe.form}' with activation '{recipe.activation}'",
                "leave activation away.",
            )
        typing = "strong" if recipe.form in (STRONG, QDQ_STRONG) else "weak"
        if recipe.session.get("typing") != typing:
            yield f"form '{recipe.form}' is typed otherwise", f'set typing = "{typing}" in session.'
        if recipe.precision == "int8" and "dla" in recipe.session:
            yield "explicit Q/DQ does not run on DLA", "use an FP16 form for it."

    def build(
        self,
        recipe: Recipe,
        context: BuildContext,
        method: Calibrator,
        keep_float: frozenset[str],
    ) -> Files:
        """One ONNX file."""
        path, canonical = f"models/{recipe.name}.onnx", context.canonical
        if recipe.form in self.integers:
            data = trt_qdq(
                canonical,
                context.ranges_of(recipe)[method],
                strong=recipe.form == QDQ_STRONG,
                exclude=recipe.exclude,
                keep_float=keep_float,
            )
        else:
            dla = "dla" in recipe.session
            data = dla_friendly(canonical) if dla else canonical
            if recipe.form == WEAK:
                return {path if dla else CANONICAL: data}
            data = strong_fp16(data)
        check_onnx(data, max_opset=recipe.max_opset)
        return {path: data}

    def proxy(self, recipe: Recipe) -> Proxy:
        """ONNX Runtime; it computes Q and DQ as they stand, and FP16 in FP32 in part."""
        integers = recipe.form in self.integers
        return Proxy("onnxruntime", recipe.precision, {"qdq": "unfused"} if integers else {})

    def proxy_files(self, recipe: Recipe, files: Files) -> tuple[bytes, ...]:
        """Before 10.12 typing is weak: the file is FP32, and a builder flag makes it FP16.

        The proxy has no such flag, so it is given what the flag amounts to: FP16 throughout.
        """
        (data,) = files.values()
        return (strong_fp16(data) if recipe.form == WEAK else data,)

    def rounding(self, recipe: Recipe) -> Rounding:
        """Zero points are 0."""
        return "symmetric"

    def runs_fp16(self, recipe: Recipe) -> bool:
        """All of it, or what is not in integers."""
        return True


def dla_friendly(canonical: bytes) -> bytes:
    """The canonical ONNX as NVIDIA's deep learning accelerator (DLA) takes it whole.

    Each GlobalAveragePool becomes an AveragePool whose fixed kernel is the whole plane: TensorRT
    runs AveragePool on DLA, but not GlobalAveragePool. Nothing else changes, the result is
    numerically equal and still of any batch size. DLA pools windows of up to 8 x 8: a larger one
    falls back to the GPU, as do Flatten, HardSwish and HardSigmoid. Raises TraceError when a
    plane's size is not fixed.
    """
    proto = parse_onnx(canonical)
    shapes = inferred_shapes(proto)
    for node in proto.graph.node:
        if node.op_type != "GlobalAveragePool":
            continue
        kernel = shapes.get(node.input[0], [])[2:]
        if not kernel or 0 in kernel:
            raise TraceError(
                f"{label(node)} reads '{node.input[0]}', whose height and width are not fixed.",
                fix="give the network one image size.",
            )
        node.op_type = "AveragePool"
        node.attribute.append(helper.make_attribute("kernel_shape", kernel))
    return bytes(proto.SerializeToString(deterministic=True))


backend = TensorRt()
