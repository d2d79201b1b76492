"""Run a TensorRT engine: pinned buffers, one stream, and a CUDA graph where that is faster.

Not executed on a GPU so far.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edgetl.engines.base import Images, Outputs
from edgetl.engines.tensorrt import cuda
from edgetl.engines.tensorrt.build import GraphUse
from edgetl.engines.tensorrt.log import log_of
from edgetl.errors import EngineError

LOG = logging.getLogger("edgetl")
WARMUP, TRIALS = 3, 20


class Loaded:
    """An engine with its context, buffers and stream; of one batch size, for one thread."""

    def __init__(
        self, trt: Any, engine: Any, *, batch: int, graph: GraphUse, placement: str
    ) -> None:
        self._trt, self._engine = trt, engine
        with contextlib.ExitStack() as stack:
            stack.callback(self._forget)
            self._context: Any = engine.create_execution_context()
            if self._context is None:
                raise EngineError(
                    f"TensorRT cannot make room to run the engine: {log_of(trt).taken()}.",
                    fix="free GPU memory, or pass fewer images at once.",
                )
            self._stream = cuda.Stream()
            stack.callback(self._stream.close)
            self._bind(batch, stack)
            self._launch: Callable[[], None] = self._enqueue
            kind = self._settle(graph, stack)
            capability = cuda.compute_capability().replace(".", "")
            self.provider = ", ".join(
                part for part in (f"CUDA sm_{capability}", placement, kind) if part
            )
            self._open = stack.pop_all()

    def _forget(self) -> None:
        """Let go of TensorRT's objects, the context before its engine."""
        self._context = None
        self._engine = None

    def _bind(self, batch: int, stack: contextlib.ExitStack) -> None:
        """Buffers for the one input, uint8, and every output, float32."""
        source, targets = self._ends()
        self.input_shape = (batch, *tuple(self._engine.get_tensor_shape(source))[1:])
        if not self._context.set_input_shape(source, self.input_shape):
            raise EngineError(
                f"TensorRT refused images {self.input_shape}: {log_of(self._trt).taken()}.",
                fix="remove the cached engine and try again.",
            )
        self._input = self._buffer(source, math.prod(self.input_shape), stack)
        ctypes.memset(self._input.host, 0, self._input.size)
        self._buffers: list[cuda.Buffer] = []
        self._outputs: Outputs = {}
        for target in targets:
            shape = tuple(self._context.get_tensor_shape(target))
            buffer = self._buffer(target, 4 * math.prod(shape), stack)
            self._buffers.append(buffer)
            assert buffer.host.value is not None
            values = (ctypes.c_float * math.prod(shape)).from_address(buffer.host.value)
            self._outputs[target] = np.ctypeslib.as_array(values).reshape(shape)

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs of one image, by name."""
        return {name: values.shape[1:] for name, values in self._outputs.items()}

    def _buffer(self, tensor: str, size: int, stack: contextlib.ExitStack) -> cuda.Buffer:
        """A buffer that TensorRT uses for one tensor."""
        buffer = cuda.Buffer(size)
        stack.callback(buffer.close)
        if not self._context.set_tensor_address(tensor, buffer.device.value):
            raise EngineError(
                f"TensorRT refused the memory of {tensor}: {log_of(self._trt).taken()}.",
                fix="free GPU memory and try again.",
            )
        return buffer

    def _ends(self) -> tuple[str, list[str]]:
        """Names of the one input, uint8, and of the outputs, float32."""
        # By type, since TensorRT 8.5's own table of NumPy types fails with NumPy from 1.24 on.
        types = self._trt.DataType
        ends: tuple[list[str], list[str]] = ([], [])
        tensors = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        found = [str(self._engine.get_tensor_dtype(tensor)) for tensor in tensors]
        for tensor in tensors:
            reads = self._engine.get_tensor_mode(tensor) == self._trt.TensorIOMode.INPUT
            if self._engine.get_tensor_dtype(tensor) == (types.UINT8 if reads else types.FLOAT):
                ends[0 if reads else 1].append(tensor)
        if len(ends[0]) != 1 or not ends[1] or len(ends[0]) + len(ends[1]) < len(tensors):
            raise EngineError(
                f"The engine has tensors {', '.join(tensors)} of {', '.join(found)}; edgetl runs "
                "engines of one uint8 input and float32 outputs.",
                fix="export the bundle again.",
            )
        return ends[0][0], ends[1]

    def _settle(self, use: GraphUse, stack: contextlib.ExitStack) -> str:
        """Warm up, and launch by a CUDA graph if asked to, or if it works and is faster."""
        for _ in range(WARMUP):  # TensorRT wants a plain run before a capture
            self._once(self._enqueue)
        if use == "off":
            return ""
        try:
            graph = cuda.CudaGraph(self._stream, self._enqueue)
        except EngineError as error:
            if use == "on":
                raise EngineError(
                    f"This engine cannot be captured as a CUDA graph: {error.message}",
                    fix="leave the session option graph at auto.",
                ) from error
            LOG.debug("no CUDA graph: %s", error)
            return ""
        stack.callback(graph.close)
        if use == "auto" and not self._is_faster(graph.launch, self._enqueue):
            return ""
        self._launch = graph.launch
        return "CUDA graph"

    def _is_faster(self, one: Callable[[], None], other: Callable[[], None]) -> bool:
        """Whether one way to launch is faster than another, by medians of runs in turns."""
        samples: tuple[list[int], list[int]] = ([], [])
        for _ in range(TRIALS):
            for launch, kept in zip((one, other), samples, strict=True):
                begin = time.perf_counter_ns()
                self._once(launch)
                kept.append(time.perf_counter_ns() - begin)
        return statistics.median(samples[0]) < statistics.median(samples[1])

    def _enqueue(self) -> None:
        self._input.copy(cuda.HOST_TO_DEVICE, self._stream)
        if not self._context.execute_async_v3(self._stream.handle.value):
            raise EngineError(
                f"TensorRT failed to run the engine: {log_of(self._trt).taken()}.",
                fix="free GPU memory and load the bundle again.",
            )
        for buffer in self._buffers:
            buffer.copy(cuda.DEVICE_TO_HOST, self._stream)

    def _once(self, launch: Callable[[], None]) -> None:
        launch()
        self._stream.wait()

    def run(self, images: Images) -> Outputs:
        """Every output of images of exactly this batch size, in buffers that are reused."""
        ctypes.memmove(self._input.host, images.ctypes.data, images.nbytes)
        self._once(self._launch)
        return self._outputs

    def on_close(self, done: Callable[[], None]) -> None:
        """Call `done` when this is closed, after everything else."""
        before = self._open
        self._open = contextlib.ExitStack()
        self._open.callback(done)
        self._open.callback(before.close)

    def close(self) -> None:
        """Free everything; harmless when done twice."""
        self._open.close()
