"""Class and split by folders; what may mean two things is refused by name."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from edgetl.data.formats.folders import Labelled, by_folders
from edgetl.data.walk import walk
from edgetl.errors import DataError


def fill(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"photo")
    return root


def classes(root: Path, *names: str, count: int = 2) -> Path:
    """`count` files in each of the class folders `names`."""
    return fill(root, *(f"{name}/{i}.jpg" for name in names for i in range(count)))


def read(root: Path, *, need_train: bool = True, known: tuple[str, ...] = ()) -> Labelled:
    return by_folders(root, walk(root), need_train=need_train, known=known)


def splits(found: Labelled) -> set[tuple[str | None, str]]:
    return {(item.split, item.path.rpartition("/")[0]) for item in found.photos}


# --- splits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("Training", "Validate", "TESTING"),
        ("train_set", "dev_set", "test_set"),
        ("set_train", "eval", "set_test"),
        ("Train Images", "Evaluation Images", "Test Images"),
        ("train2017", "val2017", "test2017"),
    ],
)
def test_split_folders_by_the_names_that_people_use(
    train: str, validation: str, test: str, tmp_path: Path
) -> None:
    classes(tmp_path, f"{train}/a", f"{validation}/a", f"{test}/a")
    found = read(tmp_path)
    assert splits(found) == {
        ("train", f"{train}/a"),
        ("validation", f"{validation}/a"),
        ("test", f"{test}/a"),
    }
    assert {item.label for item in found.photos} == {"a"}
    assert found.warnings == []


@pytest.mark.parametrize("name", ["train", "test", "val", "dev", "evaluation"])
def test_a_class_may_be_called_like_a_split(name: str, tmp_path: Path) -> None:
    classes(tmp_path, "bus", "car", name)
    assert splits(read(tmp_path)) == {(None, "bus"), (None, "car"), (None, name)}


@pytest.mark.parametrize(
    "names",
    [
        ("seg_train/seg_train/a", "seg_test/seg_test/a", "seg_pred"),
        ("1_train/a", "2_val/b"),
        ("train", "test", "bus"),
    ],
)
def test_folders_named_as_splits_in_another_way_are_refused(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    classes(tmp_path, *names)
    with pytest.raises(DataError, match=r"(test|train), \w+ in .* may be splits or classes"):
        read(tmp_path)
    labels = tuple(name.partition("/")[0] for name in names)
    assert {item.label for item in read(tmp_path, known=labels).photos} == set(labels)


def test_two_folders_for_one_split(tmp_path: Path) -> None:
    classes(tmp_path, "train/a", "val/a", "Validation Set/a")
    with pytest.raises(DataError, match=r"both Validation Set and val, which mean the same split"):
        read(tmp_path)


def test_no_training_split(tmp_path: Path) -> None:
    classes(tmp_path, "test/a", "test/b", "a", count=3)
    with pytest.raises(DataError, match=r"has test but no train folder; beside lies a \(3 photos"):
        read(tmp_path)
    found = read(tmp_path, need_train=False)
    assert {item.split for item in found.photos} == {"test"}
    assert found.warnings == [
        "Not used, because the name means no split: a (3 photos), beside test."
    ]


def test_a_folder_beside_splits_that_may_be_one_is_refused(tmp_path: Path) -> None:
    classes(tmp_path, "train/cat", "train/dog", "holdout/CAT", "holdout/dog")
    with pytest.raises(DataError, match=r"holdout in .* holds class folders as train does.*rename"):
        read(tmp_path)
    (warning,) = read(tmp_path, need_train=False).warnings
    assert "holdout (4 photos), beside train" in warning


def test_photos_beside_splits_are_counted(tmp_path: Path) -> None:
    classes(tmp_path, "train/cat", "val/cat", "unlabelled", count=5)
    fill(tmp_path, "docs/readme.md", "one.jpg", "two.jpg", "train/three.jpg")
    found = read(tmp_path)
    assert len(found.photos) == 10
    assert found.warnings == [
        f"Photos beside the split folders in {tmp_path} are not used: 2, one.jpg for one.",
        "Not used, because the name means no split: unlabelled (5 photos), beside train, val.",
        f"Photos beside the class folders in {tmp_path}/train are not used: 1, three.jpg for one.",
    ]


def test_a_class_with_folders_among_classes_is_no_split(tmp_path: Path) -> None:
    classes(tmp_path, "bus", "car", "train", "train/old")
    with pytest.raises(
        DataError, match=r"train in .* photos and folders .* beside bus, car: it may"
    ):
        read(tmp_path)


def test_a_split_without_classes(tmp_path: Path) -> None:
    classes(tmp_path, "train/a", "train/b", "test", count=3)
    with pytest.raises(DataError, match=r"No class folders in .*/test, but 3 photos"):
        read(tmp_path)


# --- classes ----------------------------------------------------------------------------------


def test_no_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No class folders in .*one folder a class"):
        read(tmp_path)
    fill(tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(DataError, match=r"No class folders in .*, but 2 photos"):
        read(tmp_path)


def test_loose_photos_are_counted(tmp_path: Path) -> None:
    classes(tmp_path, "a", "b")
    fill(tmp_path, "x.jpg", "y.png", "z.txt")
    assert read(tmp_path).warnings == [
        f"Photos beside the class folders in {tmp_path} are not used: 2, x.jpg for one."
    ]


def test_an_empty_class_says_what_it_holds(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.jpg", "train/b/notes.txt")
    with pytest.raises(DataError, match=r"Class folder .*/train/b holds no photo\."):
        read(tmp_path)
    fill(tmp_path, *(f"train/b/{i}.dcm" for i in range(8)), "train/b/x.npy")
    with pytest.raises(
        DataError, match=r"b holds no photo: 8 files are \.dcm \(DICOM\).*; 1 file is"
    ):
        read(tmp_path)


@pytest.mark.parametrize("home", ["", "train/"])
def test_equal_folders_in_all_folders_are_refused(home: str, tmp_path: Path) -> None:
    classes(
        tmp_path, *(f"{home}{site}/{state}" for site in ("s1", "s2") for state in ("ok", "bad"))
    )
    with pytest.raises(DataError, match=r"\(s1, s2\) hold the same folders \(bad, ok\)"):
        read(tmp_path)
    assert len(read(tmp_path, known=("s1", "s2")).photos) == 8


def test_some_equal_folders_are_a_warning(tmp_path: Path) -> None:
    classes(tmp_path, "s1/ok", "s1/bad", "s2/ok", "s2/bad", "s2/odd")
    (warning,) = read(tmp_path).warnings
    assert "folders of the same names (bad, ok)" in warning
    assert "(s1, s2) are taken for the classes" in warning


def test_equal_folders_in_all_but_one_are_a_warning(tmp_path: Path) -> None:
    classes(tmp_path, "s1/ok", "s1/bad", "s2/ok", "s2/bad", "other")
    (warning,) = read(tmp_path).warnings
    assert "the outer folders (other, s1, s2) are taken for the classes" in warning


@pytest.mark.parametrize(
    "names", [("cat/images", "dog/images"), ("cat/a", "dog/b"), ("cat/a", "cat/b", "dog")]
)
def test_folders_in_classes_are_fine(names: tuple[str, ...], tmp_path: Path) -> None:
    classes(tmp_path, *names)
    found = read(tmp_path)
    assert {item.label for item in found.photos} == {"cat", "dog"}
    assert found.warnings == []


@pytest.mark.parametrize(
    "names",
    [("images", "masks"), ("train/Images", "train/labels"), ("cat/images", "cat/mask", "dog")],
)
def test_masks_and_labels_are_no_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    classes(tmp_path, *names)
    with pytest.raises(DataError, match=r"(?i)images, (masks?|labels) in .*, not classes"):
        read(tmp_path)


def test_annotations_without_photos_are_no_class_either(tmp_path: Path) -> None:
    fill(tmp_path, "JPEGImages/1.jpg", "Annotations/1.xml", "ImageSets/Main/train.txt")
    with pytest.raises(DataError, match=r"detection or segmentation, not classes"):
        read(tmp_path)


def test_splits_inside_classes_are_refused(tmp_path: Path) -> None:
    classes(tmp_path, "cat/train", "cat/val", "dog/train")
    with pytest.raises(DataError, match=r"cat holds the splits train, val.*train/cat/… instead of"):
        read(tmp_path)


@pytest.mark.parametrize("names", [("set/cat", "set/dog"), ("set/train/cat", "set/test/cat")])
def test_one_folder_around_everything(names: tuple[str, ...], tmp_path: Path) -> None:
    classes(tmp_path, *names)
    fill(tmp_path, "notes/read.me.txt")
    with pytest.raises(
        DataError,
        match=r"Only one folder with photos, set, in .*(cat, dog|test, train)\..*give .*/set",
    ):
        read(tmp_path)


# --- names ------------------------------------------------------------------------------------

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_accents_are_compared_in_one_form_and_opened_as_spelled(tmp_path: Path) -> None:
    classes(tmp_path, f"train/{NFC}", f"val/{NFD}")
    found = read(tmp_path)
    assert {item.label for item in found.photos} == {NFC}
    assert splits(found) == {("train", f"train/{NFC}"), ("validation", f"val/{NFD}")}
    assert all((tmp_path / item.path).is_file() for item in found.photos)


def test_two_spellings_of_one_class_are_refused(tmp_path: Path) -> None:
    classes(tmp_path, NFC, NFD)
    with pytest.raises(DataError, match=r"'cafe\\u0301' and 'caf\\xe9' in .* same name, café"):
        read(tmp_path)


def test_a_class_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    classes(tmp_path, "dog", os.fsdecode(b"caf\xe9"))
    with pytest.raises(DataError, match=r"class folder 'caf\\udce9' in .* is not UTF-8") as error:
        read(tmp_path)
    str(error.value).encode()


def test_names_that_other_systems_reserve_are_classes(tmp_path: Path) -> None:
    names = ("CON", "nul", "aux.", "dot.", " lead", "end ", "a:b", "a*b", "-x")
    classes(tmp_path, *names)
    assert {item.label for item in read(tmp_path).photos} == set(names)
