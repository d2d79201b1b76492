"""TensorRT 8.5 to 11 on an NVIDIA GPU or DLA; engines are built here once and kept in the cache.

Every name that is used of TensorRT was checked against the real packages of 8.5.2 and 8.6.0, up to
the point where they ask for a GPU. Nothing was executed on a GPU so far: see the README for what
was executed and what was only checked by rule.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import threading
import time
from typing import Any, NamedTuple

from edgetl.engines.base import (
    Ahead,
    Builder,
    Description,
    Images,
    Missing,
    Options,
    Outputs,
    Recent,
    accepted,
    check_settings,
    imported,
    still_open,
)
from edgetl.engines.onnx_wire import check_sealed
from edgetl.engines.tensorrt import build as trt_build
from edgetl.engines.tensorrt import cuda
from edgetl.engines.tensorrt.build import STRONG_FROM, dla_refusal, numbers, settings
from edgetl.engines.tensorrt.cache import Held, Parts, PlanCache, l4t_release
from edgetl.engines.tensorrt.log import log_of, runtime_of
from edgetl.engines.tensorrt.run import Loaded
from edgetl.errors import EngineError, StorageError
from edgetl.files import sha256_bytes

name = "tensorrt"
SETTABLE = trt_build.SETTABLE
LOG = logging.getLogger("edgetl")


def missing(session: dict[str, str] | None = None) -> Missing | None:
    """Why TensorRT cannot run here, or a candidate with these options cannot, or None."""
    if importlib.util.find_spec("tensorrt") is None:
        return Missing(
            "TensorRT's Python binding is not installed.",
            "on a Jetson it comes with JetPack (sudo apt-get install python3-libnvinfer, and a "
            "virtual environment made with --system-site-packages)",
        )
    if cuda.runtime() is None:
        return Missing("The CUDA runtime (libcudart) is not installed.", "install it, or JetPack")
    if reason := cuda.silence():
        return Missing(
            f"No CUDA device answers here ({reason}).",
            "run this on the machine that has the GPU",
        )
    given = session or {}
    if refusal := mistyped(given.get("typing", "")):
        return refusal
    core = given.get("dla", "")
    return dla_refusal(_tensorrt(), int(core)) if core.isdecimal() else None


def mistyped(typing: str) -> Missing | None:
    """Why this version of TensorRT does not run a candidate of that typing, or None."""
    strong = numbers(version()) >= STRONG_FROM
    if typing == "strong" and not strong:
        return Missing(
            f"TensorRT {version()} cannot be strongly typed.", "use the weakly typed candidate"
        )
    if typing == "weak" and strong:
        return Missing(
            f"TensorRT {version()} wants strong typing.", "use the strongly typed candidate"
        )
    return None


def version() -> str:
    """Version of the installed package."""
    return str(_tensorrt().__version__)


@functools.lru_cache(maxsize=1)
def _tensorrt() -> Any:
    return imported("TensorRT's Python binding", name)


def open(files: tuple[bytes, ...], options: Options) -> TrtSession:  # noqa: A001
    """Build the engine of an ONNX file, or take it from the cache, and load it."""
    return TrtSession(files[0], options)


def prepare(files: tuple[bytes, ...], options: Options, batch: int) -> Ahead:
    """Put the engine for one batch size into the cache; StorageError when it cannot be kept."""
    made = _Maker(files[0], options).engine(batch, must_keep=True)  # loaded, to see that it loads
    held = made.held
    assert held is not None
    held.close()
    return Ahead(
        cached=made.cached,
        build_s=round(held.sidecar.build_s, 1),
        size_mib=round(held.sidecar.plan_bytes / 2**20, 2),
        placement=held.sidecar.placement,
    )


def pending(files: tuple[bytes, ...], options: Options, batch: int) -> str | None:
    """What is about to be built for this batch size, for a progress line; None when it is there.

    Takes no GPU memory.
    """
    maker = _Maker(files[0], options)
    held = maker.cache.take(maker.parts(batch), quiet=True)
    if held is None:
        return maker.announcement()
    held.close()
    return None


builder = Builder(prepare, pending)


class _Made(NamedTuple):
    """A loaded engine, its place in the cache if it has one, and where its layers run."""

    engine: Any
    held: Held | None
    placement: str
    cached: bool


class _Maker:
    """Engines of one ONNX file on this machine, from the cache or built."""

    def __init__(self, model: bytes, options: Options) -> None:
        check_settings(name, SETTABLE, options.session)
        check_sealed(model)  # both before TensorRT is touched
        self.trt, self._model = _tensorrt(), model
        self.settings = settings(options, version())
        self.cache = PlanCache()
        self._gpu, self._capability = cuda.device_name(), cuda.compute_capability()

    @functools.cached_property
    def _runtime(self) -> Any:
        return runtime_of(self.trt, self.settings.dla)

    def parts(self, batch: int) -> Parts:
        """What the engine of a batch size depends on."""
        return Parts(
            artifact=sha256_bytes(self._model),
            tensorrt=version(),
            cuda=cuda.runtime_version(),
            l4t=l4t_release(),
            gpu=self._gpu,
            compute_capability=self._capability,
            precision=self.settings.precision,
            typing=self.settings.typing,
            batch=batch,
            dla=self.settings.dla,
            options={"external_tactics": self.settings.external_tactics},
        )

    def announcement(self) -> str:
        """Such as "building trt-int8-weak for Orin sm_87, TensorRT 10.3, …"."""
        return (
            f"building {self.settings.label} for {self._gpu} "
            f"sm_{self._capability.replace('.', '')}, "
            f"TensorRT {'.'.join(map(str, numbers(version())))}, minutes on a small board"
        )

    def engine(self, batch: int, *, must_keep: bool = False) -> _Made:
        """The engine of a batch size, loaded; StorageError if it must be kept and cannot be."""
        parts = self.parts(batch)
        if found := self._cached(parts):
            return found
        with self.cache.building():
            by_another = self._cached(parts, quiet=True)  # a process that we waited for
            return by_another or self._built(parts, must_keep=must_keep)

    def _cached(self, parts: Parts, *, quiet: bool = False) -> _Made | None:
        held = self.cache.take(parts, quiet=quiet)
        if held is None:
            return None
        engine = self._runtime.deserialize_cuda_engine(held.data)
        if engine is None:
            said = log_of(self.trt).taken()
            held.close()
            LOG.warning("TensorRT does not load its cached engine (%s): building it again", said)
            self.cache.forget(parts)
            return None
        return _Made(engine, held, held.sidecar.placement, cached=True)

    def _built(self, parts: Parts, *, must_keep: bool) -> _Made:
        LOG.warning("%s", self.announcement())
        path, timings = self.cache.timings(parts)
        begin = time.perf_counter_ns()
        plan = trt_build.build(self.trt, self._model, self.settings, parts.batch, timings)
        build_s = (time.perf_counter_ns() - begin) / 1e9
        engine = self._runtime.deserialize_cuda_engine(plan.data)
        if engine is None:
            said = log_of(self.trt).taken()
            raise EngineError(
                f"TensorRT {version()} cannot load the engine that it built: {said}.",
                fix="free GPU memory and try again.",
            )
        try:
            held: Held | None = self.cache.keep(
                parts, plan.data, placement=plan.placement, build_s=build_s
            )
            self.cache.keep_timings(path, plan.timings)
        except StorageError as error:
            if must_keep:
                raise
            LOG.warning("the engine is not kept and will be built again next time: %s", error)
            held = None
        return _Made(engine, held, plan.placement, cached=False)


class TrtSession:
    """One model; an engine a batch size, built on first use. Threads take turns."""

    def __init__(self, model: bytes, options: Options) -> None:
        self._precision = options.precision
        self._lock = threading.Lock()  # an engine's buffers and stream serve one run at a time
        self._maker: _Maker | None = _Maker(model, options)
        self._sizes: Recent[Loaded] = Recent()
        self._first = self._load(self._maker, 1)

    def _load(self, maker: _Maker, batch: int) -> Loaded:
        with contextlib.ExitStack() as stack:
            made = maker.engine(batch)
            if made.held is not None:
                stack.callback(made.held.close)
            loaded = Loaded(
                maker.trt,
                made.engine,
                batch=batch,
                graph=maker.settings.graph,
                placement=made.placement,
            )
            loaded.on_close(stack.pop_all().close)
        dropped = self._sizes.put(batch, loaded)
        if dropped is not None:
            dropped.close()
        return loaded

    def run(self, images: Images) -> Outputs:
        """Every output, float32 `(N, …)`."""
        with self._lock:
            maker = still_open(self._maker)
            block = accepted(images, self._first.input_shape[1:])
            loaded = self._sizes.get(len(block)) or self._load(maker, len(block))
            # They lie in the engine's own buffers, which the next run overwrites.
            return {name: values.copy() for name, values in loaded.run(block).items()}

    def outputs(self) -> dict[str, tuple[int, ...]]:
        """As the engine for one image has them."""
        return self._first.output_shapes

    def describe(self) -> Description:
        """The GPU in use, what runs on a DLA, and whether a CUDA graph is launched."""
        still_open(self._maker)
        return Description(
            engine=name,
            version=version(),
            provider=self._first.provider,
            precision=self._precision,
            threads=1,
        )

    def close(self) -> None:
        """Free engines and buffers, when no run is under way."""
        with self._lock:
            for loaded in self._sizes.clear():
                loaded.close()
            self._maker = None
