"""The engine: the interpreter of ONNX in NumPy that comes with the package `onnx`."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from edgetl.engines.base import (
    Description,
    Images,
    Missing,
    Options,
    Outputs,
    Setting,
    accepted,
    check_settings,
    closed,
)
from edgetl.engines.onnx_wire import check_sealed

name = "refonnx"
SETTABLE = {"kernels": Setting("plain|optimized", "plain or optimized")}


def missing(session: dict[str, str] | None = None) -> Missing | None:
    """It needs onnx."""
    if importlib.util.find_spec("onnx") is None:
        return Missing("The package onnx is not installed.", "pip install onnx")
    return None


def version() -> str:
    """That of onnx."""
    return importlib.metadata.version("onnx")


def open(files: tuple[bytes, ...], options: Options) -> Reference:  # noqa: A001
    """Load an ONNX file given as bytes; what it may set and hold is checked before."""
    check_settings(name, SETTABLE, options.session)
    check_sealed(files[0])
    return Reference(files[0], options)


class Reference:
    """One loaded model; an evaluator keeps nothing between runs, so any thread may run it."""

    def __init__(self, model: bytes, options: Options) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        proto = onnx.load_model_from_string(model)
        self._kernels = options.session.get("kernels", "optimized")
        self._evaluator = ReferenceEvaluator(proto, optimized=self._kernels == "optimized")
        self._precision, self._open = options.precision, True
        sides = {
            value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)[1:]
            for value in (*proto.graph.input, *proto.graph.output)
        }
        self._wanted = sides.pop("images")
        self._outputs = sides

    def run(self, images: Images) -> Outputs:
        """Every output, float32 `(N, …)`."""
        if not self._open:
            raise closed()
        found = self._evaluator.run(list(self._outputs), {"images": accepted(images, self._wanted)})
        return dict(zip(self._outputs, found, strict=True))

    def outputs(self) -> dict[str, tuple[int, ...]]:
        """As the file states them."""
        return self._outputs

    def describe(self) -> Description:
        """NumPy on one core."""
        if not self._open:
            raise closed()
        kernels = f"NumPy, {self._kernels} kernels"
        return Description(
            engine=name, version=version(), provider=kernels, precision=self._precision, threads=1
        )

    def close(self) -> None:
        """Further runs are errors."""
        self._open = False
