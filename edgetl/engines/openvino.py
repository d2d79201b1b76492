"""OpenVINO on the CPU, or on an Intel GPU or NPU; its precision hint is always set and read back.

Nothing falls back: a device that is not here, or that does something else than asked, is an error.
The GPU and NPU branches are written against OpenVINO's documentation and were never executed on
such a device; only their refusals were.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import threading
from typing import Any

import numpy as np

from edgetl.engines.base import (
    Description,
    Images,
    Missing,
    Options,
    Outputs,
    Recent,
    Setting,
    accepted,
    check_settings,
    imported,
    still_open,
)
from edgetl.engines.onnx_wire import check_sealed
from edgetl.engines.ov_run import Compiled
from edgetl.errors import EngineError, EngineMissingError, StorageError
from edgetl.files import cache_folder
from edgetl.machine import available_cores, this_machine

name = "openvino"
DEVICE = "DEVICE"  # session option of edgetl's own: where the model runs
HINT = "INFERENCE_PRECISION_HINT"
THREADS = "INFERENCE_NUM_THREADS"
PINNING = "ENABLE_CPU_PINNING"
SETTABLE = {
    DEVICE: Setting(r"CPU|GPU(\.[0-9]{1,2})?|NPU", "CPU, GPU, GPU.1 or NPU"),
    HINT: Setting("f32|bf16|f16", "f32, bf16 or f16"),
}
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}  # int8 is in the file; its hint is free
builder = None
DRIVERS = {
    "GPU": "Intel's compute driver for its GPUs (apt packages intel-opencl-icd and "
    "ocl-icd-libopencl1) and join group render, which may open /dev/dri",
    "NPU": "Intel's NPU driver (packages intel-fw-npu, intel-level-zero-npu and "
    "intel-driver-compiler-npu of github.com/intel/linux-npu-driver, and level-zero) and join "
    "group render, which may open /dev/accel",
}


def missing(session: dict[str, str] | None = None) -> Missing | None:
    """Why OpenVINO, or a candidate with this device or precision hint, cannot run here, or None."""
    if importlib.util.find_spec("openvino") is None:
        return Missing("OpenVINO is not installed.", "pip install 'edgetl[openvino]'")
    device = (session or {}).get(DEVICE, "CPU")
    if device != "CPU":
        return _absent(device)
    here = this_machine()  # its features are unknown outside Linux
    if (session or {}).get(HINT) == "bf16" and here.features and not here.bf16:
        return Missing("This processor has no BF16 arithmetic.", "choose another precision")
    return None


def _absent(device: str) -> Missing | None:
    """Why a device other than the CPU is not to be had here, or None."""
    try:
        seen = devices()
    except EngineMissingError as error:
        return Missing(error.message, error.fix)
    if any(_same(device, one) for one in seen):
        return None
    kind = device.partition(".")[0]
    return Missing(
        f"OpenVINO sees no {device} here, only {', '.join(seen)}.",
        f"choose another candidate; or, if this machine has one, install {DRIVERS[kind]}",
    )


@functools.lru_cache(maxsize=1)
def devices() -> tuple[str, ...]:
    """The devices that OpenVINO sees, by its own names, such as `("CPU", "GPU.0", "GPU.1")`."""
    return tuple(_core().available_devices)


def _same(asked: str, used: str) -> bool:
    """Whether a device that OpenVINO names is the one asked for: GPU is short for GPU.0."""
    return asked.removesuffix(".0") == used.removesuffix(".0") or (
        asked == "NPU" and used.startswith("NPU.")
    )


def version() -> str:
    """Version of the installed package, without its build hash."""
    return str(_openvino().__version__).split("-", 1)[0]


def _openvino() -> Any:
    from edgetl.telemetry import silence

    silence()
    return imported("OpenVINO", name)


def _core() -> Any:
    """The one Core of this process.

    Each Core moves the signal stack of the thread, and a stack that went with an earlier Core lets
    Python's handler of Ctrl-C crash (seen with OpenVINO 2026.4).
    """
    with _STARTING:  # lru_cache alone would let two threads make one each
        return _started()


_STARTING = threading.RLock()


@functools.lru_cache(maxsize=1)
def _started() -> Any:
    return _openvino().Core()


def open(files: tuple[bytes, ...], options: Options) -> OvSession:  # noqa: A001
    """Load an ONNX file, or an IR given as (xml, bin)."""
    return OvSession(files, options)


class OvSession:
    """One model, compiled for a batch size on first use (static shapes are faster).

    Threads that run it at once each have a request of their own; OpenVINO lets them take turns on
    the cores.
    """

    def __init__(self, files: tuple[bytes, ...], options: Options) -> None:
        check_settings(name, SETTABLE, options.session)
        self._ov = _openvino()
        self._device = options.session.get(DEVICE, "CPU")
        if self._device != "CPU" and (reason := _absent(self._device)):
            raise EngineMissingError(reason.message, fix=reason.fix)
        self._hint = _checked_hint(options)
        self._options = options
        if files[0][:1] != b"<":  # XML is an IR, which can name no file
            check_sealed(files[0])
        try:
            self._core = _core()
            blobs = [self._ov.Tensor(np.frombuffer(data, np.uint8)) for data in files[1:]]
            self._model = self._core.read_model(files[0], *blobs)
            _, *sides = self._model.input(0).get_partial_shape()
            self._wanted = tuple(side.get_length() for side in sides)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO {version()} cannot read the model: {_line(error)}",
                fix="export the bundle again, or install a newer openvino.",
            ) from error
        quantized = any(op.get_type_name() == "FakeQuantize" for op in self._model.get_ops())
        if quantized != (options.precision == "int8"):
            raise EngineError(
                f"OpenVINO cannot run this model in {options.precision}: the file is "
                f"{'quantized' if quantized else 'not quantized'}.",
                fix="choose another precision, or export the bundle again.",
            )
        self._lock = threading.RLock()  # of what follows; not held while a model runs
        self._sizes: Recent[Compiled] = Recent()
        self._first: Compiled | None = self._compiled(1)

    def _compiled(self, batch: int) -> Compiled:
        """The model for a batch size, compiled now if it is not kept."""
        with self._lock:
            kept = self._sizes.get(batch)
            if kept is None:
                kept = Compiled(self._compile(batch))
                self._sizes.put(batch, kept)
            return kept

    def _compile(self, batch: int) -> Any:
        try:
            config = properties(self._core, self._device, self._options)
            model = self._model.clone()
            model.reshape([batch, *self._wanted])
            compiled = self._core.compile_model(model, self._device, config)
            used = compiled.get_property("EXECUTION_DEVICES")
            offered = HINT in compiled.get_property("SUPPORTED_PROPERTIES")
            value = compiled.get_property(HINT) if offered else self._hint
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO {version()} cannot compile the model: {_line(error)}",
                fix="choose another engine or precision.",
            ) from error
        if not used or not all(_same(self._device, one) for one in used):
            raise EngineError(
                f"OpenVINO runs on {', '.join(used) or 'nothing'} although {self._device} was "
                "asked for.",
                fix="choose a candidate for another device.",
            )
        real = value.get_type_name() if hasattr(value, "get_type_name") else str(value)
        if real != self._hint:
            raise EngineError(
                f"OpenVINO runs in {real} although {self._hint} was asked for.",
                fix="choose another precision; this processor does not offer that one.",
            )
        return compiled

    def run(self, images: Images) -> Outputs:
        """Every output, float32 `(N, …)`."""
        still_open(self._first)
        block = accepted(images, self._wanted)
        compiled = self._compiled(len(block))
        try:
            request = compiled.request()
            # Copying 150 KiB takes 4 µs; handing over the caller's memory takes OpenVINO 35 to 65.
            np.copyto(request.images, block)
            request.infer()
            outputs = request.outputs()
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO failed on images of shape {images.shape}: {_line(error)}",
                fix="free memory, or pass fewer images at once.",
            ) from error
        compiled.idle.append(request)
        return outputs

    def outputs(self) -> dict[str, tuple[int, ...]]:
        """As the model compiled for one image states them."""
        first = still_open(self._first)
        both = zip(first.names, first.model.outputs, strict=True)
        return {name: tuple(output.shape)[1:] for name, output in both}

    def describe(self) -> Description:
        """What the compiled model reports of itself; 1 thread where no CPU computes."""
        first = still_open(self._first)
        on_cpu = self._device == "CPU"
        return Description(
            engine=name,
            version=version(),
            provider=",".join(first.model.get_property("EXECUTION_DEVICES")),
            precision=self._options.precision,
            threads=int(first.model.get_property(THREADS)) if on_cpu else 1,
        )

    def close(self) -> None:
        """Free the model."""
        with self._lock:
            self._sizes.clear()
            self._first = None


def properties(core: Any, device: str, options: Options) -> dict[str, Any]:
    """What a model is compiled with on a device: only what the device itself says it has.

    EngineError when it has no precision hint, unless it always computes as the hint says.
    """
    offered = core.get_property(device, "SUPPORTED_PROPERTIES")
    settable = {key for key, kind in offered.items() if kind == "RW"}
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        config[THREADS] = options.threads or available_cores()
        if PINNING in settable:  # threads of two processes would be pinned to the same cores
            config[PINNING] = False
    elif folder := _blobs():
        config["CACHE_DIR"] = folder  # compiling for a GPU or NPU takes seconds to minutes
    hint = options.session[HINT]
    if HINT in settable:
        config[HINT] = hint
    elif (device, hint) != ("NPU", "f16"):  # only some NPU compilers take what is always so
        raise EngineError(
            f"OpenVINO {version()} cannot compile the model: its {device} has no option {HINT}.",
            fix="choose another candidate, or install a newer openvino.",
        )
    return config


def _blobs() -> str:
    """Folder of compiled models, which only its owner may open; "" where it cannot be had."""
    with contextlib.suppress(OSError, StorageError):
        folder = cache_folder() / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)  # refused where it is another's, who might have planted a model there
        return str(folder)
    return ""


def _checked_hint(options: Options) -> str:
    """The precision hint asked for; EngineError when there is none or it contradicts itself."""
    hint = options.session.get(HINT, "")
    if not hint:
        raise EngineError(
            f"The OpenVINO candidate does not state its {HINT}.", fix="export the bundle again."
        )
    if HINTS.get(options.precision, hint) != hint:
        raise EngineError(
            f"The OpenVINO candidate is {options.precision}, but its {HINT} is {hint}.",
            fix="export the bundle again.",
        )
    return hint


def _line(error: Exception) -> str:
    """The last line of OpenVINO's words: the ones before say where in its source they arose."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
