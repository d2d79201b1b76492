"""TensorRT 8.5 to 11 on an NVIDIA GPU; engines are built here once and kept in the cache.

Written against the API of TensorRT's Python packages and not yet executed on a GPU: see the
README for what was executed and what was only checked by rule.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np

from edgetl.engines import cuda
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
from edgetl.files import cache_folder, write_bytes
from edgetl.spec import EngineName

name: EngineName = "tensorrt"
TYPING = "typing"  # session option: "strong" from 10.12, "weak" before
STRONG_FROM = (10, 12)
WORKSPACE = 1 << 28


def missing(session: dict[str, str] | None = None) -> str | None:
    """Why TensorRT cannot run here, or a candidate of this typing cannot, or None."""
    if importlib.util.find_spec("tensorrt") is None:
        return (
            "TensorRT's Python binding is not installed. Fix: on a Jetson it comes with JetPack "
            "(sudo apt-get install python3-libnvinfer, and a virtual environment made with "
            "--system-site-packages)"
        )
    if cuda.runtime() is None:
        return "The CUDA runtime (libcudart) is not installed. Fix: install it, or JetPack"
    if not cuda.device_count():
        return "No CUDA device answers here. Fix: run this on the machine that has the GPU"
    return mistyped((session or {}).get(TYPING, ""))


def mistyped(typing: str) -> str | None:
    """Why this version of TensorRT does not run a candidate of that typing, or None."""
    strong = _numbers(version()) >= STRONG_FROM
    if typing == "strong" and not strong:
        return f"TensorRT {version()} cannot be strongly typed. Fix: use the weakly typed candidate"
    if typing == "weak" and strong:
        return f"TensorRT {version()} wants strong typing. Fix: use the strongly typed candidate"
    return None


def version() -> str:
    """Version of the installed package."""
    return str(_tensorrt().__version__)


def _tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise unloadable("TensorRT's Python binding", name, error) from error
    return tensorrt


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def open(files: tuple[bytes, ...], options: Options) -> TrtSession:  # noqa: A001
    """Build the engine of an ONNX file, or take it from the cache, and load it."""
    return TrtSession(files[0], options)


class TrtSession:
    """One model; an engine a batch size, built on first use."""

    def __init__(self, model: bytes, options: Options) -> None:
        tensorrt = _tensorrt()
        self._trt: Any = tensorrt
        self._logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        self._runtime = tensorrt.Runtime(self._logger)
        self._model, self._options = model, options
        self._loaded: dict[int, _Loaded] = {}
        self._open = True
        self._wanted = self._load(1).input_shape[1:]

    def _load(self, batch: int) -> _Loaded:
        path = self._cache_path(batch)
        plan = path.read_bytes() if path.is_file() else b""
        engine = self._runtime.deserialize_cuda_engine(plan) if plan else None
        if engine is None:
            plan = build(self._trt, self._logger, self._model, self._options, batch)
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise EngineError(
                    f"TensorRT {version()} cannot load the engine that it built.",
                    fix="free GPU memory and try again.",
                )
            write_bytes(path, plan)
            path.chmod(0o600)
        self._loaded[batch] = _Loaded(self._trt, engine)
        return self._loaded[batch]

    def _cache_path(self, batch: int) -> Path:
        folder = cache_folder() / "tensorrt"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = "|".join(
            [
                hashlib.sha256(self._model).hexdigest(),
                version(),
                cuda.compute_capability(),
                self._options.precision,
                repr(sorted(self._options.session.items())),
                str(batch),
            ]
        )
        return folder / f"{hashlib.sha256(key.encode()).hexdigest()}.plan"

    def run(self, images: Images, out: Logits | None = None) -> Logits:
        """Logits float32 `(N, classes)`."""
        if not self._open:
            raise closed()
        block = accepted(images, self._wanted)
        loaded = self._loaded.get(len(block)) or self._load(len(block))
        logits = loaded.run(block)
        # They lie in the engine's own buffer, which the next run overwrites.
        return delivered(logits, np.empty_like(logits) if out is None else out)

    def describe(self) -> Description:
        """The GPU in use."""
        if not self._open:
            raise closed()
        return Description(
            engine=name,
            version=version(),
            provider=f"CUDA sm_{cuda.compute_capability().replace('.', '')}",
            precision=self._options.precision,
            threads=1,
        )

    def close(self) -> None:
        """Free engines and buffers."""
        for loaded in self._loaded.values():
            loaded.close()
        self._loaded.clear()
        self._open = False


class _Loaded:
    """An engine with its context, buffers and stream."""

    def __init__(self, trt: Any, engine: Any) -> None:
        self._engine = engine
        self._context = engine.create_execution_context()
        self._stream = cuda.Stream()
        self._buffers: list[cuda.Buffer] = []
        for index in range(engine.num_io_tensors):
            tensor = engine.get_tensor_name(index)
            shape = tuple(engine.get_tensor_shape(tensor))
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(tensor)))
            buffer = cuda.Buffer(math.prod(shape) * dtype.itemsize)
            self._context.set_tensor_address(tensor, buffer.device.value)
            self._buffers.append(buffer)
            if engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT:
                self._input, self.input_shape = buffer, shape
            else:
                self._output, self._output_shape = buffer, shape

    def run(self, images: Images) -> Logits:
        ctypes.memmove(self._input.host, images.ctypes.data, images.nbytes)
        self._input.copy(cuda.HOST_TO_DEVICE, self._stream)
        if not self._context.execute_async_v3(self._stream.handle.value):
            raise EngineError("TensorRT failed to run the engine.", fix="see its log above.")
        self._output.copy(cuda.DEVICE_TO_HOST, self._stream)
        self._stream.wait()
        assert self._output.host.value is not None
        kind = ctypes.c_float * math.prod(self._output_shape)
        return np.ctypeslib.as_array(kind.from_address(self._output.host.value)).reshape(
            self._output_shape
        )

    def close(self) -> None:
        for buffer in self._buffers:
            buffer.close()
        self._stream.close()


def build(trt: Any, logger: Any, model: bytes, options: Options, batch: int) -> bytes:
    """A serialized engine for one batch size; EngineError with the parser's words."""
    builder = trt.Builder(logger)
    flags = 0
    creation = trt.NetworkDefinitionCreationFlag
    if hasattr(creation, "EXPLICIT_BATCH"):
        flags |= 1 << int(creation.EXPLICIT_BATCH)
    strong = options.session.get(TYPING) == "strong"
    if strong:
        flags |= 1 << int(creation.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        said = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(
            f"TensorRT {trt.__version__} cannot read the model: {said}",
            fix="export again for this device.",
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    if not strong and options.precision == "fp16":
        config.set_flag(trt.BuilderFlag.FP16)
    image = network.get_input(0)
    shape = (batch, *tuple(image.shape)[1:])
    profile = builder.create_optimization_profile()
    profile.set_shape(image.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"TensorRT {trt.__version__} could not build the engine.", fix="see its log above."
        )
    return bytes(plan)
