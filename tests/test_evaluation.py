"""Scoring a bundle on labelled photos."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgetl
from edgetl.errors import BundleError, DataError, EngineError, UsageError
from edgetl.evaluation import evaluate_samples
from edgetl.inputs.image import sized
from edgetl.spec import SkippedFile
from edgetl.tasks.classification import Classification
from tests.helpers import pixels

Draw = Callable[..., Path]
THREE = {"bars": 6, "disc": 5, "square": 4}


def test_scores_agree_with_predict(tiny_bundle: Path, drawn: Draw, tmp_path: Path) -> None:
    root = drawn(tmp_path / "d", THREE)
    seen: list[int] = []
    scores = edgetl.evaluate(tiny_bundle, root, advance=seen.append)
    assert (scores.n, sum(seen), scores.labels) == (15, 15, ("bars", "disc", "square"))
    with edgetl.load(tiny_bundle) as model:
        photos = sorted(root.rglob("*.png"))
        called = [model.predict(p, top=1)[0].predictions[0].label for p in photos]
    expected = np.zeros((3, 3), int)
    for photo, label in zip(photos, called, strict=True):
        expected[scores.labels.index(photo.parent.name), scores.labels.index(label)] += 1
    assert scores.confusion == tuple(map(tuple, expected.tolist()))
    assert scores.metrics["accuracy"] == pytest.approx(expected.trace() / 15)
    assert [c.n for c in scores.per_class] == [6, 5, 4]


def test_the_test_split_is_used_if_there_is_one(
    tiny_bundle: Path, drawn: Draw, tmp_path: Path
) -> None:
    root = tmp_path / "d"
    drawn(root / "train", THREE)
    drawn(root / "val", THREE, seed=50)
    assert edgetl.evaluate(tiny_bundle, root).n == 30
    drawn(root / "test", {"bars": 3, "disc": 2, "square": 1}, seed=90)
    assert edgetl.evaluate(tiny_bundle, root).n == 6
    assert edgetl.evaluate(tiny_bundle, root / "train").n == 15


def test_a_subset_of_the_classes_is_fine(tiny_bundle: Path, drawn: Draw, tmp_path: Path) -> None:
    scores = edgetl.evaluate(tiny_bundle, drawn(tmp_path / "d", {"square": 4}))
    assert scores.n == 4
    assert [c.n for c in scores.per_class] == [0, 0, 4]
    assert len(scores.confusion) == 3
    only = scores.per_class[2]
    assert scores.metrics["macro_f1"] == pytest.approx(only.f1)
    assert scores.metrics["accuracy"] == pytest.approx(only.recall)


def test_an_unknown_class_is_an_error(tiny_bundle: Path, drawn: Draw, tmp_path: Path) -> None:
    root = drawn(tmp_path / "d", THREE)
    (root / "disc").rename(root / "ring")
    with pytest.raises(DataError, match=r"does not know class ring of .*d\.") as error:
        edgetl.evaluate(tiny_bundle, root)
    assert "bars, disc, square" in error.value.fix


def test_classes_are_compared_in_one_form_of_accents(drawn: Draw, tmp_path: Path) -> None:
    """The labels of a model write é as two characters, the folders as one, or the reverse."""
    root = drawn(tmp_path / "d", {"bars": 3, "disc": 2})
    for folder, label in (("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")):
        (root / "disc").rename(root / folder)
        scores, _ = evaluate_samples(
            root,
            Classification(labels=("bars", label)),
            sized(8),
            lambda images: {"logits": np.eye(2, dtype=np.float32)[[1] * len(images)]},
        )
        assert [c.n for c in scores.per_class] == [3, 2]
        assert scores.per_class[1].label == label
        assert scores.per_class[1].recall == 1
        (root / folder).rename(root / "disc")


def test_corrupt_photos_are_skipped_and_counted(
    tiny_bundle: Path, drawn: Draw, tmp_path: Path
) -> None:
    root = drawn(tmp_path / "d", dict.fromkeys(THREE, 10))
    whole = edgetl.evaluate(tiny_bundle, root)
    (root / "disc" / "bad.png").write_bytes((root / "disc" / "00.png").read_bytes()[:100])
    skipped: list[SkippedFile] = []
    scores = edgetl.evaluate(tiny_bundle, root, skipped=skipped)
    assert scores == whole
    assert [item.path for item in skipped] == ["disc/bad.png"]
    assert skipped[0].reason


def test_too_many_corrupt_photos_are_an_error(
    tiny_bundle: Path, drawn: Draw, tmp_path: Path
) -> None:
    root = drawn(tmp_path / "d", THREE)
    for name in ("a", "b"):
        (root / "disc" / f"{name}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 17 photos .* cannot be read"):
        edgetl.evaluate(tiny_bundle, root)
    for photo in root.rglob("*.png"):
        photo.write_bytes(b"")
    with pytest.raises(DataError, match=r"17 of 17 photos .* cannot be read"):
        edgetl.evaluate(tiny_bundle, root)


def test_what_is_no_model_or_no_data_is_an_error(
    tiny_bundle: Path, shapes: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="No data folder"):
        edgetl.evaluate(tiny_bundle, tmp_path / "no")
    with pytest.raises(BundleError, match="does not exist"):
        edgetl.evaluate(tmp_path / "no.edgetl", shapes)
    with pytest.raises(EngineError, match="no candidate for engine auto, precision fp16"):
        edgetl.evaluate(tiny_bundle, shapes, precision="fp16")
    shutil.copy(tiny_bundle, tmp_path / "other.edgetl")
    with pytest.raises(DataError, match="is a file, not a folder"):
        edgetl.evaluate(tiny_bundle, tmp_path / "other.edgetl")


def test_more_photos_than_a_block(tiny_bundle: Path, shapes: Path) -> None:
    """Every candidate scores all 72 drawn photos, and about alike."""
    scores = {
        precision: edgetl.evaluate(tiny_bundle, shapes, engine="onnxruntime", precision=precision)
        for precision in ("fp32", "int8")
    }
    assert {s.n for s in scores.values()} == {72}
    assert abs(scores["fp32"].metrics["accuracy"] - scores["int8"].metrics["accuracy"]) < 0.1
    with edgetl.load(tiny_bundle, engine="onnxruntime", precision="fp32") as model:
        rows = [
            model.run(pixels(p, model.manifest.input)[np.newaxis])["logits"][0]
            for p in sorted(shapes.rglob("*.png"))
        ]
    truth = [i for i in range(3) for _ in range(24)]
    right = np.argmax(rows, axis=1) == truth
    assert scores["fp32"].metrics["accuracy"] == pytest.approx(right.mean())


def test_photos_that_a_run_was_trained_on_are_counted(
    trained: Path, shapes: Path, drawn: Draw, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edgetl.evaluate(trained, shapes)
    rows = [json.loads(line) for line in (trained / "data.jsonl").read_text().splitlines()]
    seen = sum(row["split"] != "test" for row in rows)
    assert f"{seen} of the 72 photos are among those that the model was trained" in caplog.text
    caplog.clear()
    edgetl.evaluate(trained, drawn(tmp_path / "new", THREE, seed=900))
    assert not caplog.text


@pytest.mark.parametrize(
    "options", [{"engine": "openvino"}, {"precision": "int8"}, {"candidate": "x"}, {"threads": 1}]
)
def test_a_run_has_no_engines(trained: Path, shapes: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="is a run, which PyTorch runs"):
        edgetl.evaluate(trained, shapes, **options)
