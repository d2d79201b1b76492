"""A checked, split data set with its pixels on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from edgetl.data.checks import (
    check_bad,
    check_emptied,
    check_found,
    check_split,
    dark_warning,
    huge_warning,
)
from edgetl.data.found import Found, data_folder, photo_lines
from edgetl.data.groups import (
    Together,
    conflicts,
    crowd_warning,
    group_photos,
    leaks,
    seeded_split,
)
from edgetl.data.ingest import Look, look_all, open_cache
from edgetl.data.names import order_of_numbers
from edgetl.files import sha256_bytes
from edgetl.inputs.base import Geometry, Input, Pixels
from edgetl.progress import Bar, no_bar
from edgetl.spec import DataSummary, Photo, SkippedFile, Split
from edgetl.tasks.base import Task, counted

Item = TypeVar("Item", Found, Photo)
SHARES: dict[Split, float] = {"train": 0.70, "validation": 0.15, "test": 0.15}
NO_TEST_SHARES: dict[Split, float] = {"train": 0.85, "validation": 0.15}


class Dataset(NamedTuple):
    """Samples with their pixels `(N, H, W, 3)` in the same order."""

    root: Path
    task: Task
    photos: list[Photo]
    pixels: Pixels
    geometries: list[Geometry]
    summary: DataSummary

    def rows(self, split: Split) -> npt.NDArray[np.int64]:
        """Row numbers of one split."""
        return np.array([i for i, p in enumerate(self.photos) if p.split == split], np.int64)

    def targets(self, rows: npt.NDArray[np.int64]) -> Any:
        """What is true of rows, as the task holds it."""
        return self.task.targets([self.photos[i] for i in rows], [self.geometries[i] for i in rows])


def load_dataset(
    data: str,
    task: type[Task],
    spec: Input,
    cache: Path,
    *,
    labels_csv: str = "",
    seed: int = 0,
    ignore: Path | None = None,
    bar: Bar = no_bar,
) -> Dataset:
    """Find, check, hash and split the samples; decode each once into the memory map `cache`.

    Raises DataError for what would spoil training: see checks.py. `ignore` is a folder that holds
    no photos of the user's, `bar` draws progress over a number of photos.
    """
    root = data_folder(data)
    scanned = task.scan(root, labels_csv, ignore=ignore)
    found = list(scanned.photos)
    made = task.of(found, root)
    check_found(_by_class(found, made))
    with bar("reading photos", len(found)) as advance:
        pixels, kept, looks, skipped = _read(root, found, spec, cache, advance)
    check_bad(skipped, len(found), root)
    check_emptied(_by_class(found, made), _by_class(kept, made))
    photos, split_by, warnings, together = _split(
        root, kept, looks, made, seed=seed, source="csv" if labels_csv else ""
    )
    each = [(photo, row) for row, photo in enumerate(photos) for _ in made.classes_of(photo)]
    check_split(_by_class(photos, made), [together.groups[row] for _, row in each])
    summary = DataSummary(
        root=str(root),
        labels=made.labels,
        photos=dict(Counter(photo.split for photo in photos)),
        counts=counted(photos, made),
        sha256=sha256_bytes(photo_lines(photos)),
        split_by=split_by,
        skipped_files=(*skipped, *scanned.skipped),
        warnings=(
            *scanned.warnings,
            *order_of_numbers(made.labels),
            *warnings,
            *dark_warning(looks, spec),
            *huge_warning(kept, looks),
            *_untested(photos, made),
        ),
        duplicates=together.repeats,
    )
    geometries = [seen.geometry for seen in looks if seen.geometry is not None]
    return Dataset(root, made, photos, pixels[: len(photos)], geometries, summary)


def _by_class(items: Sequence[Item], task: Task) -> list[Item]:
    """Each item once for each class that it shows, under the name of that class."""
    return [
        msgspec.structs.replace(item, label=label)
        for item in items
        for label in task.classes_of(item)
    ]


def _read(
    root: Path,
    found: list[Found],
    spec: Input,
    cache: Path,
    advance: Callable[[int], None],
) -> tuple[Pixels, list[Found], list[Look], list[SkippedFile]]:
    pixels = open_cache(cache, len(found), spec.shape)
    kept: list[Found] = []
    looks: list[Look] = []
    skipped: list[SkippedFile] = []
    for item, seen in zip(found, look_all([root / f.path for f in found], spec), strict=True):
        if seen.pixels is None:
            skipped.append(SkippedFile(path=item.path, reason=seen.error))
        else:
            pixels[len(kept)] = seen.pixels
            seen.pixels = None
            kept.append(item)
            looks.append(seen)
        advance(1)
    return pixels, kept, looks, skipped


def _untested(photos: list[Photo], task: Task) -> list[str]:
    chosen = [photo for photo in photos if photo.split == "test"]
    if not chosen:
        return ["No test split: test metrics are null."]
    tested = {label for photo in chosen for label in task.classes_of(photo)}
    return [
        f"Class {label} has no test photo: its test score is missing."
        for label in task.labels
        if label not in tested
    ]


def _split(
    root: Path, kept: list[Found], looks: list[Look], task: Task, *, seed: int, source: str
) -> tuple[list[Photo], str, list[str], Together]:
    single = all(len(task.classes_of(item)) == 1 for item in kept)
    kinds = [item.label if single else "photos" for item in kept]
    together = group_photos(root, kept, looks, kinds)
    warnings = conflicts(kept, together.pairs)
    named = {item.split for item in kept}
    chosen: list[Split]
    if named == {None}:
        chosen = seeded_split(_strata(kept, task), together.groups, SHARES, seed)
        split_by = "seeded"
    else:
        chosen = [item.split or "train" for item in kept]
        split_by = source or "folders"
        if "validation" not in named:
            chosen = _carve_validation(_strata(kept, task), together.groups, chosen, seed)
            split_by += ", validation seeded from training"
            carved, of = chosen.count("validation"), sum(item.split == "train" for item in kept)
            warnings.append(
                f"No validation split: {carved} of the {of} training photos were set aside for it."
            )
        warnings += leaks(kept, chosen, together.pairs)
    warnings += crowd_warning(together, Counter(kinds), split_made="seeded" in split_by)
    photos = [
        Photo(
            path=i.path,
            split=s,
            label=i.label,
            sha256=seen.sha256,
            group=i.group,
            target=i.target,
        )
        for i, s, seen in zip(kept, chosen, looks, strict=True)
    ]
    return photos, split_by, warnings, together


def _carve_validation(
    strata: list[str], groups: list[int], chosen: list[Split], seed: int
) -> list[Split]:
    rows = [i for i, split in enumerate(chosen) if split == "train"]
    carved = seeded_split(
        [strata[i] for i in rows], [groups[i] for i in rows], NO_TEST_SHARES, seed
    )
    result = list(chosen)
    for row, split in zip(rows, carved, strict=True):
        result[row] = split
    return result


def _strata(found: Sequence[Found], task: Task) -> list[str]:
    """What a split shares out: the class of each item, of several the rarest."""
    counts = Counter(label for item in found for label in task.classes_of(item))
    return [min(task.classes_of(i), key=lambda n: (counts[n], n), default="") for i in found]
