"""The engine: the interpreter of ONNX in NumPy that comes with the package `onnx`."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import numpy as np

from edgetl.engines.base import (
    Description,
    Images,
    Missing,
    Options,
    Outputs,
    Setting,
    accepted,
    check_settings,
    first_line,
    still_open,
)
from edgetl.engines.onnx_wire import check_sealed
from edgetl.errors import EngineError

name = "refonnx"
builder = None  # nothing is compiled on the device
BATCH = "batch"  # an option of its own: whether several images are run at once or in turn
SETTABLE = {BATCH: Setting("whole|split", "whole or split")}


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

        try:
            proto = onnx.load_model_from_string(model)
            self._evaluator = ReferenceEvaluator(proto)
        except Exception as error:  # protobuf's and the evaluator's share no base class
            raise EngineError(
                f"onnx {version()} cannot load the model: {first_line(error)}",
                fix="export the bundle again.",
            ) from error
        self._split = options.session.get(BATCH) == "split"
        self._precision, self._open = options.precision, True
        sides = {
            value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)[1:]
            for value in (*proto.graph.input, *proto.graph.output)
        }
        self._wanted = sides.pop("images")
        self._outputs = sides

    def run(self, images: Images) -> Outputs:
        """Every output, float32 `(N, …)`."""
        still_open(self._open or None)
        block = accepted(images, self._wanted)
        parts = np.split(block, len(block)) if self._split else [block]
        found = [self._evaluator.run(list(self._outputs), {"images": part}) for part in parts]
        rows = (np.concatenate(of) for of in zip(*found, strict=True))
        return dict(zip(self._outputs, rows, strict=True))

    def outputs(self) -> dict[str, tuple[int, ...]]:
        """As the file states them."""
        return self._outputs

    def describe(self) -> Description:
        """NumPy on one core."""
        still_open(self._open or None)
        return Description(
            engine=name, version=version(), provider="NumPy", precision=self._precision, threads=1
        )

    def close(self) -> None:
        """Further runs are errors."""
        self._open = False
