"""Find labelled photos: split folders, plain class folders, or a CSV file."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from edgetl.errors import DataError
from edgetl.preprocess import SUFFIXES
from edgetl.spec import Record, Split

SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}
# Photos that Pillow cannot read without plug-ins: counted as unreadable, never overlooked.
FOREIGN = frozenset({".heic", ".heif", ".avif", ".raw", ".dng", ".cr2", ".nef", ".arw"})


class Found(Record, frozen=True, kw_only=True):
    """A photo as found; `split` is None where the user made no split."""

    path: str
    label: str
    split: Split | None = None
    group: str = ""


def data_folder(data: str | os.PathLike[str]) -> Path:
    """The data folder as an absolute path; DataError when there is none."""
    root = Path(data).expanduser()
    if not root.exists():
        raise DataError(f"No data folder at {root}.", fix="give the path of a folder of photos.")
    if not root.is_dir():
        raise DataError(
            f"{root} is a file, not a folder of photos.",
            fix="give the folder that holds train/<class>/… or <class>/….",
        )
    return root.resolve()


def scan(root: Path, labels_csv: str = "", *, need_train: bool = True) -> list[Found]:
    """Find every photo under `root`, by path; class and split come from folders or from the CSV."""
    if labels_csv:
        return _from_csv(root, Path(labels_csv).expanduser())
    splits = _split_folders(root)
    if not splits:
        return _from_classes(root, root, None)
    if need_train and "train" not in splits:
        raise DataError(
            f"{root} has {', '.join(sorted(p.name for p in splits.values()))} but no train folder.",
            fix="add train/<class>/…, or remove the split folders to have a split made.",
        )
    return [found for name, home in splits.items() for found in _from_classes(root, home, name)]


def _split_folders(root: Path) -> dict[Split, Path]:
    folders = _folders(root)
    named = [path for path in folders if path.name.lower() in SPLIT_FOLDERS]
    # Among class folders, one that holds photos is a class, even if it is called "train" or "test".
    if len(named) < len(folders) and not any(_folders(path) for path in named):
        return {}
    splits: dict[Split, Path] = {}
    for path in named:
        split = SPLIT_FOLDERS[path.name.lower()]
        if split in splits:
            raise DataError(
                f"{root} has both {splits[split].name} and {path.name}, which mean the same split.",
                fix="keep one of them.",
            )
        splits[split] = path
    return splits


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"Cannot list {root}: {error.strerror}.", fix="make the folder readable."
        ) from error


def _from_classes(root: Path, home: Path, split: Split | None) -> list[Found]:
    classes = _folders(home)
    if not classes:
        raise DataError(
            f"No class folders in {home}.",
            fix="put the photos into one folder a class, named after the class.",
        )
    found: list[Found] = []
    for folder in classes:
        photos = [
            Found(path=path.relative_to(root).as_posix(), label=folder.name, split=split)
            for path in _photos(folder)
        ]
        if not photos:
            raise DataError(
                f"Class folder {folder} holds no photo.", fix="add photos or remove the folder."
            )
        found += photos
    return found


def _photos(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(
            f"Cannot list {error.filename}: {error.strerror}.", fix="make the folder readable."
        ) from error

    paths: list[Path] = []
    seen: set[str] = set()  # a link to a folder above would be followed for ever
    for home, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(home)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES | FOREIGN:
                paths.append(Path(home, name))
    return paths


def _from_csv(root: Path, table: Path) -> list[Found]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"Cannot read labels file {table}: {error}.", fix="give a UTF-8 CSV file."
        ) from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = set(reader.fieldnames or ())
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DataError(
            f"{table} line {reader.line_num}: {error}.", fix="give a UTF-8 CSV file."
        ) from error
    if not {"path", "label"} <= columns or columns - {"path", "label", "split", "group"}:
        raise DataError(
            f"{table} has columns {', '.join(sorted(columns)) or 'none'}; wanted are path, label "
            "and, if you like, split and group.",
            fix="name the columns in the first line.",
        )
    found = [_csv_row(row, f"{table} line {line}") for line, row in rows]
    if not found:
        raise DataError(f"{table} lists no photo.", fix="add one line a photo.")
    _check_csv(root, table, found)
    return sorted(found, key=lambda item: item.path)


def _csv_row(row: dict[str, str | None], where: str) -> Found:
    if None in row:
        raise DataError(
            f"{where}: more fields than columns.", fix="put a field with a comma into quotes."
        )
    path, label = (row.get("path") or "").strip(), (row.get("label") or "").strip()
    named = (row.get("split") or "").strip().lower()
    if not path or not label:
        raise DataError(f"{where}: path or label is empty.", fix="fill both in.")
    if named and named not in SPLIT_FOLDERS:
        raise DataError(
            f"{where}: unknown split '{named}'.", fix="use train, validation or test, or none."
        )
    return Found(
        path=Path(path).as_posix(),
        label=label,
        split=SPLIT_FOLDERS[named] if named else None,
        group=(row.get("group") or "").strip(),
    )


def _check_csv(root: Path, table: Path, found: list[Found]) -> None:
    named = sum(item.split is not None for item in found)
    if 0 < named < len(found):
        raise DataError(
            f"{table}: {named} of {len(found)} photos have a split.", fix="give all or none one."
        )
    if len({item.path for item in found}) < len(found):
        seen: set[str] = set()
        twice = next(i.path for i in found if i.path in seen or seen.add(i.path))  # type: ignore[func-returns-value]
        raise DataError(f"{table} lists {twice} twice.", fix="remove one of the lines.")
    homes: dict[str, Split] = {}
    for item in found:
        if item.group and item.split and homes.setdefault(item.group, item.split) != item.split:
            raise DataError(
                f"{table}: group {item.group} is in {homes[item.group]} and {item.split}.",
                fix="keep a group in one split.",
            )
    missing = [
        item.path
        for item in found
        if Path(item.path).is_absolute()
        or ".." in Path(item.path).parts
        or not (root / item.path).is_file()
    ]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(found)} photos in {table} are not under {root}, "
            f"{missing[0]} for one.",
            fix="paths are relative to the data folder.",
        )
