"""The few calls of the CUDA runtime that TensorRT needs, by ctypes: no pycuda, no torch.

Written against the documented C interface of CUDA 11 to 13. Finding the library and every refusal
without a GPU are tested; what needs a device (memory, streams, graphs) was not executed so far.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgetl.errors import EngineError

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
CAPTURE_THREAD_LOCAL = 1  # other threads' calls do not disturb a capture
MAJOR, MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, …Minor
PROPERTIES = 8192  # more than cudaDeviceProp of any version; the name comes first in all of them
NAME = 256
LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
SYSTEM = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/*/lib", "/usr/lib/*-linux-gnu")
PACKAGES = ("nvidia/cuda_runtime/lib", "nvidia/cu1*/lib")  # of pip: CUDA 11 and 12; from 13 on


@functools.lru_cache(maxsize=1)
def runtime() -> ctypes.CDLL | None:
    """The CUDA runtime library, or None when it is not here.

    Of several, the first that finds a device: one that is newer than the driver finds none.
    """
    first = None
    for name in libraries():
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if not library.cudaGetDeviceCount(ctypes.byref(ctypes.c_int(0))):
            return library
        first = first or library
    return first


def libraries() -> Iterator[str]:
    """Names and paths under which the CUDA runtime may be found."""
    yield from LIBRARIES
    for folder in SYSTEM:
        yield from _below(Path("/"), folder.lstrip("/"))
    for entry in sys.path:
        for folder in PACKAGES:
            yield from _below(Path(entry), folder)


def _below(root: Path, folder: str) -> Iterator[str]:
    with contextlib.suppress(OSError):  # an unreadable folder
        yield from (
            str(path) for path in sorted(root.glob(f"{folder}/libcudart.so*"), reverse=True)
        )


def call(function: str, *arguments: Any) -> None:
    """Call a function of the CUDA runtime; EngineError with CUDA's own words when it fails."""
    library = runtime()
    if library is None:
        raise EngineError("libcudart was not found.", fix="install the CUDA runtime.")
    try:
        code = getattr(library, function)(*arguments)
    except AttributeError as error:
        raise EngineError(
            f"This CUDA runtime has no {function}.", fix="install CUDA 11.4 or newer."
        ) from error
    if code:
        library.cudaGetLastError()  # else the next call would report the same error again
        raise EngineError(
            f"{function} failed: {words(library, code)}.",
            fix="free GPU memory and check `nvidia-smi` or `tegrastats`.",
        )


def words(library: Any, code: int) -> str:
    """CUDA's words for an error code."""
    library.cudaGetErrorString.restype = ctypes.c_char_p
    text = library.cudaGetErrorString(ctypes.c_int(code))
    return text.decode(errors="replace") if text else f"error {code}"


def silence() -> str:
    """Why no device answers, in CUDA's words; empty when one does."""
    library, count = runtime(), ctypes.c_int(0)
    if library is None:
        return "libcudart was not found"
    code = library.cudaGetDeviceCount(ctypes.byref(count))
    return words(library, code) if code else "" if count.value else "no device"


def compute_capability() -> str:
    """Compute capability of device 0, such as "8.7"."""
    parts = (_number("cudaDeviceGetAttribute", which, 0) for which in (MAJOR, MINOR))
    return ".".join(map(str, parts))


def device_name() -> str:
    """Name of device 0, such as "Orin"."""
    properties = ctypes.create_string_buffer(PROPERTIES)
    call("cudaGetDeviceProperties", properties, 0)
    return properties.raw[:NAME].split(b"\0", 1)[0].decode(errors="replace")


def runtime_version() -> str:
    """Version of the CUDA runtime, such as "12.6"."""
    value = _number("cudaRuntimeGetVersion")
    return f"{value // 1000}.{value % 1000 // 10}"


def _number(function: str, *arguments: Any) -> int:
    """The integer that a function of the CUDA runtime writes to its first argument."""
    value = ctypes.c_int(0)
    call(function, ctypes.byref(value), *arguments)
    return value.value


def free_memory() -> int:
    """Bytes of device memory that are free."""
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
    return free.value


class Stream:
    """An asynchronous queue of device work."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p()
        call("cudaStreamCreate", ctypes.byref(self.handle))

    def wait(self) -> None:
        """Block until everything queued is done."""
        call("cudaStreamSynchronize", self.handle)

    def close(self) -> None:
        """Destroy the queue; harmless when done twice."""
        _release("cudaStreamDestroy", self.handle)


class Buffer:
    """Device memory with a pinned host mirror of the same size in bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.device, self.host = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            call("cudaMalloc", ctypes.byref(self.device), ctypes.c_size_t(size))
            call("cudaMallocHost", ctypes.byref(self.host), ctypes.c_size_t(size))
        except BaseException:
            self.close()
            raise

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
        """Free both sides; harmless when done twice."""
        _release("cudaFree", self.device)
        _release("cudaFreeHost", self.host)


class CudaGraph:
    """Queued work, recorded once by `record` and launched as one."""

    def __init__(self, stream: Stream, record: Callable[[], None]) -> None:
        self._stream, self._launchable = stream, ctypes.c_void_p()
        graph = ctypes.c_void_p()
        call("cudaStreamBeginCapture", stream.handle, ctypes.c_int(CAPTURE_THREAD_LOCAL))
        try:
            try:
                record()
            finally:  # whatever happened: a stream in capture is of no use for anything else
                call("cudaStreamEndCapture", stream.handle, ctypes.byref(graph))
            _instantiate(self._launchable, graph)
        except BaseException:
            self.close()
            raise
        finally:
            _release("cudaGraphDestroy", graph)

    def launch(self) -> None:
        """Queue the recorded work."""
        call("cudaGraphLaunch", self._launchable, self._stream.handle)

    def close(self) -> None:
        """Free the recording; harmless when done twice."""
        _release("cudaGraphExecDestroy", self._launchable)


def _instantiate(launchable: ctypes.c_void_p, graph: ctypes.c_void_p) -> None:
    """Make a graph launchable: the function of this name takes other arguments from CUDA 12 on."""
    target = ctypes.byref(launchable)
    if hasattr(runtime(), "cudaGraphInstantiateWithFlags"):  # from 11.4 on, the same ever since
        call("cudaGraphInstantiateWithFlags", target, graph, ctypes.c_ulonglong(0))
    elif _number("cudaRuntimeGetVersion") < 12000:
        nothing = ctypes.c_void_p()
        call("cudaGraphInstantiate", target, graph, nothing, nothing, ctypes.c_size_t(0))
    else:
        call("cudaGraphInstantiate", target, graph, ctypes.c_ulonglong(0))


def _release(function: str, handle: ctypes.c_void_p) -> None:
    """Free what a handle stands for, and forget it; what fails here would only hide a cause."""
    if handle.value:
        with contextlib.suppress(EngineError):
            call(function, handle)
        handle.value = None
