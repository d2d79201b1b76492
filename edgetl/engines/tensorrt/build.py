"""From an ONNX file to a TensorRT engine: typing, precision, DLA, timings, the builder's words.

What a version offers is asked of the version itself where that is possible. Every name used here
was checked against the real packages of TensorRT 8.5.2 and 8.6.0 (benchmarks/tensorrt_api.py), and
against the written API of 10 and 11. Nothing here was executed on a GPU or DLA so far.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Literal, cast

from edgetl.engines.base import Missing, Options, Setting, check_settings
from edgetl.engines.tensorrt import cuda
from edgetl.engines.tensorrt.log import log_of, runtime_of
from edgetl.errors import EngineError
from edgetl.spec import Record

LOG = logging.getLogger("edgetl")
Typing = Literal["weak", "strong"]
Switch = Literal["on", "off"]
GraphUse = Literal["auto", "on", "off"]
SETTABLE = {
    "typing": Setting("weak|strong", "weak or strong"),
    "dla": Setting("[0-9]{1,2}", "the number of a DLA core, such as 0"),
    "external_tactics": Setting("on|off", "on or off"),
    "graph": Setting("auto|on|off", "auto, on or off"),
}
STRONG_FROM = (10, 12)
FLAGS = {"fp32": (), "fp16": ("FP16",), "bf16": ("BF16",), "int8": ("INT8", "FP16")}
DLA_PRECISIONS = ("fp16", "int8")
LEAST_WORKSPACE, MOST_WORKSPACE = 1 << 24, 1 << 30  # bytes
EXTERNAL = ("CUBLAS", "CUBLAS_LT", "CUDNN")
CONSTANT = "(CONSTANT)"  # weights, which TensorRT names among what it moves to the GPU
NO_EXTERNAL = "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"


class BuildSettings(Record, frozen=True, kw_only=True):
    """A candidate's session options, checked."""

    precision: str
    typing: Typing
    dla: int | None = None  # core number
    external_tactics: Switch = "on"  # off: without cuBLAS and cuDNN
    graph: GraphUse = "auto"

    @property
    def label(self) -> str:
        """Such as trt-int8-weak, trt-fp16-dla-weak, or trt-fp16-dla1-weak for another core."""
        place = "" if self.dla is None else f"dla{self.dla or ''}-"
        return f"trt-{self.precision}-{place}{self.typing}"


class EnginePlan(Record, frozen=True, kw_only=True):
    """A serialized engine; `placement` says how much of it runs on a DLA, if any."""

    data: bytes
    placement: str
    timings: bytes  # the timing cache after this build


class Placed(Record, frozen=True, kw_only=True):
    """What was asked of a DLA core; `fallen` holds what it cannot run: kinds by layer name."""

    core: int
    layers: int
    fallen: dict[str, str]

    def report(self, switched: list[str]) -> str:
        """Log every layer that the GPU runs instead; a summary such as "DLA core 0, 51 of 53 …".

        `switched` are the builder's own warnings: it moves more layers than it foretells, such as
        when a network falls into too many pieces.
        """
        for name, kind in self.fallen.items():
            LOG.warning("DLA core %d: %s (%s) runs on the GPU instead", self.core, name, kind)
        known = [re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w.])") for name in self.fallen]
        more = [
            line
            for line in dict.fromkeys(switched)
            if CONSTANT not in line and not any(name.search(line) for name in known)
        ]
        for line in more:
            LOG.warning("DLA core %d: %s", self.core, line)
        left = max(0, self.layers - len(self.fallen) - len(more))
        return f"DLA core {self.core}, {left} of {self.layers} layers"


def numbers(version: str) -> tuple[int, ...]:
    """Major and minor number of a version."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def settings(options: Options, version: str) -> BuildSettings:
    """Check session options for a version of TensorRT; EngineError names what is not known."""
    given = options.session
    check_settings("tensorrt", SETTABLE, given)
    if options.precision not in FLAGS:
        raise EngineError(
            f"TensorRT's precision cannot be '{options.precision}'.",
            fix=f"choose {', '.join(FLAGS)}.",
        )
    usual = "strong" if numbers(version) >= STRONG_FROM else "weak"
    made = BuildSettings(
        precision=options.precision,
        typing=cast(Typing, given.get("typing", usual)),
        dla=int(given["dla"]) if "dla" in given else None,
        external_tactics=cast(Switch, given.get("external_tactics", "on")),
        graph=cast(GraphUse, given.get("graph", "auto")),
    )
    if made.dla is not None and made.precision not in DLA_PRECISIONS:
        raise EngineError(
            f"A DLA does not run {made.precision}.", fix="choose fp16 or int8, or leave dla away."
        )
    return made


def build(
    trt: Any, model: bytes, wanted: BuildSettings, batch: int, timings: bytes = b""
) -> EnginePlan:
    """Build the engine of an ONNX file for one batch size; EngineError with TensorRT's words."""
    log = log_of(trt)
    log.taken()
    try:
        builder = trt.Builder(log)
    except TypeError as error:
        raise _failed(trt, "cannot start its builder", log.taken()) from error
    network = builder.create_network(_creation_flags(trt, wanted))
    parser = trt.OnnxParser(network, log)  # must outlive the build: it owns the weights
    if not parser.parse(model):
        raise _failed(trt, "cannot read the model", _parser_words(parser) or log.taken())
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace(cuda.free_memory()))
    _set_precision(trt, builder, config, wanted)
    if wanted.external_tactics == "off":
        _without_external_tactics(trt, config)
    _fix_batch(builder, network, config, batch)
    placed = None if wanted.dla is None else place_on_dla(trt, network, config, wanted.dla)
    _set_timings(trt, config, timings)
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise _failed(trt, f"could not build {wanted.label}", log.taken())
    cache = config.get_timing_cache()
    return EnginePlan(
        data=bytes(data),
        placement="" if placed is None else placed.report(log.switched),
        timings=b"" if cache is None else bytes(cache.serialize()),
    )


def _failed(trt: Any, what: str, said: str) -> EngineError:
    return EngineError(
        f"TensorRT {trt.__version__} {what}: {said}.",
        fix="export again for this device, free memory, or choose another candidate.",
    )


def _creation_flags(trt: Any, wanted: BuildSettings) -> int:
    creation = trt.NetworkDefinitionCreationFlag
    flags = 0
    if hasattr(creation, "EXPLICIT_BATCH"):  # the only way from TensorRT 10 on
        flags |= 1 << int(creation.EXPLICIT_BATCH)
    if wanted.typing == "strong" and hasattr(creation, "STRONGLY_TYPED"):
        flags |= 1 << int(creation.STRONGLY_TYPED)
    return flags


def _parser_words(parser: Any) -> str:
    found = [parser.get_error(index) for index in range(min(parser.num_errors, 3))]
    return "; ".join(f"node {flaw.node()}: {' '.join(flaw.desc().split())}" for flaw in found)


def workspace(free: int) -> int:
    """Bytes that the builder may use for one layer: a quarter of what is free, within limits."""
    return max(LEAST_WORKSPACE, min(MOST_WORKSPACE, free // 4))


def _set_precision(trt: Any, builder: Any, config: Any, wanted: BuildSettings) -> None:
    """Allow the precision by flags; in a strongly typed network the file alone decides."""
    if wanted.typing == "strong":
        return
    if wanted.precision == "int8" and not getattr(builder, "platform_has_fast_int8", True):
        raise EngineError("This GPU has no fast INT8.", fix="choose the fp16 candidate.")
    for flag in FLAGS[wanted.precision]:
        if not hasattr(trt.BuilderFlag, flag):
            raise EngineError(
                f"TensorRT {trt.__version__} has no weakly typed {flag}.",
                fix="use the strongly typed candidate.",
            )
        config.set_flag(getattr(trt.BuilderFlag, flag))


def _without_external_tactics(trt: Any, config: Any) -> None:
    """Do without cuBLAS and cuDNN, for machines that lack them; TensorRT 11 never uses them."""
    sources = config.get_tactic_sources()
    for name in EXTERNAL:
        if hasattr(trt.TacticSource, name):
            sources &= ~(1 << int(getattr(trt.TacticSource, name)))
    config.set_tactic_sources(sources)
    preview = getattr(trt, "PreviewFeature", None)
    if hasattr(preview, NO_EXTERNAL):  # 8.5 to 9: the core library has its own switch
        config.set_preview_feature(getattr(preview, NO_EXTERNAL), True)


def _fix_batch(builder: Any, network: Any, config: Any, batch: int) -> None:
    image = network.get_input(0)
    shape = (batch, *tuple(image.shape)[1:])
    profile = builder.create_optimization_profile()
    profile.set_shape(image.name, shape, shape, shape)
    config.add_optimization_profile(profile)


def _set_timings(trt: Any, config: Any, timings: bytes) -> None:
    """Start from an earlier timing cache, or from an empty one when TensorRT refuses it."""
    if hasattr(trt.BuilderFlag, "EDITABLE_TIMING_CACHE"):
        config.set_flag(trt.BuilderFlag.EDITABLE_TIMING_CACHE)
    for blob in (timings, b"") if timings else (b"",):
        cache = config.create_timing_cache(blob)
        if cache is not None and config.set_timing_cache(cache, False):
            return


# --- the deep learning accelerator (DLA) of some Jetsons; only its refusals were executed ---------


def dla_refusal(trt: Any, core: int) -> Missing | None:
    """Why a DLA core cannot be used here, or None."""
    fix = (
        "use a candidate without DLA; DLA needs a module that has one (Xavier, Orin NX, AGX "
        "Orin) and TensorRT up to 10.7 or from 11.4.1"
    )
    if not hasattr(trt.DeviceType, "DLA"):
        return Missing(f"TensorRT {trt.__version__} has no DLA.", fix)
    cores = int(runtime_of(trt).num_DLA_cores)
    if core < cores:
        return None
    if not cores:
        return Missing(f"TensorRT {trt.__version__} finds no DLA core here.", fix)
    return Missing(
        f"There is no DLA core {core} here, only 0 to {cores - 1}.", "choose one of these"
    )


def place_on_dla(trt: Any, network: Any, config: Any, core: int) -> Placed:
    """Ask for the DLA where a layer can run on it; EngineError when none can."""
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    layers = [layer for layer in layers if layer.type != trt.LayerType.CONSTANT]
    fallen = [layer for layer in layers if not config.can_run_on_DLA(layer)]
    if len(fallen) == len(layers):
        raise EngineError(
            "No layer of this model can run on the DLA.", fix="use a candidate without DLA."
        )
    kinds = {layer.name: str(layer.type).rpartition(".")[2] for layer in fallen}
    return Placed(core=core, layers=len(layers), fallen=kinds)
