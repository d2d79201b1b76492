"""TensorRT's own words, and its runtime, which is the first to have any.

Run against the real packages of TensorRT 8.5.2 and 8.6.0, up to their refusal for want of a GPU.
"""

from __future__ import annotations

import collections
import functools
import logging
from typing import Any

from edgetl.engines.tensorrt import cuda
from edgetl.errors import EngineError

LOG = logging.getLogger("edgetl")
WARNING = 2  # of ILogger.Severity: 0 internal error, 1 error, 2 warning, 3 information, 4 verbose
# As TensorRT 7 to 8.6 say it: "Switching this layer's device type to GPU", "Switching to GPU for
# layer …" (too many pieces), "falling back to GPU".
TO_GPU = ("device type to GPU", "Switching to GPU", "falling back to GPU")


@functools.lru_cache(maxsize=1)
def log_of(trt: Any) -> Any:
    """The process's one logger: TensorRT keeps to the first that it is given.

    An ILogger with `taken() -> str`, its errors, else its warnings, since the last call, in one
    line; and `switched`, since that call, its warnings about layers that move from DLA to GPU.
    """

    class Log(trt.ILogger):  # type: ignore[misc]  # the base class is known only at run time
        """Keeps TensorRT's latest words, errors apart, and passes them on as debug messages."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: collections.deque[str] = collections.deque(maxlen=8)
            self.warnings: collections.deque[str] = collections.deque(maxlen=8)
            self.switched: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            level = int(severity)
            if level > WARNING:
                return
            line = " ".join(msg.split())
            (self.errors if level < WARNING else self.warnings).append(line)
            if any(words in line for words in TO_GPU):
                self.switched.append(line)
            LOG.debug("TensorRT: %s", line)

        def taken(self) -> str:
            said = list(self.errors or self.warnings)
            self.errors.clear()
            self.warnings.clear()
            self.switched = []
            return "; ".join(dict.fromkeys(said[-3:])).rstrip(".") or "it gave no reason"

    return Log()


def runtime_of(trt: Any, dla: int | None = None) -> Any:
    """TensorRT's runtime, which never runs host code that a plan brings along."""
    if reason := cuda.silence():  # TensorRT 8.6.0 would crash the process
        raise EngineError(
            f"No CUDA device answers here ({reason}).",
            fix="run this on the machine that has the GPU.",
        )
    log = log_of(trt)
    try:
        runtime = trt.Runtime(log)
    except TypeError as error:  # pybind's way to say that TensorRT gave none
        raise EngineError(
            f"TensorRT {trt.__version__} cannot start: {log.taken()}.",
            fix="check that `nvidia-smi` or `tegrastats` shows the GPU.",
        ) from error
    if dla is not None:
        runtime.DLA_core = dla
    return runtime
