"""Candidates side by side: the figures are those worked out anew from each model's own logits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgetl
from edgetl.engines import find_engine, openvino
from edgetl.errors import DataError, EngineError, EngineMissingError, UnknownNameError, UsageError
from edgetl.inputs.base import Geometry
from edgetl.inputs.image import sized
from edgetl.runtime.compare.compare import compare
from edgetl.runtime.compare.comparison import NOT_FINITE, Answers, Scores
from edgetl.tasks.classification import Classification
from tests.helpers import batch

LABELS = ("bars", "disc", "square")
Write = Callable[..., Path]


def scored(logits: Any, temperatures: list[float], truth: list[str | None]) -> Scores:
    """Sides of these logits `(sides, images, 2)`."""
    task = Classification(labels=("x", "y"))
    sides = [
        Answers(
            task,
            task.Settings(temperature=warmth),
            {"logits": np.asarray(one, np.float64)},
            [Geometry((1, 1), (0, 0), (1, 1))] * len(one),
        )
        for one, warmth in zip(logits, temperatures, strict=True)
    ]
    return Scores(sides, truth)


def said(bundle: Path, photos: list[Path], engine: str, precision: str) -> tuple[Any, Any]:
    """Logits and probabilities `(N, 3)` of one candidate, without the code under test."""
    with edgetl.load(bundle, engine=engine, precision=precision) as model:
        seen = batch(photos, model.manifest.input)
        logits = np.concatenate([model.run(seen[i : i + 1])["logits"] for i in range(len(seen))])
        chance = np.concatenate([model.probabilities(seen[i : i + 1]) for i in range(len(seen))])
    return logits.astype(np.float64), chance.astype(np.float64)


@pytest.fixture(scope="module")
def pair(write_tiny: Write, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two candidates that differ in engine, precision and temperature."""
    if find_engine("openvino").missing():
        pytest.skip("OpenVINO is not here")
    path = tmp_path_factory.mktemp("compare") / "pair.edgetl"
    warm = {"ort-fp32": {"temperature": 2.0}, "ov-int8": {"temperature": 0.5}}
    return write_tiny(path, ("ort-fp32", "ov-int8"), warm)


@pytest.fixture
def wide(tmp_path: Path) -> list[Path]:
    """Photos that are twice as wide as high, so that each fit sees another picture."""
    rng, paths = np.random.default_rng(7), []
    for index in range(4):
        noise = rng.integers(0, 256, (24, 48, 3), np.uint8)
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(noise).resize((96, 48)).save(paths[-1])
    return paths


def test_figures_are_those_of_the_logits(pair: Path, shapes: Path) -> None:
    photos = sorted(shapes.rglob("*.png"))
    found = compare(pair, shapes, candidates=["ort-fp32", "ov-int8"], top=len(photos))
    (a, p) = said(pair, photos, "onnxruntime", "fp32")
    (b, q) = said(pair, photos, "openvino", "int8")
    truth = np.array([LABELS.index(photo.parent.name) for photo in photos])
    kl = (p * np.log(p / q)).sum(axis=1)
    same = a.argmax(1) == b.argmax(1)
    (other,) = found.pairs
    assert (found.n, found.known, found.labels) == (72, 72, LABELS)
    assert other.agreement == same.mean()
    assert other.logit_max == pytest.approx(np.abs(a - b).max())
    assert other.logit_mean == pytest.approx(np.abs(a - b).mean())
    assert other.probability_max == pytest.approx(np.abs(p - q).max(), rel=1e-4)
    assert other.probability_mean == pytest.approx(np.abs(p - q).mean(), rel=1e-4)
    assert other.kl_max == pytest.approx(kl.max(), rel=1e-4)
    assert other.kl_mean == pytest.approx(kl.mean(), rel=1e-4)
    assert kl.mean() > 0.01  # the temperatures differ: probabilities do, whatever the logits
    accuracies = [(a.argmax(1) == truth).mean(), (b.argmax(1) == truth).mean()]
    assert [side.accuracy for side in found.sides] == accuracies
    assert other.drop == pytest.approx(accuracies[0] - accuracies[1])
    assert other.drop_interval is not None
    for image in found.images:
        row = photos.index(Path(image.image))
        assert image.truth == photos[row].parent.name
        assert [answer.label for answer in image.answers] == [
            LABELS[a[row].argmax()],
            LABELS[b[row].argmax()],
        ]
        chances = [p[row].max(), q[row].max()]
        assert [one.probability for one in image.answers] == pytest.approx(chances, rel=1e-4)
        assert image.kl == pytest.approx(kl[row], rel=1e-3, abs=1e-6)
        assert image.agree == same[row]


def test_the_worst_come_first(write_tiny: Write, tmp_path: Path, shapes: Path) -> None:
    """The other bundle names its classes in another order, so that many answers differ."""
    first = write_tiny(tmp_path / "a.edgetl", ("ort-fp32",))
    other = write_tiny(tmp_path / "b.edgetl", ("ort-fp32",), labels=("disc", "bars", "square"))
    found = compare([first, other], shapes, top=1000)
    keys = [(image.agree, -(image.kl or 0.0)) for image in found.images]
    assert keys == sorted(keys)
    assert {agree for agree, _ in keys} == {True, False}
    assert found.pairs[0].agreement == sum(agree for agree, _ in keys) / len(keys)
    moved = sum(change.n for change in found.pairs[0].changes)
    assert moved == len(keys) - sum(agree for agree, _ in keys)
    three = compare([first, other], shapes, top=3)
    assert three.images == found.images[:3]
    assert three.pairs == found.pairs
    assert compare([first, other], shapes, top=0).images == ()


def test_classes_are_matched_by_name(write_tiny: Write, tmp_path: Path, wide: list[Path]) -> None:
    first = write_tiny(tmp_path / "a.edgetl", ("ort-fp32",))
    named = ("square", "bars", "disc")
    other = write_tiny(tmp_path / "b.edgetl", ("ort-fp32",), labels=named)
    found = compare([first, other], wide)
    logits, _ = said(first, wide, "onnxruntime", "fp32")
    columns = [named.index(label) for label in LABELS]
    assert found.pairs[0].logit_max == pytest.approx(np.abs(logits - logits[:, columns]).max())
    assert found.labels == LABELS
    assert found.notes == (
        "b: ort-fp32 lists the classes in another order; they were matched by name.",
    )
    assert [side.name for side in found.sides] == ["a: ort-fp32", "b: ort-fp32"]


def test_other_classes_are_refused(write_tiny: Write, tmp_path: Path, wide: list[Path]) -> None:
    first = write_tiny(tmp_path / "a.edgetl", ("ort-fp32",))
    other = write_tiny(tmp_path / "b.edgetl", ("ort-fp32",), labels=("bars", "disc", "star"))
    message = r"different classes: only \S+a\.edgetl has square; only \S+b\.edgetl has star\."
    with pytest.raises(DataError, match=message):
        compare([first, other], wide)


def test_each_bundle_has_its_own_preprocessing(
    write_tiny: Write, tmp_path: Path, wide: list[Path]
) -> None:
    paths = [
        write_tiny(tmp_path / f"{spec.fit}.edgetl", ("ort-fp32",), input=spec)
        for spec in (sized(32, "squash"), sized(32, "pad"))
    ]
    found = compare(paths, wide)
    a, b = (said(path, wide, "onnxruntime", "fp32")[0] for path in paths)
    assert np.abs(a - b).max() > 0.01
    assert found.pairs[0].logit_max == pytest.approx(np.abs(a - b).max())
    (note,) = found.notes
    assert "Preprocessing differs" in note
    assert "squash reads 32 px by squash; pad reads 32 px by pad" in note


def test_a_model_equals_itself(write_tiny: Write, tmp_path: Path, wide: list[Path]) -> None:
    first = write_tiny(tmp_path / "a.edgetl", ("ort-fp32",))
    other = write_tiny(tmp_path / "b.edgetl", ("ort-fp32",), name="another")
    (same,) = compare([first, other], wide).pairs
    assert (same.agreement, same.logit_max, same.probability_max, same.kl_max) == (1, 0, 0, 0)
    assert same.changes == ()


def test_engines_give_their_fastest(write_tiny: Write, tmp_path: Path, wide: list[Path]) -> None:
    if find_engine("openvino").missing():
        pytest.skip("OpenVINO is not here")
    path = write_tiny(
        tmp_path / "three.edgetl", ("ort-fp32", "ov-int8", "ov-fp32"), order=("ov-fp32", "ov-int8")
    )
    found = compare(path, wide, engines=["openvino", "onnxruntime"])
    assert [side.candidate for side in found.sides] == ["ov-fp32", "ort-fp32"]
    assert [side.engine for side in found.sides] == ["openvino", "onnxruntime"]
    for side in found.sides:
        with edgetl.load(path, engine=side.engine) as model:
            assert side.candidate == model.candidate.name == side.name
            assert side.engine_version == model.describe().version


def test_where_the_truth_comes_from(pair: Path, shapes: Path, tmp_path: Path) -> None:
    names = ["ort-fp32", "ov-int8"]
    single = shapes / "disc" / "00.png"
    deep = tmp_path / "square" / "more"
    deep.mkdir(parents=True)
    shutil.copy(single, deep / "x.png")
    for images, truth in (
        (shapes / "disc", "disc"),  # a folder may itself be the class's
        (single, "disc"),
        (tmp_path / "square", "square"),
        (deep / "x.png", None),
    ):
        found = compare(pair, images, candidates=names, top=1)
        assert found.images[0].truth == truth
        assert (found.sides[0].accuracy is None) == (truth is None)
        assert (found.pairs[0].drop is None) == (truth is None)
    both = compare(pair, [single, deep / "x.png"], candidates=names)
    assert (both.n, both.known) == (2, 1)
    assert "1 of 2 images are of known class; accuracy is over these" in both.notes[0]


def test_unreadable_images_are_named(pair: Path, wide: list[Path], tmp_path: Path) -> None:
    text, names = tmp_path / "text.jpg", ["ort-fp32", "ov-int8"]
    text.write_text("not an image")
    found = compare(pair, [wide[0], text, tmp_path / "no.jpg"], candidates=names)
    assert found.n == 1
    assert [item.image for item in found.unread] == [str(text), str(tmp_path / "no.jpg")]
    assert "not an image in a format" in found.unread[0].error
    with pytest.raises(DataError, match=r"None of the 2 images can be read: .*text\.jpg"):
        compare(pair, [text, tmp_path / "no.jpg"], candidates=names)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="No images in folder"):
        compare(pair, tmp_path / "empty", candidates=names)
    with pytest.raises(DataError, match="No images were given"):
        compare(pair, [], candidates=names)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, UsageError, "Only ort-fp32 would be compared"),
        ({"candidates": ["ov-int8"]}, UsageError, "Only ov-int8 would be compared"),
        ({"candidates": ["ov-int8"] * 2}, UsageError, "Only ov-int8 would be compared"),
        ({"candidates": ["ov-int9", "ort-fp32"]}, UnknownNameError, "'ov-int9': did you mean"),
        ({"engines": ["tvm", "openvino"]}, UnknownNameError, "Unknown engine 'tvm'"),
        ({"engines": ["onnxruntime", "tensorrt"]}, EngineError, "no candidate for engine tensorrt"),
        ({"engines": ["onnxruntime"], "candidates": ["ort-fp32"]}, UsageError, "both given"),
        ({"candidates": ["ort-fp32", "ov-int8"], "top": -1}, UsageError, "top is -1"),
    ],
)
def test_what_cannot_be_compared(
    pair: Path, wide: list[Path], options: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        compare(pair, wide, **options)
    assert caught.value.fix
    if "would be compared" in message:
        with pytest.raises(UsageError, match=message):
            compare([pair, pair], wide, **options)  # twice the same is still one
        assert "ort-fp32, ov-int8" in caught.value.fix


def test_a_refused_candidate_says_why(write_tiny: Write, tmp_path: Path, wide: list[Path]) -> None:
    path = write_tiny(
        tmp_path / "a.edgetl", ("ort-fp32", "ov-int8"), {"ov-int8": {"rejected": "too far off"}}
    )
    with pytest.raises(EngineError, match="does not hold ov-int8, which was refused: too far off"):
        compare(path, wide, candidates=["ort-fp32", "ov-int8"])


def test_an_absent_engine_says_so(
    write_tiny: Write, jetson_bundle: Path, tmp_path: Path, wide: list[Path]
) -> None:
    if find_engine("tensorrt").missing() is not None:
        with pytest.raises(EngineMissingError, match=r"TensorRT|CUDA"):
            compare(jetson_bundle, wide, candidates=["ort-fp32", "trt-fp16-weak"])
    if not any(name.startswith("GPU") for name in openvino.devices()):
        path = write_tiny(tmp_path / "gpu.edgetl", ("ov-gpu-fp16", "ort-fp32"))
        with pytest.raises(EngineMissingError, match="OpenVINO sees no GPU here"):
            compare(path, wide, candidates=["ort-fp32", "ov-gpu-fp16"])
        with edgetl.load(path) as model:
            assert model.candidate.name == "ort-fp32"


# --- the arithmetic, by hand --------------------------------------------------------------------


def test_scores_by_hand() -> None:
    half, most = np.log([0.5, 0.5]), np.log([0.9, 0.1])
    scores = scored([[most, most], [half, most]], [1.0, 1.0], ["x", "y"])
    pair = scores.pair(1, "other")
    kl = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    assert pair.kl_max == pytest.approx(kl)
    assert pair.kl_mean == pytest.approx(kl / 2)
    assert pair.probability_max == pytest.approx(0.4)
    assert pair.probability_mean == pytest.approx(0.2)
    assert [scores.accuracy(i) for i in (0, 1)] == [0.5, 0.5]
    assert scores.worst() == [0, 1]
    sharp = scored([[most], [most]], [1.0, 0.5], [None]).pair(1, "other")
    assert sharp.logit_max == 0
    assert sharp.probability_max == pytest.approx(0.81 / 0.82 - 0.9)


def test_nan_is_shown_not_averaged() -> None:
    good = [[2.0, 1.0], [1.0, 2.0], [3.0, 0.0]]
    bad = [[2.0, 1.0], [np.nan, 2.0], [3.0, np.inf]]
    scores = scored([good, bad], [1.0, 1.0], ["x", "y", "x"])
    pair = scores.pair(1, "other")
    assert pair.agreement == pytest.approx(1 / 3)
    assert (pair.logit_max, pair.kl_max, pair.changes) == (0, 0, ())
    assert scores.accuracy(1) == pytest.approx(1 / 3)
    assert set(scores.worst()[:2]) == {1, 2}
    image = scores.image(1, "a.png")
    assert (image.agree, image.kl, image.probability) == (False, None, None)
    assert [answer.label for answer in image.answers] == ["y", NOT_FINITE]
    nothing = scored([good, np.full((3, 2), np.nan)], [1.0, 1.0], [None] * 3)
    assert nothing.pair(1, "other").kl_mean is None
    assert nothing.pair(1, "other").agreement == 0


def test_large_logits_do_not_overflow() -> None:
    scores = scored([[[1e4, 0.0]], [[0.0, 1e4]]], [1.0, 1.0], [None])
    assert scores.pair(1, "other").kl_max == pytest.approx(1e4)
