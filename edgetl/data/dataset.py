"""A checked, split data set with its pixels on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgetl.data.checks import (
    check_bad,
    check_classes,
    check_emptied,
    check_found,
    check_split,
    dark_warning,
    huge_warning,
)
from edgetl.data.found import Found, data_folder
from edgetl.data.groups import Together, conflicts, crowd_warning, group_photos, leaks
from edgetl.data.ingest import Look, look_all, open_cache
from edgetl.data.names import order_of_numbers
from edgetl.data.scan import scan
from edgetl.data.split import seeded_split
from edgetl.files import encode_json, sha256_bytes
from edgetl.inputs.image import Pixels
from edgetl.spec import DataSummary, Photo, Preprocess, SkippedFile, Split

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

    Raises DataError for what would spoil training: see checks.py. `ignore` is a folder that holds
    no photos of the user's, `progress` is called with (done, total).
    """
    root = data_folder(data)
    scanned = scan(root, labels_csv, ignore=ignore)
    found = list(scanned.photos)
    check_classes(sorted({item.label for item in found}), root)
    check_found(found)
    pixels, kept, looks, skipped = _read(root, found, spec, cache, progress)
    check_bad(skipped, len(found), root)
    check_emptied(found, kept)
    photos, split_by, warnings, together = _split(
        root, kept, looks, seed, "csv" if labels_csv else ""
    )
    check_split(photos, together.groups)
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
            *dark_warning(looks, spec),
            *huge_warning(kept, looks),
            *_untested(photos, labels),
        ),
        duplicates=together.repeats,
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
    root: Path, kept: list[Found], looks: list[Look], seed: int, source: str
) -> tuple[list[Photo], str, list[str], Together]:
    together = group_photos(root, kept, looks)
    warnings = conflicts(kept, together.pairs)
    named = {item.split for item in kept}
    chosen: list[Split]
    if named == {None}:
        chosen = seeded_split([i.label for i in kept], together.groups, SHARES, seed)
        split_by = "seeded"
    else:
        chosen = [item.split or "train" for item in kept]
        split_by = source or "folders"
        if "validation" not in named:
            chosen = _carve_validation(kept, together.groups, chosen, seed)
            split_by += ", validation seeded from training"
            carved, of = chosen.count("validation"), sum(item.split == "train" for item in kept)
            warnings.append(
                f"No validation split: {carved} of the {of} training photos were set aside for it."
            )
        warnings += leaks(kept, chosen, together.pairs)
    made = "seeded" in split_by
    warnings += crowd_warning(together, Counter(i.label for i in kept), split_made=made)
    photos = [
        Photo(path=i.path, split=s, label=i.label, sha256=seen.sha256, group=i.group)
        for i, s, seen in zip(kept, chosen, looks, strict=True)
    ]
    return photos, split_by, warnings, together


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


def _counts(photos: list[Photo], labels: tuple[str, ...]) -> dict[str, dict[str, int]]:
    counts = Counter((photo.split, photo.label) for photo in photos)
    return {
        split: {label: counts[split, label] for label in labels}
        for split in SPLITS
        if any(counts[split, label] for label in labels)
    }
