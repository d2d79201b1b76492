"""Photos that judge and calibrate a given model: found, checked and split without overlap."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgetl.errors import DataError
from edgetl.exporter.sources import folder
from edgetl.exporter.sources.folder import Folder, Use
from edgetl.inputs.image import sized
from edgetl.runs.samples import fingerprint
from edgetl.tasks.classification import Classification
from tests.helpers import pixels

SPEC = sized(24)
USES: tuple[Use, ...] = ("calibration", "held-out", "validation")

Draw = Callable[..., Path]


def paths(photos: Folder) -> dict[Use, set[str]]:
    return {use: {photo.path for photo in photos.of(use)} for use in USES}


def hashes(photos: Folder) -> dict[Use, set[str]]:
    return {use: {photo.sha256 for photo in photos.of(use)} for use in USES}


def apart(sets: dict[Use, set[str]]) -> bool:
    return len(set().union(*sets.values())) == sum(map(len, sets.values()))


@pytest.fixture
def loose(shapes: Path, tmp_path: Path) -> Path:
    """Twelve photos in one folder."""
    home = tmp_path / "loose"
    home.mkdir()
    for number, path in enumerate(sorted(shapes.rglob("*.png"))[::6]):
        shutil.copy(path, home / f"{number:02d}.png")
    return home


def test_class_folders_are_shared_out(shapes: Path) -> None:
    """Half the photos of every class judge, two fifths calibrate, a tenth stays out."""
    photos = Folder(shapes, SPEC)
    assert photos.classes == ("bars", "disc", "square")
    assert apart(paths(photos))
    assert apart(hashes(photos))
    counted = {use: Counter(p.label for p in photos.of(use)) for use in USES}
    assert all(count == 12 for count in counted["validation"].values())
    assert all(9 <= count <= 10 for count in counted["calibration"].values())
    assert all(2 <= count <= 3 for count in counted["held-out"].values())
    assert photos.warnings == []


def test_first_photos_hold_every_class(shapes: Path) -> None:
    """Any first ones do: a small calibration is not of one class."""
    for use in USES:
        assert len({photo.label for photo in Folder(shapes, SPEC).of(use)[:3]}) == 3


def test_seed_decides(shapes: Path) -> None:
    """The same seed gives the same split and hash, another one another."""
    first, again, other = (Folder(shapes, SPEC, seed=seed) for seed in (0, 0, 1))
    assert paths(first) == paths(again) != paths(other)
    assert first.sha256 == again.sha256 != other.sha256


def test_pixels_and_truth(shapes: Path) -> None:
    """Photos come through the one preprocessing, in order; classes in the order of the labels."""
    photos = Folder(shapes, SPEC, labels=("square", "round", "disc", "bars"))
    chosen = photos.of("validation")[:4]
    images, geometries = photos.read(chosen)
    assert images.shape == (4, 24, 24, 3)
    for photo, image in zip(chosen, images, strict=True):
        assert np.array_equal(image, pixels(shapes / photo.path, SPEC))
    order = {"square": 0, "disc": 2, "bars": 3}
    task = Classification(labels=("square", "round", "disc", "bars"))
    truth = task.targets(chosen, geometries)
    assert truth.tolist() == [order[photo.label] for photo in chosen]
    assert photos.read([])[0].shape == (0, 24, 24, 3)
    assert fingerprint(chosen) == fingerprint(chosen[::-1]) != fingerprint(chosen[:3])


def test_loose_photos(loose: Path) -> None:
    """Without class folders there are no classes, but all uses."""
    photos = Folder(loose, SPEC)
    assert photos.classes == ()
    assert {use: len(photos.of(use)) for use in USES} == {
        "calibration": 5,
        "held-out": 1,
        "validation": 6,
    }
    assert apart(paths(photos))


def test_few_photos_a_class(shapes: Path, tmp_path: Path) -> None:
    """One or two photos a class are shared out together: no use stays empty."""
    root = tmp_path / "many"
    for number, path in enumerate(sorted(shapes.rglob("*.png"))[:20]):
        home = root / f"class{number // 2 if number < 4 else number}"
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, home)
    counts = {use: len(Folder(root, SPEC).of(use)) for use in USES}
    assert counts == {"calibration": 8, "held-out": 2, "validation": 10}


def test_split_folders(drawn: Draw, tmp_path: Path) -> None:
    """`val` judges, `train` calibrates, `test` is left alone."""
    for seed, (name, count) in enumerate((("train", 10), ("val", 4), ("test", 5))):
        drawn(tmp_path / name, {"bars": count, "disc": count}, seed=100 * seed)
    photos = Folder(tmp_path, SPEC)
    starts = {use: {path.split("/")[0] for path in found} for use, found in paths(photos).items()}
    assert starts == {"calibration": {"train"}, "held-out": {"train"}, "validation": {"val"}}
    assert {use: len(photos.of(use)) for use in USES} == {
        "calibration": 16,
        "held-out": 4,
        "validation": 8,
    }


@pytest.mark.parametrize("names", [("train", "test"), ("train",), ("validation",), ("test", "val")])
def test_missing_splits_are_made(names: tuple[str, ...], drawn: Draw, tmp_path: Path) -> None:
    """Validation comes out of `train` where there is none, and calibration out of any."""
    for seed, name in enumerate(names):
        drawn(tmp_path / name, {"bars": 10, "disc": 10}, seed=100 * seed)
    photos = Folder(tmp_path, SPEC)
    assert apart(paths(photos))
    used = {path.split("/")[0] for found in paths(photos).values() for path in found}
    assert used == ({"train"} if "train" in names else set(names))
    assert all(photos.of(use) for use in USES)


def test_equal_files_have_one_use(shapes: Path, tmp_path: Path) -> None:
    """Copies go where the first goes, however many there are."""
    root = tmp_path / "copies"
    shutil.copytree(shapes, root)
    for path in sorted(root.rglob("*.png")):
        for number in range(2):
            shutil.copy(path, path.with_name(f"{path.stem}-{number}.png"))
    photos = Folder(root, SPEC)
    assert sum(len(photos.of(use)) for use in USES) == 3 * 72
    assert apart(hashes(photos))


def test_judges_that_are_in_training_too_judge_nothing(drawn: Draw, tmp_path: Path) -> None:
    """Of split folders nothing is moved, but what calibrates never judges."""
    drawn(tmp_path / "train", {"bars": 8, "disc": 8})
    drawn(tmp_path / "val", {"bars": 6, "disc": 6}, seed=4)  # of each class 4 are the same
    photos = Folder(tmp_path, SPEC)
    assert apart(hashes(photos))
    assert len(photos.of("validation")) == 4
    assert photos.warnings == [
        f"validation photos in {tmp_path} that are in training too judge nothing: 8."
    ]


def test_corrupt_photos_are_named(loose: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Some are skipped with a warning; when most are, it is an error."""
    (loose / "03.png").write_bytes(b"not a picture")
    (loose / "04.png").write_bytes(b"")
    photos = Folder(loose, SPEC)
    assert sum(len(photos.of(use)) for use in USES) == 10
    assert "skipped 2 of 12 photos: 03.png (" in photos.warnings[0]
    assert "04.png (the file is empty)" in caplog.text
    for path in loose.iterdir():
        path.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"12 of 12 photos in .* cannot be read: 00\.png .*7 more"):
        Folder(loose, SPEC)


def test_too_few_photos(loose: Path) -> None:
    """Copies and damaged files do not count."""
    found = sorted(loose.iterdir())
    for path in found[8:]:
        path.unlink()
    Folder(loose, SPEC)
    shutil.copy(found[0], found[1])
    with pytest.raises(DataError, match=r"7 different photos .*of 8 files; 0 unreadable.* 8 are"):
        Folder(loose, SPEC)


def test_no_photos(tmp_path: Path) -> None:
    """An empty folder, one that is not there, a file, and an empty class folder."""
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match=r"No photos in .*Fix: put at least 8"):
        Folder(tmp_path, SPEC)
    with pytest.raises(DataError, match="No data folder"):
        Folder(tmp_path / "absent", SPEC)
    with pytest.raises(DataError, match="is a file"):
        Folder(tmp_path / "notes.txt", SPEC)
    (tmp_path / "cats").mkdir()
    with pytest.raises(DataError, match="cats holds no photo"):
        Folder(tmp_path, SPEC)


def test_one_class(drawn: Draw, tmp_path: Path) -> None:
    """Refused as a class folder, accepted as what it is: photos without classes."""
    drawn(tmp_path, {"disc": 12})
    with pytest.raises(DataError, match=r"Only one class, disc, .*Fix: .*loose photos"):
        Folder(tmp_path, SPEC)
    assert Folder(tmp_path / "disc", SPEC).classes == ()


def test_folders_that_are_no_labels(shapes: Path) -> None:
    """Class folders must be named as the labels are."""
    with pytest.raises(DataError, match=r"2 of 3 class folders .*the 2 labels: bars, square\."):
        Folder(shapes, SPEC, labels=("disc", "cross"))


def test_photos_beside_class_folders_are_named(drawn: Draw, tmp_path: Path) -> None:
    drawn(tmp_path, {"bars": 6, "disc": 6})
    shutil.copy(tmp_path / "bars" / "00.png", tmp_path / "stray.png")
    photos = Folder(tmp_path, SPEC)
    assert "are not used: 1, stray.png for one." in photos.warnings[0]
    assert "stray.png" not in set().union(*paths(photos).values())


def test_judges_are_limited(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A huge folder does not fill the memory; every class keeps its share."""
    monkeypatch.setattr(folder, "MOST_VALIDATION", 9)
    photos = Folder(shapes, SPEC)
    assert Counter(photo.label for photo in photos.of("validation")) == {
        "bars": 3,
        "disc": 3,
        "square": 3,
    }
    assert photos.warnings == ["9 of 36 photos judge, by class share."]


def test_photos_are_decoded_once(loose: Path) -> None:
    """What was hashed is what calibrates, whatever becomes of the files."""
    photos = Folder(loose, SPEC)
    chosen = photos.of("validation")
    wanted = [pixels(loose / photo.path, SPEC) for photo in chosen]
    for photo in chosen:
        (loose / photo.path).unlink()
    np.testing.assert_array_equal(photos.read(chosen)[0], wanted)


def test_a_photo_that_changes_meanwhile(loose: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk has no room for decoded photos, they are read again, and hashed again."""
    monkeypatch.setattr(folder, "SHARE", 2**60)
    photos = Folder(loose, SPEC)
    chosen = photos.of("validation")[:2]
    shutil.copy(loose / chosen[1].path, loose / chosen[0].path)
    with pytest.raises(DataError, match="changed during the export"):
        photos.read(chosen)
    (loose / chosen[0].path).unlink()
    with pytest.raises(DataError, match="No such file"):
        photos.read(chosen)
