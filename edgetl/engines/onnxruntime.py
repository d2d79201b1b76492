"""ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib.util
from typing import Any

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
    imported,
    still_open,
)
from edgetl.engines.onnx_wire import check_sealed
from edgetl.errors import EngineError
from edgetl.machine import available_cores, this_machine

name = "onnxruntime"
PROVIDER = "CPUExecutionProvider"
# Its own entries can name files to write and to read weights from: none of them may be set.
QDQ = "qdq"  # option of edgetl's own: Q and DQ are computed as they stand, as a proxy needs them
SETTABLE = {QDQ: Setting("unfused", "unfused")}
OWN = {
    "session.load_model_format": "ONNX",  # never guessed: its other format is not checked here
    # Since 1.21 it gives float weights between DQ and Q 8 bits, one scale for all channels: what a
    # recipe or the search keeps in floating point would not be (KL 1.0 for depthwise layers).
    "optimization.disable_specified_optimizers": "WeightBiasQuantization",
}
# Q and DQ are executed as they stand. Without this entry, float16 pairs are computed in integers
# and overflow (1.31: a MobileNetV2 agrees on no photo), and a Concat between them is refused.
UNFUSED = {"session.disable_quant_qdq": "1"}
# Without VNNI, products of unsigned and signed 8-bit numbers are added in pairs, in 16 bits that
# overflow. With this entry both are unsigned, which does not overflow and takes longer.
NO_OVERFLOW = {"session.x64quantprecision": "1"}

builder = None


def missing(session: dict[str, str] | None = None) -> Missing | None:
    """Why ONNX Runtime cannot run here, or None."""
    if importlib.util.find_spec("onnxruntime") is None:
        return Missing("ONNX Runtime is not installed.", "pip install 'edgetl[onnxruntime]'")
    return None


def version() -> str:
    """Version of the installed package."""
    return str(_onnxruntime().__version__)


def _onnxruntime() -> Any:
    return imported("ONNX Runtime", name)


def open(files: tuple[bytes, ...], options: Options) -> OrtSession:  # noqa: A001
    """Load an ONNX file given as bytes."""
    return OrtSession(files[0], options)


class OrtSession:
    """One loaded ONNX model; ONNX Runtime itself lets threads run it at once."""

    def __init__(self, model: bytes, options: Options) -> None:
        check_settings(name, SETTABLE, options.session)
        onnxruntime = _onnxruntime()
        check_sealed(model)
        _check_precision(model, options.precision)
        config = onnxruntime.SessionOptions()
        self._threads = options.threads or available_cores()
        config.intra_op_num_threads = self._threads
        config.inter_op_num_threads = 1
        config.log_severity_level = 3
        careful = NO_OVERFLOW if options.precision == "int8" and _overflows() else {}
        unfused = UNFUSED if QDQ in options.session else {}
        try:
            for key, value in (OWN | careful | unfused).items():
                config.add_session_config_entry(key, value)
            self._session: Any = onnxruntime.InferenceSession(model, config, providers=[PROVIDER])
        except Exception as error:  # its exceptions share no public base class
            raise EngineError(
                f"ONNX Runtime {version()} cannot load the model: {first_line(error)}",
                fix="export the bundle again, or install a newer onnxruntime.",
            ) from error
        self._provider = self._session.get_providers()[0]
        if careful:
            self._provider += ", INT8 for a CPU without VNNI"
        self._precision = options.precision
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._input = inputs[0].name
        self._outputs = {output.name: tuple(output.shape[1:]) for output in outputs}
        self._wanted = tuple(inputs[0].shape[1:])

    def run(self, images: Images) -> Outputs:
        """Every output, float32 `(N, …)`."""
        session = still_open(self._session)  # another thread may close it meanwhile
        block = accepted(images, self._wanted)
        try:
            found = session.run(list(self._outputs), {self._input: block})
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime failed on images of shape {images.shape}: {first_line(error)}",
                fix="free memory, or pass fewer images at once.",
            ) from error
        return dict(zip(self._outputs, found, strict=True))

    def outputs(self) -> dict[str, tuple[int, ...]]:
        """As the file states them."""
        return self._outputs

    def describe(self) -> Description:
        """What the session reports of itself."""
        still_open(self._session)
        return Description(
            engine=name,
            version=version(),
            provider=self._provider,
            precision=self._precision,
            threads=self._threads,
        )

    def close(self) -> None:
        """Free the model."""
        self._session = None


def _overflows() -> bool:
    """Whether this processor has no exact instruction for sums of 8-bit products."""
    return this_machine().arch == "x86_64" and not this_machine().vnni


def _check_precision(model: bytes, precision: str) -> None:
    """EngineError when the file is of another precision: ONNX Runtime runs what the file says."""
    quantized = b"QuantizeLinear" in model  # operator names are plain text in the file
    if precision == "bf16" or quantized != (precision == "int8"):
        raise EngineError(
            f"ONNX Runtime cannot run this model in {precision}: the file is "
            f"{'quantized' if quantized else 'not quantized'}.",
            fix="choose another precision, or export the bundle again.",
        )
