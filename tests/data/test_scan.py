"""Finding labelled photos as the verbs do: what is used, passed over, counted and warned of."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from edgetl.data.found import Found, data_folder
from edgetl.data.scan import scan
from edgetl.errors import DataError


def fill(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"photo")
    return root


def rows(found: tuple[Found, ...]) -> list[tuple[str, str, str | None]]:
    return [(item.path, item.label, item.split) for item in found]


def test_missing_folder_and_file_instead_of_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No data folder at .*/nowhere"):
        data_folder(tmp_path / "nowhere")
    fill(tmp_path, "photo.jpg")
    with pytest.raises(DataError, match=r"photo\.jpg is a file, not a folder of photos"):
        data_folder(tmp_path / "photo.jpg")
    assert data_folder(str(tmp_path)) == tmp_path.resolve()


def test_class_folders_without_splits(tmp_path: Path) -> None:
    fill(tmp_path, "b/2.PNG", "b/1.jpg", "a/deep/er/3.webp", "a/notes.txt", "a/.hidden.jpg")
    fill(tmp_path, ".cache/x.jpg")
    found = scan(tmp_path)
    assert rows(found.photos) == [
        ("a/deep/er/3.webp", "a", None),
        ("b/1.jpg", "b", None),
        ("b/2.PNG", "b", None),
    ]
    assert (found.skipped, found.warnings) == ((), ())


def test_a_table_takes_the_place_of_folders(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.jpg", "images/2.jpg", "masks/2.png", "3.jpg")
    (tmp_path / "labels.csv").write_text("path,label\nimages/2.jpg,x\n3.jpg,y\n")
    found = scan(tmp_path, str(tmp_path / "labels.csv"))
    assert [item.path for item in found.photos] == ["3.jpg", "images/2.jpg"]
    (warning,) = found.warnings
    assert "2 of 4 photos under" in warning
    assert "masks/2.png for one" in warning


def test_other_files_are_counted_by_kind_where_photos_are_used(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "holdout/c.dcm", "train/d.dcm", "e.dcm")
    fill(tmp_path, *(f"train/a/{i}.dcm" for i in range(3)), "train/b/x.npy", "train/b/notes.md")
    found = scan(tmp_path)
    assert [(item.path, item.n) for item in found.skipped] == [
        ("train/a/0.dcm", 3),
        ("train/b/x.npy", 1),
    ]
    assert "DICOM" in found.skipped[0].reason


def test_photos_by_content_alone_are_used_and_told(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.jpg", "b/1.jpg")
    for name in ("a/IMG_7", "b/cat.jpg_large"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, "PNG")
    found = scan(tmp_path)
    assert [item.path for item in found.photos] == [
        "a/1.jpg",
        "a/IMG_7",
        "b/1.jpg",
        "b/cat.jpg_large",
    ]
    assert found.warnings == (
        "Photos by their content, though not by their names, are used as well: 2, a/IMG_7, "
        "b/cat.jpg_large.",
    )


def test_classes_that_are_probably_one_are_told(tmp_path: Path) -> None:
    fill(tmp_path, "Cat/1.jpg", "cat/1.jpg", "cat/2.jpg", "dog/1.jpg")
    (warning,) = scan(tmp_path).warnings
    assert "'Cat' (1) and 'cat' (2)" in warning
    assert scan(tmp_path, known=("Cat", "cat", "dog")).warnings == ()
    table = tmp_path / "t.csv"
    table.write_text("path,label\nCat/1.jpg,A\ncat/1.jpg,a\ncat/2.jpg,b\ndog/1.jpg,b\n")
    assert "'A' (1) and 'a' (1)" in scan(tmp_path, str(table)).warnings[0]


def test_only_one_split_if_it_is_there(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.jpg", "train/a/x.npy", "test/a/2.jpg", "test/a/y.dcm")
    found = scan(tmp_path, need_train=False, only="test")
    assert rows(found.photos) == [("test/a/2.jpg", "a", "test")]
    assert [item.path for item in found.skipped] == ["test/a/y.dcm"]
    assert {item.split for item in scan(tmp_path, only="validation").photos} == {"train", "test"}


def test_the_folder_that_is_being_written_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.jpg", "b/1.jpg", "out/.lock", "out/old/3.jpg")
    found = scan(tmp_path, ignore=tmp_path / "b" / ".." / "out")
    assert {item.label for item in found.photos} == {"a", "b"}
    (tmp_path / "out/old/3.jpg").unlink()
    with pytest.raises(DataError, match=r"Class folder .*/out holds no photo"):
        scan(tmp_path)
