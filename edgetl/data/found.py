"""What is found in a data folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from edgetl.data.samples import is_sample, sample_folder
from edgetl.errors import DataError
from edgetl.files import encode_json, user_path
from edgetl.spec import Photo, Record, SkippedFile, Split

SEPARATOR = "|"  # of the classes of one photo


class Found(Record, frozen=True, kw_only=True):
    """A photo as found; `split` is None where the user made no split."""

    path: str  # relative to the data folder, with forward slashes, as spelled there
    label: str  # in normal form C; several classes with `SEPARATOR` between them
    split: Split | None = None
    group: str = ""
    target: Any = None  # what else a task knows of it, as JSON holds it


class Scan(Record, frozen=True, kw_only=True):
    """All photos of a data folder, and what else has to be said of it."""

    photos: tuple[Found, ...]
    skipped: tuple[SkippedFile, ...] = ()  # one for each kind of file that is no photo
    warnings: tuple[str, ...] = ()


def data_folder(data: str | os.PathLike[str]) -> Path:
    """The data folder as an absolute path, that of a sample too; DataError when there is none."""
    if is_sample(data):
        return sample_folder(os.fspath(data)).resolve()
    root = user_path(data)
    if not root.exists():
        raise DataError(f"No data folder at {root}.", fix="give the path of a folder of photos.")
    if not root.is_dir():
        raise DataError(
            f"{root} is a file, not a folder of photos.",
            fix="give the folder that holds train/<class>/… or <class>/….",
        )
    return root.resolve()


def by_kind(files: Iterable[SkippedFile]) -> tuple[SkippedFile, ...]:
    """One entry for all files that were left out for the same reason, in order of the reasons."""
    kinds: dict[str, SkippedFile] = {}
    for file in files:
        first = kinds.setdefault(file.reason, file)
        if first is not file:
            kinds[file.reason] = msgspec.structs.replace(first, n=first.n + file.n)
    return tuple(kinds[reason] for reason in sorted(kinds))


def skipped_line(file: SkippedFile) -> str:
    """An entry of skipped files in words."""
    if file.n == 1:
        return f"skipped {file.path}: {file.reason}"
    return f"skipped {file.n} files, {file.path} for one: {file.reason}"


def photo_lines(photos: list[Photo]) -> bytes:
    """data.jsonl as bytes; its hash identifies the data set."""
    return b"".join(encode_json(photo) + b"\n" for photo in photos)
