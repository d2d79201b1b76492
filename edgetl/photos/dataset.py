"""A checked, split data set with its pixels on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgetl.errors import DataError
from edgetl.files import encode_json, sha256_bytes
from edgetl.photos.duplicates import join, near_pairs, same_pairs
from edgetl.photos.found import Found, data_folder
from edgetl.photos.ingest import Look, look_all, open_cache
from edgetl.photos.names import order_of_numbers
from edgetl.photos.scan import scan
from edgetl.photos.split import seeded_split
from edgetl.preprocess import Pixels
from edgetl.spec import DataSummary, Photo, Preprocess, SkippedFile, Split

MAX_BAD = 0.05
SHARES: dict[Split, float] = {"train": 0.70, "validation": 0.15, "test": 0.15}
NO_TEST_SHARES: dict[Split, float] = {"train": 0.85, "validation": 0.15}
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Dataset(NamedTuple):
    """Photos with their pixels `(N, size, size, 3)` in the same order."""

    root: Path
    photos: list[Photo]
    pixels: Pixels
    summary: DataSummary

    def rows(self, split: Split) -> npt.NDArray[np.int64]:
        """Row numbers of one split."""
        return np.array([i for i, p in enumerate(self.photos) if p.split == split], np.int64)

    def truth(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Class numbers of rows, in the order of the labels."""
        column = {label: i for i, label in enumerate(self.summary.labels)}
        return np.array([column[self.photos[i].label] for i in rows], np.int64)


def load_dataset(
    data: str,
    spec: Preprocess,
    cache: Path,
    *,
    labels_csv: str = "",
    seed: int = 0,
    ignore: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Find, check, hash and split the photos; decode each once into the memory map `cache`.

    Raises DataError for what would spoil training: see the checks below. `ignore` is a folder that
    holds no photos of the user's, `progress` is called with (done, total).
    """
    root = data_folder(data)
    scanned = scan(root, labels_csv, ignore=ignore)
    found = list(scanned.photos)
    check_classes(sorted({item.label for item in found}), root)
    if {"train", "validation"} <= {item.split for item in found}:
        check_splits(found)
    pixels, kept, looks, skipped = _read(root, found, spec, cache, progress)
    check_bad(skipped, len(found), root)
    check_emptied(found, kept)
    photos, split_by, warnings, repeats = _split(kept, looks, seed, "csv" if labels_csv else "")
    check_splits(photos)
    labels = tuple(sorted({photo.label for photo in photos}))
    summary = DataSummary(
        root=str(root),
        labels=labels,
        counts=_counts(photos, labels),
        sha256=sha256_bytes(photo_lines(photos)),
        split_by=split_by,
        skipped_files=(*skipped, *scanned.skipped),
        warnings=(
            *scanned.warnings,
            *order_of_numbers(labels),
            *warnings,
            *_untested(photos, labels),
        ),
        duplicates=repeats,
    )
    return Dataset(root, photos, pixels[: len(photos)], summary)


def _read(
    root: Path,
    found: list[Found],
    spec: Preprocess,
    cache: Path,
    progress: Callable[[int, int], None] | None,
) -> tuple[Pixels, list[Found], list[Look], list[SkippedFile]]:
    pixels = open_cache(cache, len(found), spec.size)
    kept: list[Found] = []
    looks: list[Look] = []
    skipped: list[SkippedFile] = []
    paths = [root / item.path for item in found]
    for item, seen in zip(found, look_all(paths, spec), strict=True):
        if seen.pixels is None:
            skipped.append(SkippedFile(path=item.path, reason=seen.error))
        else:
            pixels[len(kept)] = seen.pixels
            seen.pixels = None
            kept.append(item)
            looks.append(seen)
        if progress:
            progress(len(kept) + len(skipped), len(found))
    return pixels, kept, looks, skipped


def photo_lines(photos: list[Photo]) -> bytes:
    """data.jsonl as bytes; its hash identifies the data set."""
    return b"".join(encode_json(photo) + b"\n" for photo in photos)


def check_classes(labels: list[str], root: Path) -> None:
    """DataError for fewer than two classes."""
    if len(labels) < 2:
        raise DataError(
            f"Only one class, {labels[0]}, in {root}." if labels else f"No classes in {root}.",
            fix="a classifier needs at least two class folders.",
        )


def check_bad(skipped: list[SkippedFile], total: int, root: Path) -> None:
    """DataError when more than 5 % of the files cannot be read."""
    if len(skipped) > MAX_BAD * total:
        names = "; ".join(f"{item.path} ({item.reason})" for item in skipped[:3])
        raise DataError(
            f"{len(skipped)} of {total} photos in {root} cannot be read, which is more than "
            f"{MAX_BAD:.0%}: {names}{'; …' if len(skipped) > 3 else ''}.",
            fix="replace these files, convert them to JPEG or PNG, or remove them.",
        )


def check_emptied(found: list[Found], kept: list[Found]) -> None:
    """DataError when a class of a split has lost all its photos to damage."""
    left = {(item.split, item.label) for item in kept}
    for item in found:
        if (item.split, item.label) not in left:
            where = f" in {item.split}" if item.split else ""
            raise DataError(
                f"Every photo of class {item.label}{where} is unreadable, {item.path} for one.",
                fix="replace these files.",
            )


def check_splits(photos: Sequence[Found | Photo]) -> None:
    """DataError when a class is missing from training or validation."""
    have = {(photo.split, photo.label) for photo in photos}
    for split in ("train", "validation"):
        missing = sorted({photo.label for photo in photos if (split, photo.label) not in have})
        if missing:
            raise DataError(
                f"Class {', '.join(missing)} is missing from "
                f"{'training' if split == 'train' else split}.",
                fix="every class needs at least 2 photos of different pictures and groups, and one "
                "in each of training and validation where you made these; else remove the class.",
            )


def _untested(photos: list[Photo], labels: tuple[str, ...]) -> list[str]:
    tested = {photo.label for photo in photos if photo.split == "test"}
    if not tested:
        return ["No test split: test metrics are null."]
    return [
        f"Class {label} has no test photo: its test score is missing."
        for label in labels
        if label not in tested
    ]


def _split(
    kept: list[Found], looks: list[Look], seed: int, source: str
) -> tuple[list[Photo], str, list[str], int]:
    steps = np.array([seen.steps for seen in looks], np.float32)
    thumbs = np.array([seen.thumb for seen in looks], np.uint8)
    near = near_pairs(steps, thumbs)
    pairs = sorted({*same_pairs([seen.sha256 for seen in looks]), *near})
    repeats = len({j for _, j in pairs})
    warnings = _conflicts(kept, pairs)
    homes: dict[str, int] = {}
    for index, item in enumerate(kept):
        if item.group:
            pairs.append((homes.setdefault(item.group, index), index))
    groups = join(len(kept), pairs)
    named = {item.split for item in kept}
    chosen: list[Split]
    if named == {None}:
        chosen = seeded_split([i.label for i in kept], groups, SHARES, seed)
        split_by = "seeded"
    else:
        chosen = [item.split or "train" for item in kept]
        split_by = source or "folders"
        if "validation" not in named:
            chosen = _carve_validation(kept, groups, chosen, seed)
            split_by += ", validation seeded from training"
            carved, of = chosen.count("validation"), sum(item.split == "train" for item in kept)
            warnings.append(
                f"No validation split: {carved} of the {of} training photos were set aside for it."
            )
        warnings += _leaks(kept, chosen, pairs)
    photos = [
        Photo(path=i.path, split=s, label=i.label, sha256=seen.sha256, group=i.group)
        for i, s, seen in zip(kept, chosen, looks, strict=True)
    ]
    return photos, split_by, warnings, repeats


def _carve_validation(
    kept: list[Found], groups: list[int], chosen: list[Split], seed: int
) -> list[Split]:
    rows = [i for i, split in enumerate(chosen) if split == "train"]
    carved = seeded_split(
        [kept[i].label for i in rows], [groups[i] for i in rows], NO_TEST_SHARES, seed
    )
    result = list(chosen)
    for row, split in zip(rows, carved, strict=True):
        result[row] = split
    return result


def _conflicts(kept: list[Found], pairs: list[tuple[int, int]]) -> list[str]:
    bad = [(i, j) for i, j in pairs if kept[i].label != kept[j].label]
    if not bad:
        return []
    shown = "; ".join(f"{kept[i].path} = {kept[j].path}" for i, j in bad[:5])
    more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
    count = "1 pair shows" if len(bad) == 1 else f"{len(bad)} pairs show"
    return [f"{count} the same picture under two labels: {shown}{more}."]


def _leaks(kept: list[Found], chosen: list[Split], pairs: list[tuple[int, int]]) -> list[str]:
    crossing = [(i, j) for i, j in pairs if chosen[i] != chosen[j]]
    if not crossing:
        return []
    sides = Counter(" and ".join(sorted((chosen[i], chosen[j]))) for i, j in crossing)
    counted = ", ".join(f"{n} between {side}" for side, n in sorted(sides.items()))
    shown = "; ".join(f"{kept[i].path} = {kept[j].path}" for i, j in crossing[:5])
    more = f"; and {len(crossing) - 5} more" if len(crossing) > 5 else ""
    return [
        f"The same picture is in two splits ({counted}), so scores may flatter; nothing was "
        f"moved: {shown}{more}."
    ]


def _counts(photos: list[Photo], labels: tuple[str, ...]) -> dict[str, dict[str, int]]:
    counts = Counter((photo.split, photo.label) for photo in photos)
    return {
        split: {label: counts[split, label] for label in labels}
        for split in SPLITS
        if any(counts[split, label] for label in labels)
    }
