"""TensorRT's engine: refusals and the way of an engine through the cache, without a GPU.

A proxy for the package shows when an engine is built, taken, refused and freed. One real build
runs where there is a GPU.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgetl.engines import Options, find_engine, ready_engine, tensorrt
from edgetl.engines.tensorrt import build as trt_build
from edgetl.engines.tensorrt import cuda
from edgetl.engines.tensorrt.build import EnginePlan
from edgetl.errors import EngineError, EngineMissingError, StorageError
from edgetl.exporter.candidates import Built

SHAPE, CLASSES = (1, 2, 2, 3), 5
ONNX, OTHER = b"\x08\x08", b"\x08\x09"  # IR versions, and nothing else
WEAK = Options(precision="fp16", session={"typing": "weak", "graph": "off"})


def test_missing_says_the_reason_and_the_fix() -> None:
    reason = tensorrt.missing()
    if reason is None:
        pytest.skip("TensorRT runs here")
    what, fix = reason
    assert what.startswith(("TensorRT's Python binding is", "The CUDA runtime", "No CUDA device"))
    assert fix
    with pytest.raises(EngineMissingError) as error:
        ready_engine("tensorrt", {"typing": "weak"})
    assert (error.value.message, error.value.fix) == (what, fix)


@pytest.mark.parametrize(
    ("version", "weak", "strong"),
    [
        ("8.5.2.2", True, False),
        ("8.6.1", True, False),
        ("10.3.0", True, False),
        ("10.11.0.33", True, False),
        ("10.12.0", False, True),
        ("10.13.3.9", False, True),
        ("11.0.0", False, True),
    ],
)
def test_typing_follows_the_version(
    version: str, weak: bool, strong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "version", lambda: version)
    assert (tensorrt.mistyped("weak") is None) == weak
    assert (tensorrt.mistyped("strong") is None) == strong
    assert tensorrt.mistyped("") is None
    said = f"{tensorrt.mistyped('weak')}{tensorrt.mistyped('strong')}"
    assert version in said
    assert "Fix: use the" in said


class Board:
    """A proxy for TensorRT 8.5 on a board, whose engine answers with the images' sum."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.built = 0
        self.loads = True  # whether TensorRT loads what it is given
        self.buffers: list[SimpleNamespace] = []
        self.trt: Any = ModuleType("tensorrt")
        self.trt.__version__ = "8.5.2.2"
        self.trt.ILogger = type("ILogger", (), {})
        self.trt.Runtime = lambda _: SimpleNamespace(
            deserialize_cuda_engine=self.load, num_DLA_cores=0
        )
        self.trt.DeviceType = SimpleNamespace(DLA="DLA")
        self.trt.DataType = SimpleNamespace(UINT8="uint8", FLOAT="float32")
        self.trt.TensorIOMode = SimpleNamespace(INPUT="in")
        self.types = {"images": "uint8", "logits": "float32"}
        monkeypatch.setitem(sys.modules, "tensorrt", self.trt)
        monkeypatch.setattr(tensorrt.importlib.util, "find_spec", lambda _: self.trt)
        monkeypatch.setattr(trt_build, "build", self.build)
        for name, value in {
            "runtime": object,
            "silence": lambda: "",
            "device_name": lambda: "Orin",
            "compute_capability": lambda: "8.7",
            "runtime_version": lambda: "11.4",
            "Stream": lambda: SimpleNamespace(
                handle=SimpleNamespace(value=1), wait=lambda: None, close=lambda: None
            ),
            "Buffer": self.buffer,
        }.items():
            monkeypatch.setattr(cuda, name, value)

    def build(
        self, _trt: Any, model: bytes, _wanted: Any, batch: int, timings: bytes
    ) -> EnginePlan:
        self.built += 1
        time.sleep(0.05)
        return EnginePlan(data=model + bytes([batch]), placement="", timings=timings + b"t")

    def load(self, plan: bytes) -> Any:
        if not self.loads:
            return None
        shapes = {"images": (-1, *SHAPE[1:]), "logits": (-1, CLASSES)}
        return SimpleNamespace(
            num_io_tensors=len(self.types),
            get_tensor_name=list(self.types).__getitem__,
            get_tensor_dtype=self.types.__getitem__,
            get_tensor_mode=lambda name: "in" if name == "images" else "out",
            get_tensor_shape=shapes.__getitem__,
            create_execution_context=lambda: self.context(plan[-1]),
        )

    def context(self, batch: int) -> Any:
        places: dict[str, int] = {}

        def execute(_stream: int) -> bool:
            source, target = (
                (kind * count).from_address(places[name])
                for name, kind, count in (
                    ("images", ctypes.c_uint8, batch * 12),
                    ("logits", ctypes.c_float, batch * CLASSES),
                )
            )
            for index in range(len(target)):
                target[index] = sum(source[index // CLASSES * 12 :][:12]) + index % CLASSES
            return True

        return SimpleNamespace(
            set_input_shape=lambda _, shape: shape == (batch, *SHAPE[1:]),
            get_tensor_shape=lambda _: (batch, CLASSES),
            set_tensor_address=lambda name, place: places.update({name: place}) or True,
            execute_async_v3=execute,
        )

    def buffer(self, size: int) -> Any:
        """One block that is both sides: what is written to the host side is on the device."""
        block = ctypes.create_string_buffer(size)
        side = ctypes.c_void_p(ctypes.addressof(block))
        made = SimpleNamespace(
            size=size, host=side, device=side, block=block, open=True, copy=lambda *_: None
        )
        made.close = lambda: setattr(made, "open", False)
        self.buffers.append(made)
        return made


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    tensorrt._tensorrt.cache_clear()
    yield Board(monkeypatch)
    tensorrt._tensorrt.cache_clear()


def images(count: int) -> Any:
    return np.arange(count * 12, dtype=np.uint8).reshape(count, *SHAPE[1:])


def expected(count: int) -> Any:
    sums = images(count).reshape(count, -1).sum(1, dtype=np.float32)
    return sums[:, np.newaxis] + np.arange(CLASSES, dtype=np.float32)


def test_an_engine_a_batch_is_built_on_first_use(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    session = tensorrt.open((ONNX,), WEAK)
    assert board.built == 1
    line = "building trt-fp16-weak for Orin sm_87, TensorRT 8.5, minutes on a small board"
    assert caplog.messages == [line]
    for count in (1, 3, 1, 3):
        np.testing.assert_array_equal(session.run(images(count))["logits"], expected(count))
    assert board.built == 2
    assert caplog.messages == [line, line]
    assert session.describe().provider == "CUDA sm_87"
    session.close()
    session.close()
    assert not any(buffer.open for buffer in board.buffers)
    for use in (session.describe, lambda: session.run(images(1))["logits"]):
        with pytest.raises(EngineError, match="session is closed"):
            use()


def test_threads_take_turns(board: Board) -> None:
    """An engine has one pair of buffers: what one thread left there is not another's answer."""
    session, wrong = tensorrt.open((ONNX,), WEAK), []

    def work(seed: int) -> None:
        for index in range(50):
            count = 1 + (seed + index) % 3
            block = np.full((count, *SHAPE[1:]), 10 * seed + index, np.uint8)
            right = float(block[0].sum()) + np.arange(CLASSES, dtype=np.float32)
            wrong.append(int(np.abs(session.run(block)["logits"] - right).max() > 0))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(wrong), sum(wrong), board.built) == (200, 0, 3)
    session.close()


def test_closing_waits_for_a_run(board: Board) -> None:
    """Else it would free memory that the run is reading."""
    session = tensorrt.open((ONNX,), WEAK)
    running, go_on, answers = threading.Event(), threading.Event(), []

    def wait(*_: Any) -> None:
        running.set()
        assert go_on.wait(10)

    board.buffers[-1].copy = wait
    runner = threading.Thread(target=lambda: answers.append(session.run(images(1))["logits"]))
    runner.start()
    assert running.wait(10)
    closer = threading.Thread(target=session.close)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive()
    assert all(buffer.open for buffer in board.buffers)
    go_on.set()
    closer.join(10)
    runner.join(10)
    np.testing.assert_array_equal(answers[0], expected(1))
    assert not any(buffer.open for buffer in board.buffers)
    with pytest.raises(EngineError, match="session is closed"):
        session.run(images(1))["logits"]


def test_few_batch_sizes_stay_loaded(board: Board) -> None:
    session = tensorrt.open((ONNX,), WEAK)
    for count in range(1, 9):
        np.testing.assert_array_equal(session.run(images(count))["logits"], expected(count))
    assert sum(buffer.open for buffer in board.buffers) == 2 * 4
    np.testing.assert_array_equal(session.run(images(1))["logits"], expected(1))
    assert board.built == 8
    session.run(images(2))["logits"]
    assert board.built == 8  # it was taken from the cache again
    assert sum(buffer.open for buffer in board.buffers) == 2 * 4
    session.close()
    assert not any(buffer.open for buffer in board.buffers)


def test_the_next_process_takes_it_from_the_cache(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt.open((ONNX,), WEAK).close()
    caplog.clear()
    session = tensorrt.open((ONNX,), WEAK)
    np.testing.assert_array_equal(session.run(images(1))["logits"], expected(1))
    session.close()
    assert (board.built, caplog.messages) == (1, [])
    tensorrt.open((OTHER,), WEAK).close()
    assert board.built == 2


def test_an_engine_that_does_not_load_is_built_once_more(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt.open((ONNX,), WEAK).close()
    caplog.clear()
    load, answers = board.load, [False, True, True]
    board.trt.Runtime = lambda _: SimpleNamespace(
        deserialize_cuda_engine=lambda plan: load(plan) if answers.pop(0) else None
    )
    tensorrt.open((ONNX,), WEAK).close()
    assert board.built == 2
    assert "does not load its cached engine" in caplog.messages[0]
    board.loads = False
    board.trt.Runtime = lambda _: SimpleNamespace(deserialize_cuda_engine=board.load)
    with pytest.raises(EngineError, match="cannot load the engine that it built"):
        tensorrt.open((ONNX,), WEAK)
    assert board.built == 3


def test_two_at_once_build_once(board: Board) -> None:
    made: list[Any] = []
    both = [
        threading.Thread(target=lambda: made.append(tensorrt.open((ONNX,), WEAK))) for _ in range(2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert (len(made), board.built) == (2, 1)
    for session in made:
        session.close()


def test_an_engine_that_cannot_be_kept_still_runs(
    board: Board, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StorageError("Cannot write it: no space left.", fix="free disk space.")

    monkeypatch.setattr(tensorrt.PlanCache, "keep", full)
    session = tensorrt.open((ONNX,), WEAK)
    np.testing.assert_array_equal(session.run(images(1))["logits"], expected(1))
    session.close()
    assert "no space left" in caplog.messages[-1]
    with pytest.raises(StorageError, match="no space left"):
        tensorrt.prepare((ONNX,), WEAK, 1)
    assert board.built == 2


def test_ahead_of_time(board: Board) -> None:
    line = "building trt-fp16-weak for Orin sm_87, TensorRT 8.5, minutes on a small board"
    assert tensorrt.pending((ONNX,), WEAK, 2) == line
    ahead = tensorrt.prepare((ONNX,), WEAK, 2)
    assert (ahead.cached, ahead.placement) == (False, "")
    assert ahead.build_s > 0
    assert tensorrt.prepare((ONNX,), WEAK, 2).cached
    assert tensorrt.pending((ONNX,), WEAK, 2) is None
    assert tensorrt.pending((ONNX,), WEAK, 1) == line
    assert board.built == 1


def test_buffers_go_when_loading_fails_half_way(board: Board) -> None:
    context = board.context

    def refusing(batch: int) -> Any:
        made = context(batch)
        made.set_tensor_address = lambda name, _: name == "images"
        return made

    board.context = refusing  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="TensorRT refused the memory of logits"):
        tensorrt.open((ONNX,), WEAK)
    assert len(board.buffers) == 2
    assert not any(buffer.open for buffer in board.buffers)


@pytest.mark.parametrize(
    "types",
    [
        {"images": "float32", "logits": "float32"},
        {"images": "uint8", "logits": "float16"},
        {"images": "uint8", "more": "uint8", "logits": "float32"},
        {"images": "uint8"},
    ],
)
def test_engines_of_other_tensors_are_refused(board: Board, types: dict[str, str]) -> None:
    board.types = types
    with pytest.raises(EngineError, match="one uint8 input and float32 outputs"):
        tensorrt.open((ONNX,), WEAK)


@pytest.mark.parametrize(("graph_ns", "used"), [(0.0, True), (0.02, False)])
def test_the_faster_way_to_launch_is_measured(
    board: Board, graph_ns: float, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain way is slowed by 2 ms a run, the graph by 0 or 20 ms."""
    closed: list[bool] = []

    def graph(_stream: Any, record: Callable[[], None]) -> Any:
        buffers = board.buffers[-2:]

        def launch() -> None:
            time.sleep(graph_ns)
            waits = [buffer.copy for buffer in buffers]
            for buffer in buffers:
                buffer.copy = lambda *_: None
            record()
            for buffer, wait in zip(buffers, waits, strict=True):
                buffer.copy = wait

        return SimpleNamespace(launch=launch, close=lambda: closed.append(True))

    buffer = board.buffer

    def slow(size: int) -> Any:
        made = buffer(size)
        made.copy = lambda *_: time.sleep(0.001)
        return made

    monkeypatch.setattr(cuda, "Buffer", slow)
    monkeypatch.setattr(cuda, "CudaGraph", graph)
    session = tensorrt.open(
        (ONNX,), Options(precision="fp16", session={"typing": "weak", "graph": "auto"})
    )
    assert ("CUDA graph" in session.describe().provider) == used
    np.testing.assert_array_equal(session.run(images(1))["logits"], expected(1))
    session.close()
    assert closed == [True]


def test_a_graph_that_cannot_be_captured(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise EngineError("cudaStreamEndCapture failed: operation not permitted.", fix="no.")

    monkeypatch.setattr(cuda, "CudaGraph", refused)
    given = {"typing": "weak", "graph": "on"}
    with pytest.raises(EngineError, match="cannot be captured as a CUDA graph: cudaStreamEnd"):
        tensorrt.open((ONNX,), Options(precision="fp16", session=given))
    assert not any(buffer.open for buffer in board.buffers)
    session = tensorrt.open((ONNX,), Options(precision="fp16", session={"typing": "weak"}))
    assert session.describe().provider == "CUDA sm_87"
    session.close()


def test_a_dla_that_is_not_here_is_missing(board: Board) -> None:
    assert tensorrt.missing({"typing": "weak"}) is None
    said = tensorrt.missing({"typing": "weak", "dla": "0"})
    assert said is not None
    assert str(said).startswith("TensorRT 8.5.2.2 finds no DLA core here. Fix: ")
    with pytest.raises(EngineMissingError, match="finds no DLA core"):
        ready_engine("tensorrt", {"typing": "weak", "dla": "0"})
    assert board.built == 0


def test_plans_never_bring_code_along() -> None:
    """Nothing in the engine's files allows host code of a plan to run."""
    for path in Path(tensorrt.__file__).parent.glob("*.py"):
        assert "engine_host_code_allowed" not in path.read_text("utf-8")


@pytest.mark.gpu
def test_an_engine_is_built_once_for_real(
    tiny: Callable[[str], Built], tiny_images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := tensorrt.missing():
        pytest.skip(str(reason))
    recipe = "trt-fp16-weak" if tensorrt.mistyped("weak") is None else "trt-fp16-strong"
    stated, files = tiny(recipe).recipe, tuple(tiny(recipe).files.values())
    options = Options(precision="fp16", session=stated.session)
    session = find_engine("tensorrt").open(files, options)
    first = session.run(tiny_images[:2])["logits"]
    session.close()
    monkeypatch.setattr(trt_build, "build", lambda *_: pytest.fail("built twice"))
    again = find_engine("tensorrt").open(files, options)
    np.testing.assert_array_equal(again.run(tiny_images[:2]), first)
    again.close()
