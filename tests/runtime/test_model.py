"""Predicting: what may be given, what comes back, what is refused."""

from __future__ import annotations

import copy
import io
import pickle
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgetl
from edgetl.bundle import open_bundle
from edgetl.errors import (
    BundleError,
    EngineError,
    EngineMissingError,
    ImageError,
    UnknownNameError,
    UsageError,
)
from edgetl.machine import available_cores
from edgetl.recipes import find_recipe
from edgetl.runtime.model import Model
from edgetl.runtime.selftest import self_test
from edgetl.runtime.session import open_session
from tests.helpers import pixels


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Any:
    with edgetl.load(tiny_bundle, engine="onnxruntime", precision="fp32") as opened:
        yield opened


@pytest.fixture(scope="module")
def photos(shapes: Path) -> list[Path]:
    return sorted(shapes.rglob("*.png"))[:4]


def test_every_source_gives_the_same(model: Model, photos: list[Path]) -> None:
    image = Image.open(photos[0]).convert("RGB")
    sources = [photos[0], str(photos[0]), photos[0].read_bytes(), image, np.asarray(image)]
    results = model.predict(sources)
    assert [r.image for r in results] == [str(photos[0])] * 2 + [""] * 3
    assert len({r.predictions for r in results}) == 1
    assert [model.predict(source)[0] for source in sources] == results  # one need not be in a list


def test_results_are_sorted_probabilities(model: Model, photos: list[Path]) -> None:
    (result,) = model.predict(photos[0], top=10)
    chances = [p.probability for p in result.predictions]
    assert {p.label for p in result.predictions} == set(model.labels)
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1)
    assert result.candidate == "ort-fp32"
    assert model.predict(photos[0], top=1)[0].predictions == result.predictions[:1]
    assert model.predict([]) == []


def test_temperature_is_applied(
    write_tiny: Callable[..., Path], tmp_path: Path, model: Model, photos: list[Path]
) -> None:
    image = pixels(photos[0], model.manifest.input)[np.newaxis]
    logits = model.run(image)["logits"]
    path = write_tiny(tmp_path / "t.edgetl", ("ort-fp32",), {"ort-fp32": {"temperature": 4.0}})
    with edgetl.load(path) as warm:
        np.testing.assert_array_equal(warm.run(image)["logits"], logits)
        expected = np.exp(logits / 4) / np.exp(logits / 4).sum()
        np.testing.assert_allclose(warm.probabilities(image), expected, rtol=1e-5)


def test_files_and_buffers_in_memory_are_images(model: Model, photos: list[Path]) -> None:
    (right,) = model.predict(photos[0])
    data = photos[0].read_bytes()
    with photos[0].open("rb") as opened, photos[0].open("rb") as listed:
        for source in (opened, io.BytesIO(data), bytearray(data), memoryview(data), [listed]):
            (found,) = model.predict(source)
            assert found.predictions == right.predictions
            assert (found.image, found.error) == ("", None)


class Awaited:
    """Like an upload of an asynchronous web framework."""

    async def read(self) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("source", "said", "fix"),
    [
        (lambda path: path.open(), "its read() gives a str, not bytes", "mode 'rb'"),
        (lambda _: Awaited(), "its read() gives a coroutine, not bytes", "await its read()"),
        (lambda _: io.BytesIO(), "<BytesIO>: the file is empty", "seek(0)"),
        (lambda _: bytearray(), "<bytearray>: the file is empty", "other bytes"),
        (lambda _: memoryview(b"no image"), "<memoryview>: not an image in a format", "JPEG"),
        (lambda _: [None], "<NoneType>: a NoneType is no image", "give a path"),
        (lambda _: [3, 4], "<int>: a int is no image", "give a path"),
        (lambda _: [{"a": 1}], "<dict>: a dict is no image", "give a path"),
    ],
)
def test_what_cannot_be_read_is_refused_for_its_own_reason(
    model: Model, tmp_path: Path, source: Callable[[Path], Any], said: str, fix: str
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("text")
    given = source(path)
    with pytest.raises(ImageError, match=re.escape(said)) as error:
        model.predict(given)
    assert fix in error.value.fix
    if hasattr(given, "close"):
        given.close()


def test_a_file_that_was_read_before_says_so(model: Model, photos: list[Path]) -> None:
    with photos[0].open("rb") as opened:
        model.predict(opened)
        with pytest.raises(ImageError, match=re.escape(f"{photos[0]}: the file is empty")) as error:
            model.predict(opened)
        assert "seek(0)" in error.value.fix
        opened.seek(0)
        assert model.predict(opened) == model.predict(photos[0].read_bytes())


@pytest.mark.parametrize("images", [None, 3, 1.5, {"a.jpg": 1}], ids=str)
def test_what_is_no_image_and_no_list_is_refused(model: Model, images: Any) -> None:
    with pytest.raises(UsageError, match=f"images is a {type(images).__name__}") as error:
        model.predict(images)
    assert "list" in error.value.fix


def test_any_iterable_of_images_will_do(model: Model, photos: list[Path]) -> None:
    expected = model.predict(photos)
    assert model.predict(iter(photos)) == model.predict(tuple(photos)) == expected
    assert model.predict(path for path in photos) == expected


def test_an_answer_that_is_no_number_is_an_error_or_a_row(
    nan_bundle: Path, photos: list[Path]
) -> None:
    """The network answers NaN to dark images."""
    dark = Image.new("RGB", (40, 40))
    with edgetl.load(nan_bundle) as opened:
        good, bad = opened.predict([photos[0], dark], keep_going=True)
        assert good.error is None
        assert all(0 <= p.probability <= 1 for p in good.predictions)
        assert bad.predictions == ()
        assert "ort-fp32 answers NaN or infinity to 1 of 1 images" in str(bad.error)
        assert "Fix: take another candidate" in str(bad.error)
        with pytest.raises(EngineError, match="answers NaN"):
            opened.predict([photos[0], dark])
        block = pixels(dark, opened.manifest.input)[np.newaxis]
        for ask in (opened.run, opened.probabilities):
            with pytest.raises(EngineError, match="answers NaN or infinity to 1 of 1"):
                ask(block)


def test_threads_share_a_model(tiny_bundle: Path, photos: list[Path]) -> None:
    with edgetl.load(tiny_bundle) as opened:
        names = [c.name for c in opened.manifest.candidates]
    for name in names:
        with edgetl.load(tiny_bundle, candidate=name) as opened, ThreadPoolExecutor(4) as pool:
            expected = [opened.predict(photo) for photo in photos]
            assert list(pool.map(opened.predict, photos * 20)) == expected * 20, name


@pytest.mark.parametrize("send", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_model_stays_in_its_process(model: Model, send: Callable[[Any], Any]) -> None:
    with pytest.raises(UsageError, match="cannot be pickled, copied") as error:
        send(model)
    assert "load it there" in error.value.fix


@pytest.mark.parametrize(
    ("recipe", "option"),
    [
        ("ort-fp32", {"session.collect_node_memory_stats_to_file": "stats.csv"}),
        ("ort-fp32", {"session.model_external_initializers_file_folder_path": "."}),
        ("ov-fp32", {"CACHE_DIR": "blobs"}),
        ("ov-fp32", {"DEVICE": "AUTO"}),
        ("trt-fp16-weak", {"plugin": "evil.so"}),
        ("trt-fp16-weak", {"typing": "both"}),
    ],
)
def test_a_hostile_manifest_is_refused(
    recipe: str,
    option: dict[str, str],
    write_tiny: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever candidate was asked for, and by every way to use the bundle."""
    stated, home = find_recipe(recipe), tmp_path / "home"
    home.mkdir()
    names, session = tuple(dict.fromkeys(("ort-fp32", recipe))), stated.session | option
    (key,) = option
    monkeypatch.chdir(home)
    path = write_tiny(tmp_path / "hostile.edgetl", names, {recipe: {"session": session}})
    with open_bundle(path) as opened:
        for use in (
            lambda: edgetl.load(path),
            lambda: edgetl.load(path, engine=stated.engine),
            lambda: edgetl.load(path, candidate=recipe),
            lambda: edgetl.bench(path, duration=0.05),
            lambda: self_test(opened),
            lambda: open_session(opened, opened.manifest.candidates[-1]),
        ):
            with pytest.raises(EngineError, match=rf"{stated.engine} (may not|cannot).*{key}"):
                use()
    assert list(home.iterdir()) == []


def test_a_bad_image_is_an_error_or_a_row(model: Model, photos: list[Path], tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    with pytest.raises(ImageError, match="not an image in a format that edgetl reads"):
        model.predict([photos[0], text])
    good, bad, missing = model.predict([photos[0], text, tmp_path / "no.jpg"], keep_going=True)
    assert good.error is None
    assert (bad.image, bad.predictions) == (str(text), ())
    assert "not an image" in str(bad.error)
    assert "no such file" in str(missing.error)


@pytest.mark.parametrize("top", [0, -1])
def test_top_must_be_positive(model: Model, photos: list[Path], top: int) -> None:
    with pytest.raises(UsageError, match=f"top is {top}"):
        model.predict(photos[0], top=top)


@pytest.mark.parametrize("threads", [-1, 4 * available_cores() + 1, 100_000])
def test_threads_must_make_sense(tiny_bundle: Path, threads: int) -> None:
    with pytest.raises(UsageError, match=f"--threads {threads} is not possible"):
        edgetl.load(tiny_bundle, threads=threads)


def test_threads_are_passed_on(tiny_bundle: Path) -> None:
    with edgetl.load(tiny_bundle, threads=1) as opened:
        assert opened.describe().threads == 1


def test_what_was_asked_for_is_what_runs(tiny_bundle: Path) -> None:
    with edgetl.load(tiny_bundle) as opened:
        shipped = [(c.engine, c.precision) for c in opened.manifest.candidates]
    assert len(shipped) >= 4
    for engine, precision in shipped:
        with edgetl.load(tiny_bundle, engine=engine, precision=precision) as opened:
            described = opened.describe()
            assert (described.engine, described.precision) == (engine, precision)


@pytest.mark.parametrize(
    ("engine", "precision"), [("openvino", "fp16"), ("onnxruntime", "bf16"), ("tensorrt", "auto")]
)
def test_what_is_not_there_is_not_substituted(
    tiny_bundle: Path, engine: str, precision: str
) -> None:
    message = f"has no candidate for engine {engine}, precision {precision}; it has onnxruntime"
    with pytest.raises(EngineError, match=message):
        edgetl.load(tiny_bundle, engine=engine, precision=precision)


def test_a_candidate_is_chosen_by_name(tiny_bundle: Path) -> None:
    with edgetl.load(tiny_bundle) as opened:
        names = [c.name for c in opened.manifest.candidates]
    for name in names:
        with edgetl.load(tiny_bundle, candidate=name) as opened:
            assert opened.candidate.name == name
            assert opened.describe().engine == opened.candidate.engine


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"candidate": "ort-fp3"}, UnknownNameError, "Unknown candidate 'ort-fp3': did you mean"),
        (
            {"candidate": "ort-fp32", "engine": "onnxruntime"},
            UsageError,
            "Candidate ort-fp32 has an engine and a precision of its own",
        ),
        (
            {"candidate": "ort-fp32", "precision": "fp32"},
            UsageError,
            "Candidate ort-fp32 has an engine and a precision of its own",
        ),
    ],
)
def test_a_name_that_cannot_be(
    tiny_bundle: Path, options: dict[str, str], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as error:
        edgetl.load(tiny_bundle, **options)
    assert getattr(error.value, "fix", "")


def test_a_named_candidate_that_cannot_run_here_is_not_substituted(jetson_bundle: Path) -> None:
    from edgetl.engines import tensorrt

    if tensorrt.missing() is None:
        pytest.skip("TensorRT runs here")
    with pytest.raises(EngineMissingError, match=r"TensorRT|CUDA"):
        edgetl.load(jetson_bundle, candidate="trt-fp16-weak")


def test_an_engine_that_is_not_here_is_not_substituted(jetson_bundle: Path) -> None:
    from edgetl.engines import tensorrt

    if tensorrt.missing() is None:
        pytest.skip("TensorRT runs here")
    with pytest.raises(EngineMissingError, match=r"TensorRT|CUDA") as error:
        edgetl.load(jetson_bundle, engine="tensorrt")
    assert error.value.fix
    with edgetl.load(jetson_bundle) as opened:  # but nothing was asked for here
        assert opened.candidate.name == "ort-fp32"


def test_a_closed_model_says_so(tiny_bundle: Path, photos: list[Path]) -> None:
    with edgetl.load(tiny_bundle) as opened:
        pass
    with pytest.raises(EngineError, match="session is closed"):
        opened.predict(photos[0])
    with pytest.raises(BundleError, match="is closed"):
        opened.bundle.read("golden/inputs.npy")


def test_a_failed_load_leaves_no_file_open(tiny_bundle: Path, tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("only Linux lists open files")
    copy = Path(shutil.copy(tiny_bundle, tmp_path / "copy.edgetl"))
    with pytest.raises(EngineError):
        edgetl.load(copy, precision="fp16")
    assert copy.resolve() not in [p.resolve() for p in descriptors.iterdir()]


def test_images_from_memory_need_no_file(model: Model) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (4000, 3000), "navy").save(stream, "JPEG")
    assert len(model.predict(stream.getvalue())[0].predictions) == 3
