"""OpenVINO on the CPU; its precision hint is always set, and read back after compiling."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from edgetl.engines.base import Description, Images, Logits, Options
from edgetl.errors import EngineError
from edgetl.machine import available_cores
from edgetl.spec import EngineName

name: EngineName = "openvino"
HINT = "INFERENCE_PRECISION_HINT"
SPELLINGS = {"f32": "f32", "float32": "f32", "bf16": "bf16", "bfloat16": "bf16", "f16": "f16"}


def missing(session: dict[str, str] | None = None) -> str | None:
    """Why OpenVINO cannot run here, or None."""
    if importlib.util.find_spec("openvino") is None:
        return "OpenVINO is not installed. Fix: pip install 'edgetl[openvino]'"
    return None


def version() -> str:
    """Version of the installed package, without its build hash."""
    return str(_openvino().__version__).split("-", 1)[0]


def _openvino() -> Any:
    from edgetl.telemetry import silence

    silence()
    import openvino

    return openvino


def open(files: tuple[bytes, ...], options: Options) -> OvSession:  # noqa: A001
    """Load an ONNX file, or an IR given as (xml, bin)."""
    return OvSession(files, options)


class OvSession:
    """One model, compiled for each batch size on first use (static shapes are faster)."""

    def __init__(self, files: tuple[bytes, ...], options: Options) -> None:
        self._ov = _openvino()
        if HINT not in options.session:
            raise EngineError(
                f"The OpenVINO candidate does not state its {HINT}.", fix="export the bundle again."
            )
        self._options = options
        self._threads = options.threads or available_cores()
        self._core = self._ov.Core()
        try:
            weights = self._ov.Tensor(np.frombuffer(files[1], np.uint8)) if len(files) > 1 else None
            self._model = (
                self._core.read_model(files[0], weights)
                if weights is not None
                else self._core.read_model(files[0])
            )
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO {version()} cannot read the model: {_line(error)}",
                fix="export the bundle again, or install a newer openvino.",
            ) from error
        self._requests: dict[int, Any] = {}
        self._compiled = self._compile(1)

    def _compile(self, batch: int) -> Any:
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self._threads,
            **self._options.session,
        }
        shape = list(self._model.input(0).get_partial_shape())
        try:
            self._model.reshape([batch, *(d.get_length() for d in shape[1:])])
            compiled = self._core.compile_model(self._model, "CPU", config)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO {version()} cannot compile the model: {_line(error)}",
                fix="choose another engine or precision.",
            ) from error
        used = self._hint(compiled)
        if used != options_hint(self._options):
            raise EngineError(
                f"OpenVINO runs in {used} although {options_hint(self._options)} was asked for.",
                fix="choose another precision; this processor does not offer that one.",
            )
        self._requests[batch] = compiled.create_infer_request()
        return compiled

    def _hint(self, compiled: Any) -> str:
        value = compiled.get_property(HINT)
        text = value.get_type_name() if hasattr(value, "get_type_name") else str(value)
        return SPELLINGS.get(text, text)

    def run(self, images: Images, out: Logits | None = None) -> Logits:
        """Logits float32 `(N, classes)`."""
        if self._compiled is None:
            raise EngineError("The session is closed.", fix="load the bundle again.")
        batch = len(images)
        try:
            if batch not in self._requests:
                self._compile(batch)
            request = self._requests[batch]
            request.infer([np.ascontiguousarray(images)], share_inputs=True)
            logits: Logits = request.get_output_tensor(0).data
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO failed on images of shape {images.shape}: {_line(error)}",
                fix="pass uint8 images of the size that the bundle states.",
            ) from error
        if out is None:
            return logits.copy()
        out[...] = logits
        return out

    def describe(self) -> Description:
        """What the compiled model reports of itself."""
        compiled = self._compiled
        return Description(
            engine=name,
            version=version(),
            provider=",".join(compiled.get_property("EXECUTION_DEVICES")),
            precision=self._options.precision,
            threads=int(compiled.get_property("INFERENCE_NUM_THREADS")),
        )

    def close(self) -> None:
        """Free the model."""
        self._requests.clear()
        self._compiled = None


def options_hint(options: Options) -> str:
    """The precision hint that was asked for, in one spelling."""
    value = options.session[HINT]
    return SPELLINGS.get(value, value)


def _line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
