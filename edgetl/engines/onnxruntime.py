"""ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib.util
from typing import Any

from edgetl.engines.base import (
    Description,
    Images,
    Logits,
    Options,
    accepted,
    closed,
    delivered,
    first_line,
    unloadable,
)
from edgetl.errors import EngineError
from edgetl.machine import available_cores
from edgetl.spec import EngineName

name: EngineName = "onnxruntime"
PROVIDER = "CPUExecutionProvider"


def missing(session: dict[str, str] | None = None) -> str | None:
    """Why ONNX Runtime cannot run here, or None."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "ONNX Runtime is not installed. Fix: pip install 'edgetl[onnxruntime]'"
    return None


def version() -> str:
    """Version of the installed package."""
    return str(_onnxruntime().__version__)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise unloadable("ONNX Runtime", name, error) from error
    return onnxruntime


def open(files: tuple[bytes, ...], options: Options) -> OrtSession:  # noqa: A001
    """Load an ONNX file given as bytes."""
    return OrtSession(files[0], options)


class OrtSession:
    """One loaded ONNX model."""

    def __init__(self, model: bytes, options: Options) -> None:
        onnxruntime = _onnxruntime()
        _check_precision(model, options.precision)
        config = onnxruntime.SessionOptions()
        self._threads = options.threads or available_cores()
        config.intra_op_num_threads = self._threads
        config.inter_op_num_threads = 1
        config.log_severity_level = 3
        try:
            for key, value in options.session.items():
                config.add_session_config_entry(key, value)
            self._session: Any = onnxruntime.InferenceSession(model, config, providers=[PROVIDER])
        except Exception as error:  # its exceptions share no public base class
            raise EngineError(
                f"ONNX Runtime {version()} cannot load the model: {first_line(error)}",
                fix="export the bundle again, or install a newer onnxruntime.",
            ) from error
        self._precision = options.precision
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._input, self._output = inputs[0].name, outputs[0].name
        self._wanted = tuple(inputs[0].shape[1:])

    def run(self, images: Images, out: Logits | None = None) -> Logits:
        """Logits float32 `(N, classes)`."""
        if self._session is None:
            raise closed()
        block = accepted(images, self._wanted)
        try:
            logits: Logits = self._session.run([self._output], {self._input: block})[0]
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime failed on images of shape {images.shape}: {first_line(error)}",
                fix="free memory, or pass fewer images at once.",
            ) from error
        return delivered(logits, out)

    def describe(self) -> Description:
        """What the session reports of itself."""
        if self._session is None:
            raise closed()
        return Description(
            engine=name,
            version=version(),
            provider=self._session.get_providers()[0],
            precision=self._precision,
            threads=self._threads,
        )

    def close(self) -> None:
        """Free the model."""
        self._session = None


def _check_precision(model: bytes, precision: str) -> None:
    """EngineError when the file is of another precision: ONNX Runtime runs what the file says."""
    quantized = b"QuantizeLinear" in model  # operator names are plain text in the file
    if precision == "bf16" or quantized != (precision == "int8"):
        raise EngineError(
            f"ONNX Runtime cannot run this model in {precision}: the file is "
            f"{'quantized' if quantized else 'not quantized'}.",
            fix="choose another precision, or export the bundle again.",
        )
