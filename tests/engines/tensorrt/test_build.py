"""What is asked of TensorRT's builder, by version: a proxy with each version's names notes it.

The names themselves are checked against real packages by test_api.py. A real build needs a GPU:
tests/engines/test_tensorrt.py has one, and benchmarks/tensorrt_real.py four networks.
"""

from __future__ import annotations

import enum
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from edgetl.engines import Options
from edgetl.engines.tensorrt import build as trt_build
from edgetl.engines.tensorrt import cuda
from edgetl.engines.tensorrt.build import build, dla_refusal, settings, workspace
from edgetl.engines.tensorrt.log import log_of
from edgetl.errors import EngineError

NAMES = {  # of enumerations, as far as they differ between versions
    "8.5.2": ("FP16 INT8 GPU_FALLBACK", "EXPLICIT_BATCH", "CUBLAS CUBLAS_LT CUDNN EDGE JIT"),
    "10.3.0": (
        "FP16 INT8 BF16 GPU_FALLBACK EDITABLE_TIMING_CACHE",
        "EXPLICIT_BATCH STRONGLY_TYPED",
        "CUBLAS CUBLAS_LT CUDNN EDGE JIT",
    ),
    "10.13.3": (
        "FP16 INT8 BF16 GPU_FALLBACK EDITABLE_TIMING_CACHE",
        "EXPLICIT_BATCH STRONGLY_TYPED",
        "CUBLAS CUBLAS_LT CUDNN EDGE JIT",
    ),
    "11.4.1": ("GPU_FALLBACK EDITABLE_TIMING_CACHE", "STRONGLY_TYPED", "EDGE JIT"),
}


class Note(SimpleNamespace):
    """An object whose unknown methods note that they were called, and with what."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name.startswith("platform_"):
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, arguments))


class TensorRT:
    """The names of one version; `calls` notes what was asked of the builder's configuration."""

    def __init__(self, version: str, *, layers: tuple[bool, ...] = (), fails: str = "") -> None:
        flags, creation, sources = NAMES[version]
        self.__version__ = version
        self.BuilderFlag = enum.IntEnum("BuilderFlag", flags, start=0)
        self.NetworkDefinitionCreationFlag = enum.IntEnum("Creation", creation, start=0)
        self.TacticSource = enum.IntEnum("TacticSource", sources, start=0)
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.DeviceType = enum.IntEnum("DeviceType", "GPU DLA", start=0)
        self.LayerType = enum.Enum("LayerType", "CONSTANT CONVOLUTION")
        if version.startswith("8"):
            self.PreviewFeature = SimpleNamespace(**{trt_build.NO_EXTERNAL: "no external"})
        self.calls: list[tuple[str, Any]] = []
        self.layers, self.fails, self.cores = layers, fails, 2
        self.says: tuple[str, ...] = ()  # while it builds
        self.log: Any = None

    class ILogger:
        """The base of our logger."""

    def Builder(self, log: Any) -> Any:  # noqa: N802
        self.log = log
        if self.fails == "start":
            log.log(2, "CUDA initialization failure with error: 35.")
            raise TypeError("pybind11::init(): factory function returned nullptr")

        def serialized(network: Any, config: Any) -> bytes | None:
            for line in self.says:
                log.log(2, line)
            if self.fails == "build":
                log.log(1, "10: could not find\n   any implementation")
                return None
            return b"plan"

        return SimpleNamespace(
            create_network=lambda flags: self.note("create_network", flags) or self.network(),
            create_builder_config=self.config,
            create_optimization_profile=lambda: Note(calls=self.calls),
            build_serialized_network=serialized,
        )

    def note(self, name: str, value: Any) -> None:
        self.calls.append((name, value))

    def network(self) -> Any:
        kinds = [self.LayerType.CONSTANT, *[self.LayerType.CONVOLUTION] * len(self.layers)]
        layers = [
            SimpleNamespace(type=kind, name=f"layer{i}", fits=i > 0 and self.layers[i - 1])
            for i, kind in enumerate(kinds)
        ]
        image = SimpleNamespace(name="images", shape=(-1, 224, 224, 3))
        return SimpleNamespace(
            num_layers=len(layers), get_layer=layers.__getitem__, get_input=lambda _: image
        )

    def config(self) -> Any:
        def set_timing_cache(cache: Any, ignore: bool) -> bool:
            self.note("set_timing_cache", (cache, ignore))
            return cache != b"of another version"

        self.made = Note(
            calls=self.calls,
            can_run_on_DLA=lambda layer: layer.fits,
            get_tactic_sources=lambda: 0b11111,
            create_timing_cache=lambda blob: blob,
            set_timing_cache=set_timing_cache,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"timings"),
        )
        return self.made

    def OnnxParser(self, _network: Any, _log: Any) -> Any:  # noqa: N802
        flaw = SimpleNamespace(node=lambda: 7, desc=lambda: "no importer\nfor Foo")
        good = self.fails != "parse"
        return SimpleNamespace(parse=lambda _: good, num_errors=not good, get_error=lambda _: flaw)

    def Runtime(self, _log: Any) -> Any:  # noqa: N802
        return SimpleNamespace(num_DLA_cores=self.cores)

    def named(self, name: str) -> list[Any]:
        return [value for called, value in self.calls if called == name]

    def flags(self) -> set[str]:
        return {arguments[0].name for arguments in self.named("set_flag")}


@pytest.fixture(autouse=True)
def _a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "free_memory", lambda: 2**30)
    monkeypatch.setattr(cuda, "silence", lambda: "")


def build_for(trt: TensorRT, precision: str, timings: bytes = b"", **session: str) -> Any:
    wanted = settings(Options(precision=precision, session=session), trt.__version__)
    return build(trt, b"onnx", wanted, 4, timings)


@pytest.mark.parametrize(
    ("version", "precision", "typing", "flags", "creation"),
    [
        ("8.5.2", "fp16", "weak", {"FP16"}, {"EXPLICIT_BATCH"}),
        ("8.5.2", "int8", "weak", {"INT8", "FP16"}, {"EXPLICIT_BATCH"}),
        ("8.5.2", "fp32", "weak", set(), {"EXPLICIT_BATCH"}),
        ("10.3.0", "int8", "weak", {"INT8", "FP16"}, {"EXPLICIT_BATCH"}),
        ("10.13.3", "int8", "strong", set(), {"EXPLICIT_BATCH", "STRONGLY_TYPED"}),
        ("11.4.1", "fp16", "strong", set(), {"STRONGLY_TYPED"}),
        ("11.4.1", "int8", "strong", set(), {"STRONGLY_TYPED"}),
    ],
)
def test_precision_is_by_flags_or_by_types(
    version: str, precision: str, typing: str, flags: set[str], creation: set[str]
) -> None:
    trt = TensorRT(version)
    plan = build_for(trt, precision, typing=typing)
    assert (plan.data, plan.timings, plan.placement) == (b"plan", b"timings", "")
    assert trt.flags() - {"EDITABLE_TIMING_CACHE"} == flags
    (given,) = trt.named("create_network")
    assert {f.name for f in trt.NetworkDefinitionCreationFlag if given >> f & 1} == creation
    shape = (4, 224, 224, 3)
    assert trt.named("set_shape") == [("images", shape, shape, shape)]
    assert trt.named("set_memory_pool_limit") == [("workspace", 2**28)]


def test_what_a_version_cannot_is_refused() -> None:
    with pytest.raises(EngineError, match=r"TensorRT 11.4.1 has no weakly typed FP16") as error:
        build_for(TensorRT("11.4.1"), "fp16", typing="weak")
    assert error.value.fix
    with pytest.raises(EngineError, match="no weakly typed BF16"):
        build_for(TensorRT("8.5.2"), "bf16")


@pytest.mark.parametrize("version", ["8.5.2", "10.3.0", "11.4.1"])
def test_external_tactics_off(version: str) -> None:
    trt = TensorRT(version)
    build_for(trt, "fp32", external_tactics="off")
    ((left,),) = trt.named("set_tactic_sources")
    assert {s.name for s in trt.TacticSource if left >> s & 1} == {"EDGE", "JIT"}
    wanted = [("no external", True)] if version.startswith("8") else []
    assert trt.named("set_preview_feature") == wanted
    usual = TensorRT(version)
    build_for(usual, "fp32")
    assert not usual.named("set_tactic_sources")


def test_dla_falls_back_layer_by_layer_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    trt = TensorRT("10.3.0", layers=(True, False, True))
    plan = build_for(trt, "int8", dla="1")
    assert plan.placement == "DLA core 1, 2 of 3 layers"
    assert caplog.messages == ["DLA core 1: layer2 (CONVOLUTION) runs on the GPU instead"]
    assert trt.flags() >= {"GPU_FALLBACK", "INT8", "FP16"}
    assert (trt.made.default_device_type, trt.made.DLA_core) == (trt.DeviceType.DLA, 1)


def test_layers_that_the_builder_moves_itself_are_reported_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It foretells what a DLA cannot run, but not that there are too many pieces."""
    trt = TensorRT("8.5.2", layers=(True, False, True, True))
    trt.says = (
        "Layer 'layer2' (CONVOLUTION): Unsupported on DLA. Switching this layer's device type to "
        "GPU.",
        "DLA supports only 16 subgraphs per DLA core. Switching to GPU for layer layer3",
        "Layer 'w' (CONSTANT): Unsupported on DLA. Switching this layer's device type to GPU.",
        "Something else",
    )
    plan = build_for(trt, "fp16", dla="0")
    assert plan.placement == "DLA core 0, 2 of 4 layers"
    assert caplog.messages == [
        "DLA core 0: layer2 (CONVOLUTION) runs on the GPU instead",
        f"DLA core 0: {trt.says[1]}",
    ]


def test_a_dla_that_would_run_nothing_is_refused() -> None:
    with pytest.raises(EngineError, match="No layer of this model can run on the DLA"):
        build_for(TensorRT("10.3.0", layers=(False, False)), "fp16", dla="0")


def test_dla_refusals_say_why() -> None:
    trt: Any = TensorRT("10.13.3")
    assert dla_refusal(trt, 1) is None
    assert "no DLA core 2 here, only 0 to 1" in str(dla_refusal(trt, 2))
    trt.cores = 0
    said = str(dla_refusal(trt, 0))
    assert said.startswith("TensorRT 10.13.3 finds no DLA core here. Fix: ")
    assert "11.4.1" in said
    trt.DeviceType = enum.IntEnum("DeviceType", "GPU")
    assert str(dla_refusal(trt, 0)).startswith("TensorRT 10.13.3 has no DLA. Fix: ")


def test_no_runtime_is_made_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT 8.6.0 crashes the process then."""
    monkeypatch.setattr(cuda, "silence", lambda: "no device")
    trt: Any = TensorRT("10.3.0")
    trt.Runtime = lambda _: pytest.fail("made")
    with pytest.raises(EngineError, match="No CUDA device answers here"):
        dla_refusal(trt, 0)


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("start", "TensorRT 8.5.2 cannot start its builder: CUDA initialization failure"),
        ("parse", "TensorRT 8.5.2 cannot read the model: node 7: no importer for Foo."),
        ("build", "could not build trt-fp16-weak: 10: could not find any implementation."),
    ],
)
def test_errors_carry_tensorrts_words_in_one_line(fails: str, said: str) -> None:
    with pytest.raises(EngineError) as error:
        build_for(TensorRT("8.5.2", fails=fails), "fp16")
    assert said in error.value.message
    assert error.value.fix


def test_the_log_keeps_errors_before_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "edgetl")
    log = log_of(TensorRT("8.5.2"))
    assert log.taken() == "it gave no reason"
    for severity, text in ((2, "slow"), (1, "broken\nhere"), (3, "info"), (4, "verbose")):
        log.log(severity, text)
    assert caplog.messages == ["TensorRT: slow", "TensorRT: broken here"]
    assert log.taken() == "broken here"
    assert log.taken() == "it gave no reason"


def test_timings_go_in_and_a_refused_cache_is_replaced() -> None:
    trt = TensorRT("8.5.2")
    build_for(trt, "fp32", timings=b"earlier")
    assert trt.named("set_timing_cache") == [(b"earlier", False)]
    assert "EDITABLE_TIMING_CACHE" not in trt.flags()
    trt = TensorRT("10.3.0")
    build_for(trt, "fp32", timings=b"of another version")
    assert trt.named("set_timing_cache") == [(b"of another version", False), (b"", False)]
    assert "EDITABLE_TIMING_CACHE" in trt.flags()


@pytest.mark.parametrize(
    ("version", "session", "label"),
    [
        ("8.5.2", {}, "trt-int8-weak"),
        ("10.12.0", {}, "trt-int8-strong"),
        ("10.3.0", {"typing": "weak", "dla": "0"}, "trt-int8-dla-weak"),
        ("10.3.0", {"typing": "weak", "dla": "1"}, "trt-int8-dla1-weak"),
    ],
)
def test_settings_and_their_label(version: str, session: dict[str, str], label: str) -> None:
    made = settings(Options(precision="int8", session=session), version)
    assert made.label == label
    assert (made.graph, made.external_tactics) == ("auto", "on")


@pytest.mark.parametrize(
    ("precision", "session", "said"),
    [
        ("int8", {"typing": "loose"}, "cannot have typing = 'loose'"),
        ("int8", {"dla": "first"}, "cannot have dla = 'first'"),
        ("int8", {"dla": "-1"}, "cannot have dla = '-1'"),
        ("fp32", {"dla": "0"}, "A DLA does not run fp32"),
        ("int8", {"graph": "yes"}, "cannot have graph = 'yes'"),
        ("int8", {"external_tactics": ""}, "cannot have external_tactics = ''"),
        ("int8", {"tactics": "0", "x": "y"}, "may not set the session option 'tactics', 'x'"),
        ("int4", {}, "precision cannot be 'int4'"),
    ],
)
def test_wrong_settings_are_refused(precision: str, session: dict[str, str], said: str) -> None:
    with pytest.raises(EngineError, match=said) as error:
        settings(Options(precision=precision, session=session), "10.3.0")
    assert error.value.fix


def test_workspace_is_a_share_of_free_memory() -> None:
    assert workspace(2**30) == 2**28
    assert workspace(0) == trt_build.LEAST_WORKSPACE
    assert workspace(2**40) == trt_build.MOST_WORKSPACE
