"""ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from edgetl.engines.base import Description, Images, Logits, Options
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
    import onnxruntime

    return str(onnxruntime.__version__)


def open(files: tuple[bytes, ...], options: Options) -> OrtSession:  # noqa: A001
    """Load an ONNX file given as bytes."""
    return OrtSession(files[0], options)


class OrtSession:
    """One loaded ONNX model."""

    def __init__(self, model: bytes, options: Options) -> None:
        import onnxruntime

        config = onnxruntime.SessionOptions()
        self._threads = options.threads or available_cores()
        config.intra_op_num_threads = self._threads
        config.inter_op_num_threads = 1
        config.log_severity_level = 3
        for key, value in options.session.items():
            config.add_session_config_entry(key, value)
        try:
            self._session: Any = onnxruntime.InferenceSession(model, config, providers=[PROVIDER])
        except Exception as error:  # its exceptions share no public base class
            raise EngineError(
                f"ONNX Runtime {version()} cannot load the model: {_line(error)}",
                fix="export the bundle again, or install a newer onnxruntime.",
            ) from error
        self._precision = options.precision
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._input, self._output = inputs[0].name, outputs[0].name

    def run(self, images: Images, out: Logits | None = None) -> Logits:
        """Logits float32 `(N, classes)`."""
        if self._session is None:
            raise EngineError("The session is closed.", fix="load the bundle again.")
        try:
            logits: Logits = self._session.run(
                [self._output], {self._input: np.ascontiguousarray(images)}
            )[0]
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime failed on images of shape {images.shape}: {_line(error)}",
                fix="pass uint8 images of the size that the bundle states.",
            ) from error
        if out is None:
            return logits
        out[...] = logits
        return out

    def describe(self) -> Description:
        """What the session reports of itself."""
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


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
