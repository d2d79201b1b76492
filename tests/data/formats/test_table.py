"""Tables of labels as people's programs write them; every mistake by its message."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from edgetl.data.formats.table import by_table
from edgetl.data.found import Found
from edgetl.data.walk import walk
from edgetl.errors import DataError


def fill(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"photo")
    return root


def read(root: Path, text: str | bytes) -> tuple[list[Found], list[str]]:
    table = root.parent / f"{root.name}.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    return by_table(root, table, walk(root))


def rows(found: list[Found]) -> list[tuple[str, str, str | None, str]]:
    return [(item.path, item.label, item.split, item.group) for item in found]


def test_a_class_written_in_two_encodings_is_one(root: Path) -> None:
    table = root.parent / "many.csv"
    table.write_text("path,labels\n2.jpg,caf\u00e9|cafe\u0301|b\n", "utf-8")
    (found,), _ = by_table(root, table, walk(root), "labels")
    assert found.label == "b|caf\u00e9"


def test_the_column_of_another_task_is_named(root: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(root, "path,labels\n2.jpg,a|b\n")
    assert "labels where it may have several, and give the --task that reads it" in caught.value.fix
    _, warnings = read(root, "path,label\n2.jpg,a|b\nx/1.jpg,a\n")
    assert warnings == [
        "root.csv states a|b as one class: where | separates several, call the column labels, "
        "and give the --task that reads it."
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fill(tmp_path / "root", "x/1.jpg", "2.jpg")


TWO = [("2.jpg", "b", None, ""), ("x/1.jpg", "a", None, "")]


def test_labels_splits_and_groups(root: Path) -> None:
    fill(root, "ü,3.jpg")
    found, warnings = read(
        root,
        "\ufefflabel,path,split,group\r\n"
        "b,2.jpg,Dev,\r\n"
        " a ,./x//1.jpg, train ,g1\r\n"
        'a,"ü,3.jpg",test_set,g2\r\n',
    )
    assert rows(found) == [
        ("2.jpg", "b", "validation", ""),
        ("x/1.jpg", "a", "train", "g1"),
        ("ü,3.jpg", "a", "test", "g2"),
    ]
    assert warnings == []


@pytest.mark.parametrize(
    "text",
    [
        "path;label\n2.jpg;b\nx/1.jpg;a\n",
        "path\tlabel\n2.jpg\tb\nx/1.jpg\ta\n",
        "Path, LABEL \n2.jpg,b\nx/1.jpg,a\n",
        "sep=;\r\npath;label\r\n2.jpg;b\r\nx/1.jpg;a\r\n",
        "sep=\t\npath\tlabel\n2.jpg\tb\nx/1.jpg\ta\n",
        "path,label\n2.jpg,b\nx\\1.jpg,a\n",
        "path,label\n.\\2.jpg,b\n.\\x\\1.jpg,a\n",
        "path,label,,\n2.jpg,b,,\nx/1.jpg,a,,\n,,,\n",
        "path;label;\n2.jpg;b;\n\nx/1.jpg;a\n",
        "path,label\r2.jpg,b\rx/1.jpg,a\r",
        "path;label\n2.jpg;b\nx/1.jpg;a\n".encode("utf-16"),
        "\ufeffpath\tlabel\n2.jpg\tb\nx/1.jpg\ta\n".encode("utf-16-be"),
    ],
)
def test_tables_as_spreadsheets_and_other_systems_write_them(root: Path, text: str | bytes) -> None:
    assert rows(read(root, text)[0]) == TWO


def test_a_file_with_a_backslash_in_its_name_is_itself(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", "x\\1.jpg", "x/1.jpg")
    assert [item.path for item in read(root, "path,label\nx\\1.jpg,a\n")[0]] == ["x\\1.jpg"]


def test_photos_that_are_not_listed_are_counted(root: Path) -> None:
    fill(root, "x/3.jpg", "y/4.jpg", "notes.txt")
    _, warnings = read(root, "path,label\n2.jpg,b\nx/1.jpg,a\n")
    assert warnings == [
        f"2 of 4 photos under {root} are not used, because root.csv does not list them: "
        "x/3.jpg for one."
    ]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_accents_are_compared_in_one_form(forms: tuple[str, str], tmp_path: Path) -> None:
    disk, listed = (unicodedata.normalize(form, "é/ö.jpg") for form in forms)
    root = fill(tmp_path / "root", disk)
    label = unicodedata.normalize(forms[1], "ñ")
    ((path, found, _, _),) = rows(read(root, f"path,label\n{listed},{label}\n")[0])
    assert (path, found) == (disk, "ñ")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")]
    root = fill(tmp_path / "root", *names)
    with pytest.raises(DataError, match=r"'e\\u0301\.jpg' and '\\xe9\.jpg' in .* two ways"):
        read(root, f"path,label\n{names[0]},a\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has columns none; wanted are path, label"),
        ("file,label\n1.jpg,a\n", r"has columns file, label; wanted are path, label"),
        ("path|label\n1.jpg|a\n", r"columns path\|label; .* commas, semicolons or tabs"),
        (
            "path,label,colour\n1.jpg,a,red\n",
            r"has columns path, label, colour; wanted .* colour, which nothing reads",
        ),
        ("path,label,label\n1.jpg,a,b\n", r"has columns path, label, label; wanted .* label twice"),
        ("path,label\n", r"lists no photo"),
        ("path,label\n2.jpg,\n", r"root\.csv line 2: path or label is empty"),
        ("path,label\n2.jpg,a\n1.jpg\n", r"root\.csv line 3: path or label is empty"),
        ("sep=;\npath;label\n2.jpg;\n", r"root\.csv line 3: path or label is empty"),
        ("path,label\n1,5.jpg,a\n", r"root\.csv line 2: column 3 has no name, but holds 'a'"),
        ("path,label,\n1,5.jpg,a\n", r"root\.csv line 2: column 3 has no name, but holds 'a'"),
        (",path,label\n0,2.jpg,a\n", r"line 2: column 1 has no name, but holds '0'.*index=False"),
        ("path,label\n2.jpg,a\n".encode("utf-16-le"), r"zero bytes, as UTF-16 without its mark"),
        ("path,label\nX\\1.JPG,a\n", r"X\\1\.JPG for one \(x/1\.jpg is there: capitals count"),
        ("path,label,split\n2.jpg,a,holdout\n", r"line 2: unknown split 'holdout'"),
        ("path,label,split\n2.jpg,a,train\nx/1.jpg,a,\n", r"1 of 2 photos have a split"),
        ("path,label\n2.jpg,a\nx/1.jpg,b\n./2.jpg,b\n", r"lists 2\.jpg twice"),
        ("path,label\nx/1.jpg,a\nx\\1.jpg,b\n", r"lists x/1\.jpg twice"),
        (
            "path,label,split,group\n2.jpg,a,train,g\nx/1.jpg,a,test,g\n",
            r"group g is in train and test",
        ),
        ("path,label\n2.jpg,a\n9.jpg,a\n8.jpg,b\n", r"2 of 3 photos in .* 9\.jpg for one"),
        ("path,label\n../root/2.jpg,a\n2.jpg,b\n", r"1 of 2 photos .* not under"),
        ('path,label\n"2.jpg,a\n', r"line 2: (path or label is empty|column 3)"),
        (
            "path,label\n2.jpg,a\nx/1.jpg,caf\xe9\n".encode("cp1252"),
            r"line 3 is not UTF-8 \(byte 0xe9",
        ),
        (b"PK\x03\x04" + b"xl/workbook.xml", r"root\.csv is no CSV file, but ZIP"),
        ("path,label\n" + "x" * 200_000 + ",a\n", r"line \d+: field larger than field limit"),
    ],
)
def test_mistakes_in_a_table(root: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(root, text)


def test_absolute_paths_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 1 photos .*paths are relative to the data folder"):
        read(root, f"path,label\n{root / '2.jpg'},a\n")


def test_a_table_that_cannot_be_read(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read labels file .*nowhere\.csv: No such file"):
        by_table(root, tmp_path / "nowhere.csv", walk(root))
