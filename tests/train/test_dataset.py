"""A checked, split data set from real files; every refusal by its message."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgetl.errors import DataError
from edgetl.files import decode_json, sha256_file
from edgetl.inputs.image import ImageInput, sized
from edgetl.spec import Photo
from edgetl.tasks.classification import Classification
from edgetl.tasks.multilabel import MultiLabel
from edgetl.train.dataset import Dataset, load_dataset, photo_lines
from tests.helpers import pixels

SPEC = sized(64)
Drawn = Callable[..., Path]


def load(root: Path, *, seed: int = 0, labels: str = "", spec: ImageInput = SPEC) -> Dataset:
    cache = root.parent / f"{root.name}-cache" / "photos.npy"
    return load_dataset(str(root), Classification, spec, cache, labels_csv=labels, seed=seed)


def splits(drawn: Drawn, root: Path, names: tuple[str, ...], count: int = 8) -> Path:
    for index, name in enumerate(names):
        drawn(root / name, {"disc": count, "square": count}, seed=100 * index)
    return root


def sides(found: Dataset) -> dict[str, str]:
    return {photo.path: photo.split for photo in found.photos}


# --- what is found ----------------------------------------------------------------------------


def test_plain_folders_are_split_70_15_15(shapes: Path, tmp_path: Path) -> None:
    cache = tmp_path / "photos.npy"
    ticks: list[int] = []

    @contextlib.contextmanager
    def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
        assert (title, total) == ("reading photos", 72)
        yield ticks.append

    found = load_dataset(str(shapes), Classification, SPEC, cache, bar=bar)
    assert found.summary.split_by == "seeded"
    assert found.summary.labels == ("bars", "disc", "square")
    for split, least, most in (("train", 16, 18), ("validation", 3, 4), ("test", 3, 4)):
        assert list(found.summary.counts[split]) == ["bars", "disc", "square"]
        assert all(least <= n <= most for n in found.summary.counts[split].values())
    assert ticks == [1] * 72
    for row in (0, 30, 71):
        photo = found.photos[row]
        assert photo.label == photo.path.split("/")[0]
        assert photo.sha256 == sha256_file(shapes / photo.path)
        assert np.array_equal(found.pixels[row], pixels(shapes / photo.path, SPEC))
    rows = found.rows("validation")
    assert [found.summary.labels[c] for c in found.targets(rows)] == [
        found.photos[i].label for i in rows
    ]
    lines = photo_lines(found.photos).splitlines()
    assert [msgspec.json.decode(line, type=Photo) for line in lines] == found.photos


def test_a_seed_makes_the_split_and_the_data_hash(shapes: Path, tmp_path: Path) -> None:
    first = load_dataset(str(shapes), Classification, SPEC, tmp_path / "1.npy", seed=3)
    again = load_dataset(str(shapes), Classification, SPEC, tmp_path / "2.npy", seed=3)
    other = load_dataset(str(shapes), Classification, SPEC, tmp_path / "3.npy", seed=4)
    assert first.photos == again.photos
    assert first.summary == again.summary
    assert sides(first) != sides(other)
    assert first.summary.sha256 != other.summary.sha256


def test_split_folders_are_kept_as_they_are(drawn: Drawn, tmp_path: Path) -> None:
    found = load(splits(drawn, tmp_path / "data", ("train", "valid", "test")))
    assert found.summary.split_by == "folders"
    assert found.summary.warnings == ()
    for path, side in sides(found).items():
        assert path.startswith("valid/" if side == "validation" else f"{side}/")


def test_without_a_validation_folder_15_per_cent_of_training_are_carved(
    drawn: Drawn, tmp_path: Path
) -> None:
    root = splits(drawn, tmp_path / "data", ("train", "test"), count=20)
    found = load(root)
    assert found.summary.split_by == "folders, validation seeded from training"
    assert found.summary.warnings == (
        "No validation split: 6 of the 40 training photos were set aside for it.",
    )
    assert found.summary.counts == {
        "train": {"disc": 17, "square": 17},
        "validation": {"disc": 3, "square": 3},
        "test": {"disc": 20, "square": 20},
    }
    assert all((side == "test") == path.startswith("test/") for path, side in sides(found).items())
    assert sides(load(root, seed=0)) == sides(found)
    assert sides(load(root, seed=1)) != sides(found)


def test_no_test_folder_is_a_warning(drawn: Drawn, tmp_path: Path) -> None:
    found = load(splits(drawn, tmp_path / "data", ("train", "val")))
    assert found.summary.warnings == ("No test split: test metrics are null.",)
    assert "test" not in found.summary.counts


def test_a_class_missing_from_test_is_a_warning(drawn: Drawn, tmp_path: Path) -> None:
    root = splits(drawn, tmp_path / "data", ("train", "val", "test"))
    shutil.rmtree(root / "test" / "disc")
    found = load(root)
    assert found.summary.warnings == ("Class disc has no test photo: its test score is missing.",)
    assert found.summary.counts["test"] == {"disc": 0, "square": 8}


def test_names_that_are_no_utf8_are_photos_like_others(drawn: Drawn, tmp_path: Path) -> None:
    root = drawn(tmp_path / "data", {"disc": 8, "square": 8})
    odd = os.fsdecode(b"disc/caf\xe9.png")
    (root / "disc/00.png").rename(root / odd)
    found = load(root)
    assert odd in {photo.path for photo in found.photos}
    assert found.summary.skipped_files == ()
    lines = photo_lines(found.photos).splitlines()
    assert [decode_json(line, Photo) for line in lines] == found.photos


def test_other_files_are_counted_but_are_no_unreadable_photos(drawn: Drawn, tmp_path: Path) -> None:
    root = drawn(tmp_path / "data", {"disc": 30, "square": 30})
    for index in range(20):
        (root / f"disc/{index:02d}.npy").write_bytes(b"numbers")
    (root / "square/00.png").write_bytes(b"")
    skipped = load(root).summary.skipped_files
    assert [(item.path, item.n) for item in skipped] == [("square/00.png", 1), ("disc/00.npy", 20)]


def test_classes_that_are_numbers_are_in_the_order_of_text(drawn: Drawn, tmp_path: Path) -> None:
    root = drawn(tmp_path / "data", {"bars": 8, "disc": 8, "square": 8})
    for name, number in (("bars", "10"), ("disc", "9"), ("square", "1")):
        (root / name).rename(root / number)
    found = load(root)
    assert found.summary.labels == ("1", "10", "9")
    assert "in the order of text, 1, 10, 9: read answers by label" in found.summary.warnings[0]
    assert [found.summary.labels[c] for c in found.targets(np.arange(24))] == [
        photo.path.split("/")[0] for photo in found.photos
    ]


# --- refusals ---------------------------------------------------------------------------------


def test_one_class_is_refused(drawn: Drawn, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Only one class, disc, in "):
        load(drawn(tmp_path / "data", {"disc": 4}))


@pytest.mark.parametrize(
    ("split", "other", "name"),
    [("train", "validation", "training"), ("val", "training", "validation")],
)
def test_a_class_missing_from_a_split_is_refused_before_reading(
    drawn: Drawn, tmp_path: Path, split: str, other: str, name: str
) -> None:
    root = splits(drawn, tmp_path / "data", ("train", "val"))
    shutil.rmtree(root / split / "square")
    match = rf"Class square has no {name} photo: it is only in {other} \(8 photos, .*square/00\.png"
    with pytest.raises(DataError, match=match):
        load(root)
    assert not (tmp_path / "data-cache").exists()


def test_a_class_of_one_photo_or_one_file_is_refused(drawn: Drawn, tmp_path: Path) -> None:
    root = drawn(tmp_path / "data", {"disc": 8, "square": 1})
    with pytest.raises(DataError, match=r"Class square has 1 photo .*square/00\.png; .*at least 2"):
        load(root)
    shutil.copy(root / "square/00.png", root / "square/copy.png")
    match = r"All 2 photos of class square are the same file, square/00\.png = square/copy\.png"
    with pytest.raises(DataError, match=match):
        load(root)


def test_more_than_5_per_cent_bad_files_are_refused_by_name(shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    for index in range(4):
        (root / f"disc/{index:02d}.png").write_bytes(b"no photo")
    match = (
        r"4 of 72 photos in .* cannot be read, which is more than 5%: disc/00\.png \(not an image "
        r"in a format that edgetl reads\); disc/01\.png .*; disc/02\.png .*; …"
    )
    with pytest.raises(DataError, match=match):
        load(root)


def test_up_to_5_per_cent_bad_files_are_skipped_and_listed(shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    whole = (root / "square/03.png").read_bytes()
    (root / "bars/00.png").write_bytes(b"")
    (root / "disc/10.png").write_text("a letter, not a photo")
    (root / "square/03.png").write_bytes(whole[: len(whole) // 2])
    found = load(root)
    skipped = {item.path: item.reason for item in found.summary.skipped_files}
    assert list(skipped) == ["bars/00.png", "disc/10.png", "square/03.png"]
    assert skipped["bars/00.png"] == "the file is empty"
    assert skipped["disc/10.png"] == "not an image in a format that edgetl reads"
    assert "cut off" in skipped["square/03.png"]
    assert len(found.photos) == len(found.pixels) == 69
    for row, photo in enumerate(found.photos):  # the gaps have not shifted any row
        assert np.array_equal(found.pixels[row], pixels(root / photo.path, SPEC))


def test_a_class_whose_photos_are_all_damaged_is_named(drawn: Drawn, tmp_path: Path) -> None:
    root = drawn(tmp_path / "data", {"bars": 40, "disc": 40, "square": 1})
    (root / "bars/07.png").write_bytes(b"")
    (root / "square/00.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"Every photo of class square is unreadable, square/00"):
        load(root)


# --- duplicates -------------------------------------------------------------------------------


def jpeg(image: Image.Image, path: Path, quality: int) -> None:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    path.write_bytes(stream.getvalue())


@pytest.fixture(scope="module")
def repeated(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 30 real photos, and of the first 12 five copies each."""
    root = tmp_path_factory.mktemp("repeated") / "data"
    for label in ("dress", "hat"):
        (root / label).mkdir(parents=True)
        for index, path in enumerate(
            sorted((shared / "data/clothing/train" / label).iterdir())[:30]
        ):
            stem = root / label / f"{index:02d}"
            shutil.copy(path, f"{stem}.jpg")
            if index >= 12:
                continue
            shutil.copy(path, f"{stem}-same.jpg")
            with Image.open(path) as opened:
                image = opened.convert("RGB")
            width, height = image.size
            jpeg(image, Path(f"{stem}-q60.jpg"), 60)
            jpeg(image.resize((width * 9 // 10, height * 9 // 10)), Path(f"{stem}-small.jpg"), 90)
            box = (width // 100, height // 100, width - width // 100, height - height // 100)
            jpeg(image.crop(box), Path(f"{stem}-crop.jpg"), 90)
            image.save(f"{stem}-png.png")
    return root


@pytest.mark.parametrize("seed", range(4))
def test_copies_never_land_on_two_sides(repeated: Path, seed: int) -> None:
    found = load(repeated, seed=seed, spec=sized(224))
    homes: dict[str, set[str]] = {}
    for path, side in sides(found).items():
        homes.setdefault(path[: path.index("/") + 3], set()).add(side)
    assert len(homes) == 60
    assert all(len(home) == 1 for home in homes.values())
    assert {photo.split for photo in found.photos} == {"train", "validation", "test"}
    assert found.summary.duplicates == 24 * 5
    assert found.summary.warnings == ()


def test_copies_in_user_made_splits_are_reported_and_not_moved(
    repeated: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    for label in ("dress", "hat"):
        for index, name in enumerate(sorted(p.name for p in (repeated / label).iterdir())):
            side = "test" if "-q60" in name else ("val" if index % 5 == 4 else "train")
            if "-" in name and "-q60" not in name:
                continue
            (root / side / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(repeated / label / name, root / side / label / name)
    found = load(root, spec=sized(224))
    for path, side in sides(found).items():
        assert path.split("/")[0] == {"validation": "val"}.get(side, side)
    (warning,) = found.summary.warnings
    assert warning.startswith("The same picture is in two splits (")
    assert "nothing was moved: " in warning
    assert "00-q60.jpg" in warning
    assert found.summary.duplicates == 24


def test_carving_validation_keeps_copies_together(repeated: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(repeated, root / "train")
    found = load(root, spec=sized(224))
    homes: dict[str, set[str]] = {}
    for path, side in sides(found).items():
        label, name = path.split("/")[1:]
        homes.setdefault(f"{label}/{name[:2]}", set()).add(side)
    assert all(len(home) == 1 for home in homes.values())
    assert {photo.split for photo in found.photos} == {"train", "validation"}


def test_one_picture_under_two_labels_is_reported(drawn: Drawn, tmp_path: Path) -> None:
    root = drawn(tmp_path / "data", {"disc": 10, "square": 10})
    shutil.copy(root / "disc/04.png", root / "square/wrong.png")
    found = load(root)
    assert found.summary.warnings == (
        "1 pair shows the same picture under two labels: disc/04.png = square/wrong.png.",
    )
    assert sides(found)["disc/04.png"] == sides(found)["square/wrong.png"]


# --- fixed cameras ----------------------------------------------------------------------------


def camera(root: Path, counts: dict[str, int], *, seed: int = 0, exif: bool = False) -> Path:
    """Photos of one part by a fixed camera, numbered in order of time; classes by a small mark."""
    rng = np.random.default_rng(seed)
    scene = np.random.default_rng(99).uniform(60, 190, (12, 12)).astype(np.uint8)
    part = np.asarray(Image.fromarray(scene).resize((96, 96), Image.Resampling.BICUBIC), float)
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for index in range(count):
            values = np.roll(part, rng.integers(-1, 2, 2), (0, 1)) * rng.uniform(0.98, 1.02)
            values = (values + rng.normal(0, 2, values.shape)).clip(0, 255).astype(np.uint8)
            photo = Image.fromarray(values)
            if label != "fine":
                x, y = (int(v) for v in rng.integers(20, 70, 2))
                photo.paste(255, (x, y, x + 4, y + 4))
            taken = Image.Exif()
            if exif:  # the names run backwards in time
                taken[0x0132] = f"2024:01:01 10:{59 - index:02d}:00"
            photo.save(root / label / f"shot{index + 1}.png", exif=taken)
    return root


def runs_of(found: Dataset, label: str, order: Callable[[str], int]) -> int:
    """How often the side changes along a class's photos in order of time, plus 1."""
    photos = sorted((p for p in found.photos if p.label == label), key=lambda p: order(p.path))
    return 1 + sum(a.split != b.split for a, b in itertools.pairwise(photos))


def shot(path: str) -> int:
    return int(path.rpartition("shot")[2].removesuffix(".png"))


@pytest.mark.parametrize("count", [5, 9, 60])
def test_a_fixed_camera_is_split_in_blocks_and_said(tmp_path: Path, count: int) -> None:
    found = load(camera(tmp_path / "data", {"fine": count, "marked": count}))
    assert found.summary.duplicates == 0
    for split in ("train", "validation", "test"):
        assert set(found.summary.counts[split].values()) <= set(range(1, count))
    (warning,) = found.summary.warnings
    assert f"({count} of {count} fine, {count} of {count} marked)" in warning
    assert "split in blocks by their file names" in warning
    assert "make folders train, validation and test" in warning
    if count == 60:  # 20 blocks of 3, where single photos would change sides some 28 times
        for label in ("fine", "marked"):
            assert runs_of(found, label, shot) <= 20
        for photo in found.photos:
            block = {p.split for p in found.photos if p.label == photo.label
                     and (shot(p.path) - 1) // 3 == (shot(photo.path) - 1) // 3}  # fmt: skip
            assert len(block) == 1


def test_blocks_follow_the_cameras_clock_where_all_photos_tell_it(tmp_path: Path) -> None:
    root = camera(tmp_path / "data", {"fine": 40, "marked": 40}, exif=True)
    rng = np.random.default_rng(1)
    for label in ("fine", "marked"):  # names that say nothing
        for path in sorted((root / label).iterdir()):
            path.rename(path.with_name(f"{rng.integers(2**40)}-{path.name}"))
    found = load(root)
    assert "by the time of their EXIF data" in found.summary.warnings[0]
    assert runs_of(found, "fine", lambda path: -shot(path)) <= 20


def test_with_own_splits_a_fixed_camera_raises_no_alarm(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for seed, split in enumerate(("train", "val", "test")):
        camera(root / split, {"fine": 20, "marked": 20}, seed=seed)
    found = load(root)
    (warning,) = found.summary.warnings
    assert "(60 of 60 fine, 60 of 60 marked)" in warning
    assert "only byte-identical files are taken for the same picture" in warning
    shutil.copy(root / "train/fine/shot7.png", root / "test/marked/other.png")
    texts = " ".join(load(root).summary.warnings)
    assert "1 pair shows the same picture under two labels: test/marked/other.png = train" in texts


def test_copies_of_one_file_are_no_crowd(drawn: Drawn, tmp_path: Path) -> None:
    root = drawn(tmp_path / "data", {"disc": 20, "square": 20})
    for index in range(12):
        shutil.copy(root / "disc/00.png", root / f"disc/copy{index}.png")
    found = load(root)
    assert found.summary.warnings == ()
    assert found.summary.duplicates == 12
    assert len({side for path, side in sides(found).items() if "copy" in path}) == 1


# --- samples of more than 8 bits --------------------------------------------------------------


def deep(root: Path, counts: dict[str, int], bits: int, kind: str = "tif") -> Path:
    """Grey photos whose samples have `bits` bits, in files of 16 bits."""
    rng = np.random.default_rng(0)
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for index in range(count):
            small = rng.integers(2 ** (bits - 2), 2**bits, (6, 6)).repeat(12, 0).repeat(12, 1)
            small[0, 0] = 2**bits - 1
            Image.fromarray(small.astype(np.uint16)).save(root / label / f"{index}.{kind}")
    return root


@pytest.mark.parametrize("kind", ["tif", "png"])
def test_12_bits_in_16_are_said_once_with_counts_and_can_be_stretched(
    tmp_path: Path, kind: str
) -> None:
    root = deep(tmp_path / "data", {"a": 12, "b": 12}, 12, kind)
    dark = load(root)
    assert dark.summary.warnings == (
        "24 of 24 photos of more than 8 bits have samples of at most 12 bits (below 4096): taken "
        "as 16 bits they are nearly black, 0…15 of 255. --depth 12 stretches them (preprocessing "
        "rules 2).",
    )
    assert dark.pixels.max() <= 15
    right = load(root, spec=sized(64, "crop", 12))
    assert right.summary.warnings == ()
    assert right.pixels.max() > 240


def test_8_bits_in_16_are_refused_with_the_way_out(tmp_path: Path) -> None:
    root = deep(tmp_path / "data", {"a": 12, "b": 12}, 8)
    match = (
        r"24 of 24 photos .* \(nothing but black would be left: .* 255 of 65535; --depth 8 reads"
    )
    with pytest.raises(DataError, match=match):
        load(root)
    assert load(root, spec=sized(64, "crop", 8)).pixels.max() > 240


def test_some_dark_files_among_others_are_counted(tmp_path: Path) -> None:
    root = deep(tmp_path / "data", {"a": 12, "b": 12}, 16)
    deep(tmp_path / "low", {"a": 3}, 10)
    for path in (tmp_path / "low/a").iterdir():
        path.rename(root / "a" / f"low{path.name}")
    (warning,) = load(root).summary.warnings
    assert warning.startswith("3 of 27 photos of more than 8 bits have samples of at most 10 bits")
    assert warning.endswith("unlike the others. Save all photos at one depth.")


# --- tables -----------------------------------------------------------------------------------


def written(root: Path, header: str, rows: list[str]) -> str:
    (root.parent / "labels.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    return str(root.parent / "labels.csv")


@pytest.mark.parametrize("seed", range(3))
def test_groups_of_a_table_never_cross(shapes: Path, tmp_path: Path, seed: int) -> None:
    names = sorted(path.relative_to(shapes).as_posix() for path in shapes.rglob("*.png"))
    rows = [f"{name},{name.split('/')[0]},{name[:4]}{int(name[-6:-4]) // 3}" for name in names]
    labels = written(tmp_path / "x", "path,label,group", rows)
    cache = tmp_path / "photos.npy"
    found = load_dataset(str(shapes), Classification, SPEC, cache, labels_csv=labels, seed=seed)
    assert found.summary.split_by == "seeded"
    homes: dict[str, set[str]] = {}
    for photo in found.photos:
        homes.setdefault(photo.group, set()).add(photo.split)
    assert len(homes) == 24
    assert all(len(home) == 1 for home in homes.values())
    for counts in found.summary.counts.values():
        assert all(count >= 3 for count in counts.values())


def test_a_table_with_splits_is_followed(shapes: Path, tmp_path: Path) -> None:
    names = sorted(path.relative_to(shapes).as_posix() for path in shapes.rglob("*.png"))
    split = ("train", "train", "val")
    rows = [f"{name},{name.split('/')[0]},{split[i % 3]}" for i, name in enumerate(names)]
    labels = written(tmp_path / "x", "path,label,split", rows)
    found = load_dataset(
        str(shapes), Classification, SPEC, tmp_path / "photos.npy", labels_csv=labels
    )
    assert found.summary.split_by == "csv"
    for i, name in enumerate(names):
        assert sides(found)[name] == ("validation" if i % 3 == 2 else "train")


def test_a_table_without_validation_keeps_groups_when_carving(shapes: Path, tmp_path: Path) -> None:
    names = sorted(path.relative_to(shapes).as_posix() for path in shapes.rglob("*.png"))
    rows = [f"{n},{n.split('/')[0]},train,{n[:4]}{int(n[-6:-4]) // 4}" for n in names]
    labels = written(tmp_path / "x", "path,label,split,group", rows)
    found = load_dataset(
        str(shapes), Classification, SPEC, tmp_path / "photos.npy", labels_csv=labels
    )
    assert found.summary.split_by == "csv, validation seeded from training"
    homes: dict[str, set[str]] = {}
    for photo in found.photos:
        homes.setdefault(photo.group, set()).add(photo.split)
    assert all(len(home) == 1 for home in homes.values())
    assert found.summary.counts["validation"] == {"bars": 4, "disc": 4, "square": 4}


def test_copies_stay_on_one_side_whatever_classes_they_show(tmp_path: Path) -> None:
    """Each picture twice, most under a set of labels that no other has."""
    root, lines = tmp_path / "many", ["path,labels"]
    root.mkdir()
    for number in range(60):
        rng = np.random.default_rng(number)
        noise = rng.integers(0, 256, (12, 12, 3), np.uint8)
        image = Image.fromarray(noise).resize((96, 96), Image.Resampling.BICUBIC)
        shown = "|".join(name for name in "abcdef" if rng.random() < 0.5)
        for quality in (95, 60):
            image.save(root / f"{number:02}-{quality}.jpg", quality=quality)
            lines.append(f"{number:02}-{quality}.jpg,{shown if quality == 95 else shown + '|g'}")
    (tmp_path / "many.csv").write_text("\n".join(lines))
    found = load_dataset(
        str(root), MultiLabel, SPEC, tmp_path / "photos.npy", labels_csv=str(tmp_path / "many.csv")
    )
    home = sides(found)
    assert set(home.values()) == {"train", "validation", "test"}
    parted = [n for n in range(60) if home[f"{n:02}-95.jpg"] != home[f"{n:02}-60.jpg"]]
    assert parted == []
    assert found.summary.duplicates == 60
