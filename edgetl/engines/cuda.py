"""The few calls of the CUDA runtime that TensorRT needs, by ctypes: no pycuda, no torch."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from typing import Any

from edgetl.errors import EngineError

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
MAJOR, MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, …Minor


@functools.lru_cache(maxsize=1)
def runtime() -> ctypes.CDLL | None:
    """The CUDA runtime library, or None when it is not here."""
    for name in (ctypes.util.find_library("cudart"), *LIBRARIES):
        try:
            if name:
                return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def call(function: str, *arguments: Any) -> None:
    """Call a function of the CUDA runtime; EngineError with CUDA's own words when it fails."""
    library = runtime()
    if library is None:
        raise EngineError("libcudart was not found.", fix="install the CUDA runtime.")
    code = getattr(library, function)(*arguments)
    if code:
        library.cudaGetErrorString.restype = ctypes.c_char_p
        text = library.cudaGetErrorString(code)
        raise EngineError(
            f"{function} failed: {text.decode() if text else code}.",
            fix="free GPU memory and check `nvidia-smi` or `tegrastats`.",
        )


def device_count() -> int:
    """CUDA devices that can be used; 0 when there is no driver."""
    library, count = runtime(), ctypes.c_int(0)
    if library is None or library.cudaGetDeviceCount(ctypes.byref(count)):
        return 0
    return count.value


def compute_capability() -> str:
    """Compute capability of device 0, such as "8.7"."""
    parts = []
    for attribute in (MAJOR, MINOR):
        value = ctypes.c_int(0)
        call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, 0)
        parts.append(str(value.value))
    return ".".join(parts)


class Stream:
    """An asynchronous queue of device work."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p()
        call("cudaStreamCreate", ctypes.byref(self.handle))

    def wait(self) -> None:
        """Block until everything queued is done."""
        call("cudaStreamSynchronize", self.handle)

    def close(self) -> None:
        """Destroy the queue."""
        call("cudaStreamDestroy", self.handle)


class Buffer:
    """Device memory with a pinned host mirror of the same size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.device, self.host = ctypes.c_void_p(), ctypes.c_void_p()
        call("cudaMalloc", ctypes.byref(self.device), ctypes.c_size_t(size))
        call("cudaMallocHost", ctypes.byref(self.host), ctypes.c_size_t(size))

    def copy(self, direction: int, stream: Stream) -> None:
        """Queue a copy between the mirror and the device."""
        target, source = self.device, self.host
        if direction == DEVICE_TO_HOST:
            target, source = source, target
        call(
            "cudaMemcpyAsync",
            target,
            source,
            ctypes.c_size_t(self.size),
            ctypes.c_int(direction),
            stream.handle,
        )

    def close(self) -> None:
        """Free both sides."""
        call("cudaFree", self.device)
        call("cudaFreeHost", self.host)
