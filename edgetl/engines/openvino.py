"""OpenVINO on the CPU; its precision hint is always set, and read back after compiling."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from edgetl.engines.base import (
    Description,
    Images,
    Logits,
    Options,
    accepted,
    closed,
    delivered,
    unloadable,
)
from edgetl.errors import EngineError
from edgetl.machine import available_cores, this_machine
from edgetl.spec import EngineName

name: EngineName = "openvino"
HINT = "INFERENCE_PRECISION_HINT"
SPELLINGS = {"f32": "f32", "float32": "f32", "bf16": "bf16", "bfloat16": "bf16", "f16": "f16"}
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}  # int8 is in the file; its hint is free


def missing(session: dict[str, str] | None = None) -> str | None:
    """Why OpenVINO, or a candidate with this precision hint, cannot run here, or None."""
    if importlib.util.find_spec("openvino") is None:
        return "OpenVINO is not installed. Fix: pip install 'edgetl[openvino]'"
    here = this_machine()  # its features are unknown outside Linux
    if _spelled((session or {}).get(HINT, "")) == "bf16" and here.features and not here.bf16:
        return "This processor has no BF16 arithmetic. Fix: choose another precision"
    return None


def version() -> str:
    """Version of the installed package, without its build hash."""
    return str(_openvino().__version__).split("-", 1)[0]


def _openvino() -> Any:
    from edgetl.telemetry import silence

    silence()
    try:
        import openvino
    except ImportError as error:
        raise unloadable("OpenVINO", name, error) from error
    return openvino


def open(files: tuple[bytes, ...], options: Options) -> OvSession:  # noqa: A001
    """Load an ONNX file, or an IR given as (xml, bin)."""
    return OvSession(files, options)


class OvSession:
    """One model, compiled for each batch size on first use (static shapes are faster)."""

    def __init__(self, files: tuple[bytes, ...], options: Options) -> None:
        self._ov = _openvino()
        self._hint = _checked_hint(options)
        self._options = options
        self._threads = options.threads or available_cores()
        try:
            self._core = self._ov.Core()
            blobs = [self._ov.Tensor(np.frombuffer(data, np.uint8)) for data in files[1:]]
            self._model = self._core.read_model(files[0], *blobs)
            _, *sides = self._model.input(0).get_partial_shape()
            self._wanted = tuple(side.get_length() for side in sides)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO {version()} cannot read the model: {_line(error)}",
                fix="export the bundle again, or install a newer openvino.",
            ) from error
        quantized = any(op.get_type_name() == "FakeQuantize" for op in self._model.get_ops())
        if quantized != (options.precision == "int8"):
            raise EngineError(
                f"OpenVINO cannot run this model in {options.precision}: the file is "
                f"{'quantized' if quantized else 'not quantized'}.",
                fix="choose another precision, or export the bundle again.",
            )
        self._requests: dict[int, Any] = {}
        self._compiled = self._compile(1)

    def _compile(self, batch: int) -> Any:
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self._threads,
            **self._options.session,
        }
        try:
            self._model.reshape([batch, *self._wanted])
            compiled = self._core.compile_model(self._model, "CPU", config)
            value = compiled.get_property(HINT)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO {version()} cannot compile the model: {_line(error)}",
                fix="choose another engine or precision.",
            ) from error
        used = _spelled(value.get_type_name() if hasattr(value, "get_type_name") else str(value))
        if used != self._hint:
            raise EngineError(
                f"OpenVINO runs in {used} although {self._hint} was asked for.",
                fix="choose another precision; this processor does not offer that one.",
            )
        self._requests[batch] = compiled.create_infer_request()
        return compiled

    def run(self, images: Images, out: Logits | None = None) -> Logits:
        """Logits float32 `(N, classes)`."""
        if self._compiled is None:
            raise closed()
        block = accepted(images, self._wanted)
        if len(block) not in self._requests:
            self._compile(len(block))
        request = self._requests[len(block)]
        try:
            request.infer([block], share_inputs=True)
            logits: Logits = request.get_output_tensor(0).data
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO failed on images of shape {images.shape}: {_line(error)}",
                fix="free memory, or pass fewer images at once.",
            ) from error
        # The tensor is the engine's own, and the next run overwrites it.
        return delivered(logits, np.empty_like(logits) if out is None else out)

    def describe(self) -> Description:
        """What the compiled model reports of itself."""
        if self._compiled is None:
            raise closed()
        return Description(
            engine=name,
            version=version(),
            provider=",".join(self._compiled.get_property("EXECUTION_DEVICES")),
            precision=self._options.precision,
            threads=int(self._compiled.get_property("INFERENCE_NUM_THREADS")),
        )

    def close(self) -> None:
        """Free the model."""
        self._requests.clear()
        self._compiled = None


def _checked_hint(options: Options) -> str:
    """The precision hint asked for; EngineError when there is none or it contradicts itself."""
    hint = _spelled(options.session.get(HINT, ""))
    if not hint:
        raise EngineError(
            f"The OpenVINO candidate does not state its {HINT}.", fix="export the bundle again."
        )
    if HINTS.get(options.precision, hint) != hint:
        raise EngineError(
            f"The OpenVINO candidate is {options.precision}, but its {HINT} is {hint}.",
            fix="export the bundle again.",
        )
    return hint


def _spelled(value: str) -> str:
    return SPELLINGS.get(value, value)


def _line(error: Exception) -> str:
    """The last line of OpenVINO's words: the ones before say where in its source they arose."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
