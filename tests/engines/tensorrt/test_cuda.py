"""The CUDA runtime by ctypes: where it is found, its refusals, and that everything is freed.

Where a CUDA runtime is installed, its refusals are its own; a proxy shows which calls are made,
in which order and with which arguments, since no machine of these tests need have a GPU.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgetl.engines.tensorrt import cuda
from edgetl.errors import EngineError

COULD_NOT = 999


class StandIn:
    """Notes the calls; hands out numbered handles; `fails` names the functions that fail."""

    def __init__(self, *absent: str, fails: tuple[str, ...] = (), version: int = 12060) -> None:
        self.absent, self.fails, self.version = absent, fails, version
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.live: set[int] = set()
        self.handles = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("cuda") or name in self.absent:
            raise AttributeError(name)

        def run(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            if name == "cudaGetErrorString":
                return b"out of everything"
            if name in self.fails:
                return COULD_NOT
            return self.answer(name, arguments)

        return run

    def answer(self, name: str, arguments: tuple[Any, ...]) -> int:
        if name in ("cudaGetDeviceCount", "cudaRuntimeGetVersion"):
            arguments[0]._obj.value = 1 if name.endswith("Count") else self.version
        elif name == "cudaStreamEndCapture":
            self.give(arguments[1])
        elif name.startswith(("cudaMalloc", "cudaStreamCreate", "cudaGraphInstantiate")):
            self.give(arguments[0])
        elif name.startswith("cudaFree") or name.endswith("Destroy"):
            self.live.remove(arguments[0].value)
        return 0

    def give(self, target: Any) -> None:
        self.handles += 1
        target._obj.value = self.handles
        self.live.add(self.handles)

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.calls if called == name]


@pytest.fixture
def fresh() -> Iterator[None]:
    """No library remembered from before, and none left to others."""
    cuda.runtime.cache_clear()
    yield
    cuda.runtime.cache_clear()


@pytest.fixture
def proxy_engine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StandIn]:
    def use(*absent: str, **settings: Any) -> StandIn:
        library = StandIn(*absent, **settings)
        monkeypatch.setattr(cuda, "runtime", lambda: library)
        return library

    return use


def test_without_a_library_everything_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "runtime", lambda: None)
    assert cuda.silence() == "libcudart was not found"
    for use in (cuda.compute_capability, cuda.device_name, cuda.free_memory, cuda.Stream):
        with pytest.raises(EngineError, match="libcudart was not found") as error:
            use()
        assert error.value.fix


@pytest.mark.usefixtures("fresh")
def test_no_library_is_found_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "libraries", lambda: iter(["libcudart.so.none", "/nowhere/x.so"]))
    assert cuda.runtime() is None


def test_libraries_of_pip_packages_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "nvidia/cuda_runtime/lib", tmp_path / "nvidia/cu13/lib"
    wanted = []
    for folder, names in (
        (old, ["libcudart.so.12", "libcudart.so.11.0"]),
        (new, ["libcudart.so.13"]),
    ):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
            wanted.append(str(folder / name))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert [name for name in cuda.libraries() if name.startswith(str(tmp_path))] == wanted


@pytest.mark.usefixtures("fresh")
def test_the_library_that_finds_a_device_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """One newer than the driver loads, but finds none."""
    newer, fitting = StandIn(fails=("cudaGetDeviceCount",)), StandIn()
    loaded = {"newer": newer, "fitting": fitting}
    monkeypatch.setattr(cuda, "libraries", lambda: iter(loaded))
    monkeypatch.setattr(ctypes, "CDLL", loaded.__getitem__)
    assert cuda.runtime() is fitting
    cuda.runtime.cache_clear()
    monkeypatch.setattr(cuda, "libraries", lambda: iter(["newer"]))
    assert cuda.runtime() is newer


@pytest.mark.usefixtures("fresh")
def test_a_real_runtime_without_a_gpu_is_refused_in_its_own_words() -> None:
    if cuda.runtime() is None:
        pytest.skip("no CUDA runtime is installed")
    if not cuda.silence():
        pytest.skip("a GPU answers here")
    assert int(cuda.runtime_version().split(".")[0]) >= 10
    for use in (cuda.device_name, cuda.compute_capability, cuda.free_memory, cuda.Stream):
        with pytest.raises(EngineError) as error:
            use()
        assert error.value.message.startswith("cuda")
        assert cuda.silence() in error.value.message
    with pytest.raises(EngineError, match="cudaMalloc failed"):
        cuda.Buffer(64)


def test_a_missing_function_is_no_attribute_error(proxy_engine: Callable[..., StandIn]) -> None:
    proxy_engine("cudaGraphLaunch")
    with pytest.raises(EngineError, match="This CUDA runtime has no cudaGraphLaunch"):
        cuda.call("cudaGraphLaunch")


def test_buffers_and_streams_are_freed_once(proxy_engine: Callable[..., StandIn]) -> None:
    library = proxy_engine()
    stream, buffer = cuda.Stream(), cuda.Buffer(48)
    buffer.copy(cuda.HOST_TO_DEVICE, stream)
    buffer.copy(cuda.DEVICE_TO_HOST, stream)
    up, down = library.named("cudaMemcpyAsync")
    assert (up[0].value, up[1].value, up[2].value) == (buffer.device.value, buffer.host.value, 48)
    assert (down[0].value, down[1].value) == (buffer.host.value, buffer.device.value)
    for thing in (buffer, stream, buffer, stream):
        thing.close()
    assert not library.live


def test_device_memory_is_freed_when_host_memory_fails(
    proxy_engine: Callable[..., StandIn],
) -> None:
    library = proxy_engine(fails=("cudaMallocHost",))
    with pytest.raises(EngineError, match="cudaMallocHost failed: out of everything"):
        cuda.Buffer(48)
    assert library.handles == 1
    assert not library.live


@pytest.mark.parametrize(
    ("absent", "version", "arguments"),
    [
        ((), 12060, 3),
        (("cudaGraphInstantiateWithFlags",), 11030, 5),
        (("cudaGraphInstantiateWithFlags",), 12000, 3),
    ],
)
def test_a_graph_is_recorded_launched_and_freed(
    proxy_engine: Callable[..., StandIn], absent: tuple[str, ...], version: int, arguments: int
) -> None:
    library = proxy_engine(*absent, version=version)
    stream = cuda.Stream()
    graph = cuda.CudaGraph(stream, lambda: cuda.call("cudaMemcpyAsync"))
    order = [name for name, _ in library.calls]
    begin, end = order.index("cudaStreamBeginCapture"), order.index("cudaStreamEndCapture")
    assert begin < order.index("cudaMemcpyAsync") < end
    (given,) = [a for name, a in library.calls if name.startswith("cudaGraphInstantiate")]
    assert len(given) == arguments
    graph.launch()
    assert library.named("cudaGraphLaunch")[0][1].value == stream.handle.value
    graph.close()
    stream.close()
    assert not library.live


@pytest.mark.parametrize("fails", ["cudaMemcpyAsync", "cudaStreamEndCapture"])
def test_a_failed_capture_ends_and_leaves_nothing(
    proxy_engine: Callable[..., StandIn], fails: str
) -> None:
    library = proxy_engine(fails=(fails,))
    stream = cuda.Stream()
    with pytest.raises(EngineError, match=f"{fails} failed: out of everything"):
        cuda.CudaGraph(stream, lambda: cuda.call("cudaMemcpyAsync"))
    assert len(library.named("cudaStreamEndCapture")) == 1
    stream.close()
    assert not library.live
