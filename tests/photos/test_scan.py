"""Finding labelled photos; every refusal by its message."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetl.errors import DataError
from edgetl.photos.scan import Found, data_folder, scan


def fill(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"photo")
    return root


def rows(found: list[Found]) -> list[tuple[str, str, str | None, str]]:
    return [(item.path, item.label, item.split, item.group) for item in found]


def table(root: Path, text: str) -> str:
    (root / "labels.csv").write_text(text, encoding="utf-8")
    return str(root / "labels.csv")


# --- folders ----------------------------------------------------------------------------------


def test_class_folders_without_splits(tmp_path: Path) -> None:
    fill(tmp_path, "b/2.PNG", "b/1.jpg", "a/deep/er/3.webp", "a/notes.txt", "a/.hidden.jpg")
    fill(tmp_path, ".cache/x.jpg", "loose.jpg")
    assert rows(scan(tmp_path)) == [
        ("a/deep/er/3.webp", "a", None, ""),
        ("b/1.jpg", "b", None, ""),
        ("b/2.PNG", "b", None, ""),
    ]


@pytest.mark.parametrize("name", ["validation", "val", "valid", "Val"])
def test_split_folders_by_any_of_their_names(name: str, tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.jpg", f"{name}/a/2.jpg", "TEST/a/3.jpg")
    assert {(split, path) for path, _, split, _ in rows(scan(tmp_path))} == {
        ("train", "train/a/1.jpg"),
        ("validation", f"{name}/a/2.jpg"),
        ("test", "TEST/a/3.jpg"),
    }


@pytest.mark.parametrize("name", ["train", "test", "val"])
def test_a_class_may_be_called_like_a_split(name: str, tmp_path: Path) -> None:
    fill(tmp_path, "bus/1.jpg", "car/1.jpg", f"{name}/1.jpg")
    assert {(item.label, item.split) for item in scan(tmp_path)} == {
        ("bus", None),
        ("car", None),
        (name, None),
    }


def test_formats_that_cannot_be_read_are_found_all_the_same(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.heic", "a/2.dng", "b/1.jpg")
    assert [item.path for item in scan(tmp_path)] == ["a/1.heic", "a/2.dng", "b/1.jpg"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    fill(tmp_path, "root/a/1.jpg", "root/b/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "root/a/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/a/loop").symlink_to(tmp_path / "root/a")
    found = [item.path for item in scan(tmp_path / "root")]
    assert found == ["a/1.jpg", "a/linked/2.jpg", "b/1.jpg"]


def test_missing_folder_and_file_instead_of_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No data folder at .*/nowhere"):
        data_folder(tmp_path / "nowhere")
    fill(tmp_path, "photo.jpg")
    with pytest.raises(DataError, match=r"photo\.jpg is a file, not a folder of photos"):
        data_folder(tmp_path / "photo.jpg")
    assert data_folder(str(tmp_path)) == tmp_path.resolve()


def test_no_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No class folders in "):
        scan(tmp_path)
    fill(tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(DataError, match=r"No class folders in .*one folder a class"):
        scan(tmp_path)
    fill(tmp_path, "train/1.jpg", "val/1.jpg")
    with pytest.raises(DataError, match=r"No class folders in .*/train\."):
        scan(tmp_path)


def test_an_empty_class_folder(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.jpg", "train/b/notes.txt", "val/a/1.jpg")
    with pytest.raises(DataError, match=r"Class folder .*/train/b holds no photo"):
        scan(tmp_path)


def test_two_folders_for_one_split(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg")
    with pytest.raises(DataError, match=r"has both val and valid, which mean the same split"):
        scan(tmp_path)


@pytest.mark.parametrize("extra", [[], ["a/1.jpg", "b/1.jpg"]])
def test_only_a_test_folder(tmp_path: Path, extra: list[str]) -> None:
    fill(tmp_path, "test/a/1.jpg", "test/b/1.jpg", *extra)
    with pytest.raises(DataError, match=r"has test but no train folder"):
        scan(tmp_path)
    found = scan(tmp_path, need_train=False)  # as `evaluate` asks
    assert {item.split for item in found} == {"test"}


# --- CSV --------------------------------------------------------------------------------------


def test_a_table_gives_labels_splits_and_groups(tmp_path: Path) -> None:
    fill(tmp_path, "x/1.jpg", "2.jpg", "ü,3.jpg")
    name = table(
        tmp_path,
        "\ufefflabel,path,split,group\r\n"
        "b,2.jpg,Valid,\r\n"
        " a ,./x//1.jpg, train ,g1\r\n"
        'a,"ü,3.jpg",test,g2\r\n',
    )
    assert rows(scan(tmp_path, name)) == [
        ("2.jpg", "b", "validation", ""),
        ("x/1.jpg", "a", "train", "g1"),
        ("ü,3.jpg", "a", "test", "g2"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has columns none; wanted are path, label"),
        ("file,label\n1.jpg,a\n", r"has columns file, label; wanted are path, label"),
        ("path,label,colour\n1.jpg,a,red\n", r"has columns colour, label, path; wanted"),
        ("path,label\n", r"lists no photo"),
        ("path,label\n1.jpg,\n", r"labels\.csv line 2: path or label is empty"),
        ("path,label\n1.jpg,a\n2.jpg\n", r"labels\.csv line 3: path or label is empty"),
        ("path,label\n1,5.jpg,a\n", r"labels\.csv line 2: more fields than columns"),
        ("path,label,split\n1.jpg,a,dev\n", r"labels\.csv line 2: unknown split 'dev'"),
        ("path,label,split\n1.jpg,a,train\n2.jpg,a,\n", r"1 of 2 photos have a split"),
        ("path,label\n1.jpg,a\n2.jpg,b\n./1.jpg,b\n", r"lists 1\.jpg twice"),
        (
            "path,label,split,group\n1.jpg,a,train,g\n2.jpg,a,test,g\n",
            r"group g is in train and test",
        ),
        ("path,label\n1.jpg,a\n9.jpg,a\n8.jpg,b\n", r"2 of 3 photos in .* 9\.jpg for one"),
        ("path,label\n../root/1.jpg,a\n2.jpg,b\n", r"1 of 2 photos .* not under"),
        ('path,label\n"1.jpg,a\n', r"line 2: (path or label is empty|more fields)"),
    ],
)
def test_mistakes_in_a_table(tmp_path: Path, text: str, message: str) -> None:
    root = fill(tmp_path / "root", "1.jpg", "2.jpg")
    with pytest.raises(DataError, match=message):
        scan(root, table(tmp_path, text))


def test_absolute_paths_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "1.jpg")
    name = table(tmp_path, f"path,label\n{tmp_path / '1.jpg'},a\n")
    with pytest.raises(DataError, match=r"1 of 1 photos .*paths are relative to the data folder"):
        scan(tmp_path, name)


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read labels file .*nowhere\.csv"):
        scan(tmp_path, str(tmp_path / "nowhere.csv"))
    (tmp_path / "wide.csv").write_bytes("path,label\nä,b\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"Cannot read labels file .*wide\.csv.*UTF-8"):
        scan(tmp_path, str(tmp_path / "wide.csv"))
    (tmp_path / "long.csv").write_text("path,label\n" + "x" * 200_000 + ",a\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"long\.csv line \d+: field larger than field limit"):
        scan(tmp_path, str(tmp_path / "long.csv"))
