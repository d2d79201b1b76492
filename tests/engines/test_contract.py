"""One contract for all engines, over every packaged recipe."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgetl.engines import ENGINES, Options, find_engine, openvino, ready_engine
from edgetl.engines.base import imported
from edgetl.errors import EngineError, EngineMissingError
from edgetl.exporter.candidates import Built
from edgetl.machine import available_cores, this_machine
from edgetl.recipes import all_recipes, find_recipe
from edgetl.spec import Recipe

# Largest difference between two ways to run the same images, as a share of the logits' range.
SAME = {"fp32": 1e-5, "fp16": 0.01, "bf16": 0.03, "int8": 0.05}


def absent(recipe: Recipe) -> str:
    """Why a device that is no CPU is not here; the contract is not run for its recipes."""
    if recipe.engine != "tensorrt" and "DEVICE" not in recipe.session:
        return ""
    return find_engine(recipe.engine).missing(recipe.session)


RECIPES = [
    pytest.param(name, marks=pytest.mark.gpu if recipe.engine == "tensorrt" else [])
    for name, recipe in all_recipes().items()
    if not absent(recipe)
]
ABSENT = {name: reason for name, recipe in all_recipes().items() if (reason := absent(recipe))}
Tiny = Callable[[str], Built]


def need(recipe: str) -> None:
    stated = find_recipe(recipe)
    reason = find_engine(stated.engine).missing(stated.session)
    if reason:
        pytest.skip(f"{recipe}: {reason}")


def open_tiny(tiny: Tiny, recipe: str, threads: int = 0, **changes: Any) -> Any:
    stated = tiny(recipe).recipe
    options = {"precision": stated.precision, "threads": threads, "session": stated.session}
    engine = find_engine(stated.engine)
    return engine.open(tuple(tiny(recipe).files.values()), Options(**options | changes))


@pytest.mark.parametrize("name", ABSENT)
def test_a_device_that_is_not_here_is_refused_with_the_reason(name: str, tiny: Tiny) -> None:
    what, fix = ABSENT[name]
    stated = find_recipe(name)
    with pytest.raises(EngineMissingError) as error:
        ready_engine(stated.engine, stated.session)
    assert (error.value.message, error.value.fix) == (what, fix)
    assert fix
    if stated.engine == "openvino":  # tests/engines/test_tensorrt.py opens TensorRT's
        with pytest.raises(EngineMissingError, match=re.escape(what)):
            open_tiny(tiny, name)


@pytest.mark.parametrize("name", [n for n in ABSENT if find_recipe(n).engine == "openvino"])
def test_the_contract_where_the_device_is_not_here(name: str) -> None:
    pytest.skip(f"{name}: {ABSENT[name]}")


@pytest.fixture(scope="module", params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> str:
    need(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def session(recipe: str, tiny: Tiny) -> Iterator[Any]:
    opened = open_tiny(tiny, recipe)
    yield opened
    opened.close()


def apart(recipe: str, found: Any, expected: Any) -> bool:
    limit = SAME[find_recipe(recipe).precision] * float(np.ptp(expected))
    return bool(np.abs(found - expected).max() > limit)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_batches_equal_one_by_one(session: Any, recipe: str, tiny_images: Any, count: int) -> None:
    together = session.run(tiny_images[:count])["logits"]
    assert together.dtype == np.float32
    assert together.shape == (count, 3)
    single = np.concatenate([session.run(tiny_images[i : i + 1])["logits"] for i in range(count)])
    assert not apart(recipe, together, single)


def test_it_computes_what_the_network_says(
    session: Any, recipe: str, tiny: Tiny, tiny_images: Any
) -> None:
    """The reference is the FP32 file in ONNX's own evaluator, which shares no code with engines."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    (canonical,) = tiny("ort-fp32").files.values()
    reference = ReferenceEvaluator(onnx.load_model_from_string(canonical))
    expected: Any = reference.run(None, {"images": tiny_images[:4]})[0]
    limit = {"fp32": 1e-5, "fp16": 0.01, "bf16": 0.03, "int8": 0.15}[find_recipe(recipe).precision]
    found = session.run(tiny_images[:4])["logits"]
    assert np.abs(found - expected).max() <= limit * np.ptp(expected)


def test_results_outlive_the_next_run(session: Any, tiny_images: Any) -> None:
    first = session.run(tiny_images[:1])["logits"]
    kept = first.copy()
    session.run(tiny_images[1:2])["logits"]
    np.testing.assert_array_equal(first, kept)


def test_input_need_not_be_contiguous(session: Any, tiny_images: Any) -> None:
    flipped = tiny_images[:2, :, ::-1, ::-1]
    assert not flipped.flags.c_contiguous
    expected = session.run(np.ascontiguousarray(flipped))["logits"]
    np.testing.assert_array_equal(session.run(flipped)["logits"], expected)


def test_input_is_left_as_it_is(session: Any, tiny_images: Any) -> None:
    frozen = tiny_images[:1].copy()
    frozen.flags.writeable = False
    session.run(frozen)["logits"]
    np.testing.assert_array_equal(frozen, tiny_images[:1])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 33, 32, 3), np.uint8),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((1, 32, 32, 3), np.int8),
        np.uint8(0),
        [[0, 1]],
    ],
    ids=["size", "layout", "rank", "none", "float32", "int8", "scalar", "list"],
)
def test_other_input_is_refused(session: Any, images: Any) -> None:
    with pytest.raises(EngineError, match=r"uint8 images of shape \(N, 32, 32, 3\), not ") as error:
        session.run(images)["logits"]
    assert error.value.fix


def test_runs_are_deterministic(session: Any, recipe: str, tiny: Tiny, tiny_images: Any) -> None:
    first = session.run(tiny_images[:1])["logits"]
    for _ in range(3):
        np.testing.assert_array_equal(session.run(tiny_images[:1])["logits"], first)
    again = open_tiny(tiny, recipe)
    np.testing.assert_array_equal(again.run(tiny_images[:1])["logits"], first)
    again.close()


def test_it_describes_what_runs(session: Any, recipe: str) -> None:
    stated, described = find_recipe(recipe), session.describe()
    assert described.engine == stated.engine
    assert described.version == find_engine(stated.engine).version()
    assert described.version[0].isdigit()
    assert described.precision == stated.precision
    elsewhere = stated.engine == "tensorrt" or "DEVICE" in stated.session
    assert described.threads == (1 if elsewhere else available_cores())
    device = stated.session.get("DEVICE", "CPU")
    start = {"onnxruntime": "CPUExecutionProvider", "openvino": device, "tensorrt": "CUDA sm_"}
    assert described.provider.startswith(start[stated.engine])


def test_a_closed_session_says_so(recipe: str, tiny: Tiny, tiny_images: Any) -> None:
    opened = open_tiny(tiny, recipe)
    opened.run(tiny_images[:2])["logits"]
    opened.close()
    opened.close()  # twice is fine
    with pytest.raises(EngineError, match="session is closed"):
        opened.run(tiny_images[:1])["logits"]
    with pytest.raises(EngineError, match="session is closed"):
        opened.describe()


def test_a_damaged_file_is_refused(recipe: str) -> None:
    stated = find_recipe(recipe)
    options = Options(precision=stated.precision, session=stated.session)
    noise = bytes(range(256)) + (b"QuantizeLinear" if stated.precision == "int8" else b"")
    with pytest.raises(EngineError, match=r"cannot (load|read) the model") as error:
        find_engine(stated.engine).open((noise,), options)
    assert "\n" not in error.value.message
    assert error.value.__cause__ is not None or stated.engine == "tensorrt"


@pytest.mark.parametrize("recipe_name", ["ort-fp32", "ov-fp32"])
def test_threads_are_honoured(recipe_name: str, tiny: Tiny, tiny_images: Any) -> None:
    need(recipe_name)
    for threads in range(1, available_cores() + 1):
        opened = open_tiny(tiny, recipe_name, threads)
        assert opened.describe().threads == threads
        assert opened.run(tiny_images[:1])["logits"].shape == (1, 3)
        opened.close()


def test_onnxruntime_starts_that_many_threads(tiny: Tiny) -> None:
    """The caller's thread is one of them."""
    need("ort-fp32")
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("only Linux lists the threads of a process")
    for threads in (1, 2, 3):
        before = len(list(tasks.iterdir()))
        opened = open_tiny(tiny, "ort-fp32", threads)
        assert len(list(tasks.iterdir())) == before + threads - 1
        opened.close()


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("ort-fp32", "int8"),
        ("ort-int8", "fp32"),
        ("ort-fp32", "bf16"),
        ("ov-fp32", "int8"),
        ("ov-int8", "fp32"),
        ("ov-fp32", "bf16"),
    ],
)
def test_another_precision_is_refused(name: str, precision: str, tiny: Tiny) -> None:
    """What `describe` says is true because nothing else opens."""
    need(name)
    with pytest.raises(EngineError, match=rf"{precision}[,:]"):
        open_tiny(tiny, name, precision=precision)


# --- threads ------------------------------------------------------------------------------------


def test_every_thread_gets_the_answer_to_its_own_images(
    recipe: str, tiny: Tiny, tiny_images: Any
) -> None:
    """Batches of two sizes that were not run before, so that threads also compile at once."""
    opened = open_tiny(tiny, recipe)
    expected = [opened.run(tiny_images[i : i + 1])["logits"] for i in range(16)]
    assert apart(recipe, expected[0], expected[1])  # else another's answer would go unnoticed
    start = threading.Barrier(4)

    def work(seed: int) -> int:
        wrong, rng = 0, np.random.default_rng(seed)
        start.wait()
        for first, count in zip(rng.integers(0, 14, 60), rng.integers(1, 4, 60), strict=True):
            found = opened.run(tiny_images[first : first + count])["logits"]
            wrong += apart(recipe, found, np.concatenate(expected[first : first + count]))
        return wrong

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [0] * 4
    opened.close()


def test_closing_while_threads_run_is_an_answer_or_an_error(
    recipe: str, tiny: Tiny, tiny_images: Any
) -> None:
    opened = open_tiny(tiny, recipe)
    expected, begun = opened.run(tiny_images[:1])["logits"], threading.Barrier(4)

    def work(_: int) -> str:
        begun.wait()
        for _ in range(10_000):
            try:
                found = opened.run(tiny_images[:1])["logits"]
            except EngineError as error:
                return error.message
            assert not apart(recipe, found, expected)
        return "never closed"

    with ThreadPoolExecutor(3) as pool:
        said = [pool.submit(work, i) for i in range(3)]
        begun.wait()
        opened.close()
        assert [one.result(timeout=60) for one in said] == ["The session is closed."] * 3


def test_a_model_may_be_opened_in_several_threads_at_once(
    recipe: str, tiny: Tiny, tiny_images: Any
) -> None:
    tiny(recipe)
    start = threading.Barrier(3)

    def work(_: int) -> Any:
        start.wait()
        opened = open_tiny(tiny, recipe)
        logits = opened.run(tiny_images[:1])["logits"]
        opened.close()
        return logits

    with ThreadPoolExecutor(3) as pool:
        one, *others = pool.map(work, range(3))
    assert all(not apart(recipe, other, one) for other in others)


# --- batch sizes --------------------------------------------------------------------------------


def test_any_number_of_batch_sizes_is_run(session: Any, recipe: str, tiny_images: Any) -> None:
    expected = np.concatenate([session.run(tiny_images[i : i + 1])["logits"] for i in range(9)])
    for count in (*range(1, 10), 2, 1, 9):
        assert not apart(recipe, session.run(tiny_images[:count])["logits"], expected[:count])


# --- OpenVINO's hint ----------------------------------------------------------------------------


def test_openvino_needs_its_hint(tiny: Tiny) -> None:
    need("ov-fp32")
    with pytest.raises(EngineError, match="does not state its INFERENCE_PRECISION_HINT"):
        open_tiny(tiny, "ov-fp32", session={})


def test_openvino_hint_must_be_honoured(tiny: Tiny) -> None:
    """OpenVINO itself takes BF16 or FP32 in silence where a processor lacks FP16."""
    need("ov-fp32")
    if {"avx512_fp16", "amx_fp16", "fphp"} & set(this_machine().features):
        pytest.skip("this processor has FP16 arithmetic")
    with pytest.raises(EngineError, match=r"runs in b?f\d+ although f16 was asked for"):
        open_tiny(tiny, "ov-fp32", precision="fp16", session={openvino.HINT: "f16"})


def test_openvino_bf16_needs_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    need("ov-fp32")
    old = msgspec.structs.replace(this_machine(), features=("avx2",))
    monkeypatch.setattr(openvino, "this_machine", lambda: old)
    assert "no BF16 arithmetic" in str(openvino.missing({openvino.HINT: "bf16"}))
    assert openvino.missing({openvino.HINT: "f32"}) is None
    assert openvino.missing() is None
    unknown = msgspec.structs.replace(old, features=())  # then opening decides
    monkeypatch.setattr(openvino, "this_machine", lambda: unknown)
    assert openvino.missing({openvino.HINT: "bf16"}) is None


# --- engines that are not here ------------------------------------------------------------------


@pytest.mark.parametrize("name", ENGINES.own)
def test_an_engine_not_installed_says_how_to_get_it(
    name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(EngineMissingError, match="is not installed") as error:
        ready_engine(name)
    assert "install" in error.value.fix


@pytest.mark.parametrize("name", ENGINES.own)
def test_an_engine_that_cannot_be_imported_says_so(
    name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(EngineMissingError, match="cannot be imported") as error:
        find_engine(name).version()
    assert error.value.fix == f"reinstall the package {name}."


def test_a_library_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_x.py").write_text("raise ImportError('libfoo.so.1: not found\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineMissingError) as error:
        imported("X", "broken_x")
    assert error.value.message.endswith("libfoo.so.1: not found")
