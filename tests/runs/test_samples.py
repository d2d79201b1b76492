"""An export finds the run's own photos again, or says exactly which it cannot use."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgetl.errors import DataError, RunError
from edgetl.files import sha256_file
from edgetl.runs.folder import read_run
from edgetl.runs.record import RunRecord
from edgetl.runs.samples import RunPhotos
from tests.helpers import pixels


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run whose photos are not where they were."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def data(shapes: Path, tmp_path: Path) -> Path:
    """A copy of the photos that a test may spoil."""
    return Path(shutil.copytree(shapes, tmp_path / "moved"))


def astray(run: Path) -> RunRecord:
    record = read_run(run)
    return msgspec.structs.replace(
        record, data=msgspec.structs.replace(record.data, root="/nowhere")
    )


def test_photos_where_they_were(trained: Path, shapes: Path) -> None:
    record = read_run(trained)
    photos = RunPhotos(trained, record)
    chosen = photos.of("validation")
    assert record.validation is not None
    assert len(chosen) == record.validation.n
    images, geometries = photos.read(chosen)
    assert images.shape == (9, 48, 48, 3)
    np.testing.assert_array_equal(
        images[4], pixels((shapes / chosen[4].path).read_bytes(), record.input)
    )
    truth = record.task.targets(chosen, geometries)
    assert [record.task.labels[i] for i in truth] == [p.label for p in chosen]


def test_moved_photos_are_found_by_path(run: Path, data: Path) -> None:
    photos = RunPhotos(run, astray(run), str(data))
    assert photos.read(photos.of("validation"))[0].shape == (9, 48, 48, 3)


def test_moved_photos_are_found_by_content(run: Path, data: Path, tmp_path: Path) -> None:
    heap = tmp_path / "heap" / "deep"
    heap.mkdir(parents=True)
    for index, path in enumerate(sorted(data.rglob("*.png"))):
        path.rename(heap / f"IMG_{index}.PNG")
    (heap / "notes.txt").write_text("not a photo")
    photos = RunPhotos(run, astray(run), str(tmp_path / "heap"))
    for split in ("train", "validation"):
        photos.read(photos.of(split))


def test_a_picture_that_is_in_the_run_twice_is_found_for_both(run: Path, data: Path) -> None:
    record = astray(run)
    rows = (run / "data.jsonl").read_bytes().splitlines(keepends=True)
    twin = rows[0].replace(b"bars/00.png", b"bars/twin.png")
    assert twin != rows[0]
    (run / "data.jsonl").write_bytes(b"".join([*rows, twin]))
    record = msgspec.structs.replace(
        record,
        data=msgspec.structs.replace(record.data, sha256=sha256_file(run / "data.jsonl")),
    )
    (data / "bars" / "00.png").rename(data / "renamed.png")
    photos = RunPhotos(run, record, str(data))
    assert photos.paths["bars/00.png"] == photos.paths["bars/twin.png"] == data / "renamed.png"


def test_missing_photos_are_counted(run: Path, data: Path) -> None:
    record = astray(run)
    with pytest.raises(DataError, match=r"^63 of the 63 training and validation photos") as got:
        RunPhotos(run, record)
    assert "/nowhere" in got.value.message
    assert "--data" in got.value.fix
    photos = RunPhotos(run, record, str(data))
    needed = photos.of("train")[:2] + photos.of("validation")[:1]
    for photo in needed:
        (data / photo.path).unlink()
    with pytest.raises(DataError, match=r"^3 of the 63") as got:
        RunPhotos(run, record, str(data))
    assert any(photo.path in got.value.message for photo in needed)


def test_test_photos_are_not_needed(run: Path, data: Path) -> None:
    photos = RunPhotos(run, astray(run), str(data))
    for photo in photos.of("test"):
        (data / photo.path).unlink()
    RunPhotos(run, astray(run), str(data))


def test_a_changed_photo_is_refused_by_name(run: Path, data: Path) -> None:
    photos = RunPhotos(run, astray(run), str(data))
    chosen = photos.of("validation")
    victim = data / chosen[1].path
    shutil.copy(data / chosen[2].path, victim)
    with pytest.raises(DataError, match="is not the photo that the run was trained with") as got:
        photos.read(chosen)
    assert str(victim) in got.value.message


def test_no_data_folder(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No data folder at"):
        RunPhotos(run, astray(run), str(tmp_path / "gone"))


def test_a_spoilt_list_of_photos_is_refused(run: Path) -> None:
    listing = run / "data.jsonl"
    listing.write_bytes(listing.read_bytes()[:-40])
    with pytest.raises(RunError, match=r"data\.jsonl is not as the run wrote it"):
        RunPhotos(run, read_run(run))
    listing.unlink()
    with pytest.raises(RunError, match=r"data\.jsonl cannot be read: No such file"):
        RunPhotos(run, read_run(run))


# --- an order for calibration -------------------------------------------------------------------


def test_the_first_photos_of_the_order_hold_every_class(trained: Path) -> None:
    record = read_run(trained)
    photos = RunPhotos(trained, record)
    ranked = photos.ranked("train")
    assert sorted(p.path for p in ranked) == sorted(p.path for p in photos.of("train"))
    assert ranked != photos.of("train")  # shuffled
    for count in (3, 12, 24):
        assert set(Counter(p.label for p in ranked[:count]).values()) == {count // 3}
    assert RunPhotos(trained, record).ranked("train") == ranked
    assert {p.split for p in photos.ranked("validation")} == {"validation"}


def test_the_order_keeps_the_shares_of_unequal_classes(trained: Path) -> None:
    photos = RunPhotos(trained, read_run(trained))
    bars = [p for p in photos.photos if p.label == "bars" and p.split == "train"]
    dropped = {photo.path for photo in bars[: len(bars) - 4]}
    photos.photos = [photo for photo in photos.photos if photo.path not in dropped]
    counts = Counter(photo.label for photo in photos.ranked("train")[:19])
    assert counts["bars"] == 2
    assert abs(counts["disc"] - counts["square"]) <= 1


def test_the_seed_of_the_run_decides_the_order(trained: Path) -> None:
    record = read_run(trained)
    config = msgspec.structs.replace(record.config, seed=1)
    other = RunPhotos(trained, msgspec.structs.replace(record, config=config))
    ours, theirs = RunPhotos(trained, record).ranked("train")[:12], other.ranked("train")[:12]
    assert {p.path for p in ours} != {p.path for p in theirs}
