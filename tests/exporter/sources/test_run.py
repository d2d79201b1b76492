"""A finished run as a source of exports: which photos calibrate, choose and judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

import edgetl
from edgetl.errors import RunError
from edgetl.exporter.candidates import build
from edgetl.exporter.context import BuildContext
from edgetl.exporter.onnx.checks import check_onnx
from edgetl.exporter.sources.run import RunSource
from edgetl.recipes import find_recipe
from edgetl.runs.folder import read_run
from edgetl.runs.samples import RunPhotos, fingerprint
from edgetl.spec import Photo


@pytest.fixture(scope="module")
def source(trained: Path) -> RunSource:
    return RunSource(trained)


def paths(photos: list[Photo]) -> set[str]:
    return {photo.path for photo in photos}


def chosen(source: RunSource, images: np.ndarray) -> list[Photo]:
    """The training photos that these pixels are of."""
    photos = source.photos.of("train")
    known = {source.photos.read([p])[0].tobytes(): p for p in photos}
    assert len(known) == len(photos)
    return [known[image[np.newaxis].tobytes()] for image in images]


def test_calibration_is_of_training_stratified_and_repeatable(
    source: RunSource, trained: Path
) -> None:
    images, stated = source.calibration(24)
    photos = chosen(source, images)
    assert {photo.split for photo in photos} == {"train"}
    assert len(paths(photos)) == stated.n == 24
    assert set(Counter(photo.label for photo in photos).values()) == {8}
    assert stated.sha256 == fingerprint(photos) == fingerprint(photos[::-1])
    again, same = RunSource(trained).calibration(24)
    np.testing.assert_array_equal(again, images)
    assert same == stated
    smaller, other = source.calibration(12)
    assert other.sha256 != stated.sha256
    assert paths(chosen(source, smaller)) < paths(photos)


def test_no_photo_both_calibrates_and_chooses(source: RunSource) -> None:
    """A quarter of the training photos is kept out, however many are asked for."""
    images, stated = source.calibration(1000)
    out = source.held_out(1000)
    assert (stated.n, len(out)) == (41, 13)
    assert stated.n + len(out) == len(source.photos.of("train"))
    assert not paths(chosen(source, images)) & paths(chosen(source, out))
    assert set(Counter(p.label for p in chosen(source, out)).values()) <= {4, 5}
    np.testing.assert_array_equal(source.held_out(6), out[:6])


def test_a_run_of_two_photos_can_be_exported(drawn: Callable[..., Path], tmp_path: Path) -> None:
    """One calibrates, one chooses: too few to be any good, and no reason to fail."""
    for split, seed in (("train", 0), ("validation", 9)):
        drawn(tmp_path / "photos" / split, {"disc": 1, "square": 1}, seed=seed)
    edgetl.finetune(
        tmp_path / "photos",
        out=tmp_path / "run",
        backbone="squeezenet1_1",
        strategy="scratch",
        epochs=1,
        size=48,
    )
    source = RunSource(tmp_path / "run")
    images, stated = source.calibration(256)
    assert (len(images), stated.n) == (1, 1)
    assert source.held_out(64).shape == (1, 48, 48, 3)
    assert (images != source.held_out(64)).any()
    context = BuildContext(source, source.canonical())
    found = build(find_recipe("ort-int8"), context).quantization
    assert found is not None
    assert len(found.tried) == 3


def test_validation_alone_judges(source: RunSource, trained: Path) -> None:
    judges = source.validation()
    photos = RunPhotos(trained, read_run(trained))
    images, geometries = photos.read(photos.of("validation"))
    np.testing.assert_array_equal(judges.images, images)
    truth = source.task.targets(photos.of("validation"), geometries)
    np.testing.assert_array_equal(judges.targets, truth)
    assert judges.split == "validation"


def test_the_reference_is_the_network_that_was_validated(source: RunSource) -> None:
    judges = source.validation()
    right = source.reference(judges.images)["logits"].argmax(axis=1) == judges.targets
    assert source.record.validation is not None
    assert right.mean() == pytest.approx(source.record.validation.metrics["accuracy"])


def test_the_canonical_is_one_that_every_target_reads(source: RunSource) -> None:
    check_onnx(source.canonical(), max_opset=17)


def test_provenance_is_of_the_run_and_of_what_the_export_used(source: RunSource) -> None:
    found = source.provenance({"onnxruntime": "1.2.3"}, 0.02)
    assert found.edgetl == edgetl.__version__
    assert found.data_sha256 == source.record.data.sha256
    assert source.record.config.data
    assert found.config == msgspec.structs.replace(source.record.config, data="", labels=None)
    assert found.versions["onnxruntime"] == "1.2.3"
    assert found.versions["torch"] == source.record.versions["torch"]
    assert found.max_drop == 0.02
    assert found.test == source.record.test


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        RunSource(tmp_path)
    with pytest.raises(RunError, match="No run at"):
        RunSource(tmp_path / "gone")
