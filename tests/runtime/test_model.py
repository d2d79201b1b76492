"""Predicting: what may be given, what comes back, what is refused."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgetl
from edgetl.errors import (
    BundleError,
    EngineError,
    EngineMissingError,
    ImageError,
    UnknownNameError,
    UsageError,
)
from edgetl.machine import available_cores
from edgetl.preprocess import pixels
from edgetl.runtime.model import Model


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
    image = pixels(photos[0], model.manifest.preprocess)[np.newaxis]
    logits = model.logits(image)
    path = write_tiny(tmp_path / "t.edgetl", ("ort-fp32",), {"ort-fp32": {"temperature": 4.0}})
    with edgetl.load(path) as warm:
        np.testing.assert_array_equal(warm.logits(image), logits)
        expected = np.exp(logits / 4) / np.exp(logits / 4).sum()
        np.testing.assert_allclose(warm.probabilities(image), expected, rtol=1e-5)


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
        names = [c.recipe for c in opened.manifest.candidates]
    for name in names:
        with edgetl.load(tiny_bundle, candidate=name) as opened:
            assert opened.candidate.recipe == name
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
        assert opened.candidate.recipe == "ort-fp32"


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
