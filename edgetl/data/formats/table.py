"""Labels, splits and groups of photos from a CSV file."""

from __future__ import annotations

import codecs
import csv
import io
import re
from pathlib import Path, PurePosixPath

import msgspec

from edgetl.data.found import SEPARATOR, Found
from edgetl.data.names import nfc, split_of
from edgetl.data.walk import Walk
from edgetl.errors import DataError
from edgetl.inputs.formats import HEAD, kind_of
from edgetl.spec import Split

_OPTIONAL = {"split", "group"}
_SEPARATORS = (",", ";", "\t")


def by_table(
    root: Path, table: Path, seen: Walk, column: str = "label"
) -> tuple[list[Found], list[str]]:
    """Photos that a table lists, by path, and warnings; DataError for any mistake in it.

    `column` is "label", one class a photo, or "labels", any number with | between them.
    """
    found = [_row(row, where, column) for row, where in _rows(table, column)]
    if not found:
        raise DataError(f"{table} lists no photo.", fix="add one line a photo.")
    found = _spelled(root, table, found, seen)
    _check(table, found)
    listed = {item.path for item in found}
    left = [path for path in seen.photos if path not in listed]
    several = [item.label for item in found if SEPARATOR in item.label]
    warnings = []
    joined = [item.label for item in found if re.search("[,;/+]", item.label)]
    if joined and column == "labels" and not several:
        warnings.append(
            f"{table.name} states {joined[0]} as one class: {SEPARATOR} separates several."
        )
    if several and column == "label":
        warnings.append(
            f"{table.name} states {several[0]} as one class: where {SEPARATOR} separates several, "
            "call the column labels, and give the --task that reads it."
        )
    if left:
        warnings.append(
            f"{len(left)} of {len(seen.photos)} photos under {root} are not used, because "
            f"{table.name} does not list them: {left[0]} for one."
        )
    return sorted(found, key=lambda item: item.path), warnings


def _text(table: Path) -> str:
    """The table as text: UTF-8, or UTF-16 that says so, as Excel's "Unicode text" does."""
    try:
        data = table.read_bytes()
    except OSError as error:
        raise DataError(
            f"Cannot read labels file {table}: {error.strerror}.", fix="give a UTF-8 CSV file."
        ) from error
    kind = kind_of(data[:HEAD])
    if kind:
        raise DataError(
            f"{table} is no CSV file, but {kind}.",
            fix="save it as CSV; in Excel as 'CSV UTF-8'.",
        )
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
        if "\0" in text:
            raise DataError(
                f"{table} holds zero bytes, as UTF-16 without its mark does.",
                fix="save it as UTF-8, in Excel as 'CSV UTF-8'.",
            )
        return text
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{table} line {line} is not UTF-8 (byte 0x{data[error.start]:02x}).",
            fix="save it as UTF-8, in Excel as 'CSV UTF-8'; or iconv -f cp1252 -t utf-8.",
        ) from error


def _rows(table: Path, column: str) -> list[tuple[dict[str, str], str]]:
    """Each row by column, and where it stands; empty rows are left out."""
    text = _text(table)
    lines = text.splitlines()[:1]
    header = lines[0] if lines else ""
    hinted = header.lower().startswith("sep=") and header[4:] in _SEPARATORS
    if hinted:  # Excel's own way to name the separator
        separator, text = header[4:], text.partition("\n")[2]
    else:
        separator = _separator(header, column)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        _check_columns(table, columns, column)
        rows = []
        for cells in reader:
            where = f"{table} line {hinted + reader.line_num}"
            if any(cell.strip() for cell in cells):
                rows.append((_cells(columns, cells, where), where))
        return rows
    except csv.Error as error:
        raise DataError(
            f"{table} line {hinted + reader.line_num}: {error}.", fix="give a UTF-8 CSV file."
        ) from error


def _separator(header: str, column: str) -> str:
    """What stands between the columns of a header; a comma where no answer gives the columns."""
    for separator in _SEPARATORS:
        names = next(csv.reader([header], delimiter=separator), [])
        if {name.strip().lower() for name in names} >= {"path", column}:
            return separator
    return ","


def _check_columns(table: Path, columns: list[str], column: str) -> None:
    """DataError unless the named columns are those that are read, each once."""
    named = [name for name in columns if name]
    needed = {"path", column}
    wrong = [f"no {name}" for name in sorted(needed - {*named})]
    wrong += [f"{name} twice" for name in dict.fromkeys(named) if named.count(name) > 1]
    wrong += [f"{name}, which nothing reads" for name in named if name not in needed | _OPTIONAL]
    if wrong:
        fix = "name the columns in the first line; remove what nothing reads."
        if {"label", "labels"} & {*named} - needed:
            fix = (
                "call the column label where each photo has one class, labels where it may have "
                "several, and give the --task that reads it."
            )
        raise DataError(
            f"{table} has columns {', '.join(named) or 'none'}; wanted are path, {column} and, if "
            "you like, split and group, with commas, semicolons or tabs between. There is "
            f"{'; '.join(wrong)}.",
            fix=fix,
        )


def _cells(columns: list[str], cells: list[str], where: str) -> dict[str, str]:
    """A row by column; cells without a column must be empty, as a spreadsheet leaves some."""
    names = [*columns, *[""] * (len(cells) - len(columns))]
    for number, (name, cell) in enumerate(zip(names, cells, strict=False), 1):
        if cell.strip() and not name:
            raise DataError(
                f"{where}: column {number} has no name, but holds '{cell.strip()}'.",
                fix="put a field that holds the separator into quotes, or remove the column (a "
                "pandas index: to_csv(index=False)).",
            )
    return {name: cell.strip() for name, cell in zip(columns, cells, strict=False) if name}


def _row(row: dict[str, str], where: str, column: str) -> Found:
    path, label, named = row.get("path", ""), row.get(column, ""), row.get("split", "")
    if column == "labels":  # none is an answer
        label = SEPARATOR.join(
            sorted({n for name in label.split(SEPARATOR) if (n := nfc(name.strip()))})
        )
    elif not label:
        raise DataError(f"{where}: path or label is empty.", fix="fill both in.")
    if not path:
        raise DataError(f"{where}: path or {column} is empty.", fix="fill both in.")
    split = split_of(named)
    if named and split is None:
        raise DataError(
            f"{where}: unknown split '{named}'.", fix="use train, validation or test, or none."
        )
    return Found(path=path, label=nfc(label), split=split, group=nfc(row.get("group", "")))


def _spelled(root: Path, table: Path, found: list[Found], seen: Walk) -> list[Found]:
    """The photos with their paths as the file system spells them; DataError for absent ones."""
    names: dict[str, list[str]] = {}
    for path in seen.photos:
        names.setdefault(nfc(path), []).append(path)
    right = [(item, _on_disk(root, item.path, names)) for item in found]
    missing = [item.path for item, path in right if not path]
    if missing:
        wanted = nfc(missing[0].replace("\\", "/")).casefold()
        alike = next((path for path in seen.photos if nfc(path).casefold() == wanted), "")
        raise DataError(
            f"{len(missing)} of {len(found)} photos in {table} are not under {root}, "
            f"{missing[0]} for one{alike and f' ({alike} is there: capitals count)'}.",
            fix="paths are relative to the data folder.",
        )
    return [msgspec.structs.replace(item, path=path) for item, path in right]


def _on_disk(root: Path, path: str, names: dict[str, list[str]]) -> str:
    """The file that a table's path means, also written with backslashes; "" if there is none.

    DataError where two files have names that differ in nothing but how accents are encoded.
    """
    for written in (path, path.replace("\\", "/")):
        plain = PurePosixPath(written)
        if plain.is_absolute() or ".." in plain.parts:
            continue
        spelled = names.get(nfc(str(plain)), [])
        if len(spelled) > 1:
            raise DataError(
                f"{spelled[0]!a} and {spelled[1]!a} in {root} have the same name written "
                "in two ways.",
                fix="rename or remove one of them.",
            )
        if spelled:
            return spelled[0]
        if (root / plain).is_file():
            return str(plain)
    return ""


def _check(table: Path, found: list[Found]) -> None:
    named = sum(item.split is not None for item in found)
    if 0 < named < len(found):
        raise DataError(
            f"{table}: {named} of {len(found)} photos have a split.", fix="give all or none one."
        )
    seen: set[str] = set()
    homes: dict[str, Split] = {}
    for item in found:
        if item.path in seen:
            raise DataError(f"{table} lists {item.path} twice.", fix="remove one of the lines.")
        seen.add(item.path)
        if item.group and item.split and homes.setdefault(item.group, item.split) != item.split:
            raise DataError(
                f"{table}: group {item.group} is in {homes[item.group]} and {item.split}.",
                fix="keep a group in one split.",
            )
