"""Samples of a data set, and what was found in its folder."""

from __future__ import annotations

from typing import Any

from edgetl.spec.base import Record, Split


class Photo(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One labelled photo of a data set; a row of data.jsonl."""

    path: str  # relative to the data folder, with forward slashes
    split: Split
    label: str
    sha256: str
    group: str = ""
    target: Any = None  # what else a task knows of it, as JSON holds it


class SkippedFile(Record, frozen=True, kw_only=True):
    """A file that was left out, and why; `n` files of the same kind, `path` being the first."""

    path: str
    reason: str
    n: int = 1


class DataSummary(Record, frozen=True, kw_only=True):
    """What was found in the data folder."""

    root: str
    labels: tuple[str, ...]
    photos: dict[str, int]  # by split
    counts: dict[str, dict[str, int]]  # split → label → photos that show it
    sha256: str  # of data.jsonl
    split_by: str  # "seeded"; or "folders" or "csv", "…, validation seeded from training"
    skipped_files: tuple[SkippedFile, ...] = ()
    warnings: tuple[str, ...] = ()
    duplicates: int = 0  # photos that repeat another one, byte for byte or nearly


class WeightsOrigin(Record, frozen=True, kw_only=True):
    """Where the starting weights came from, and under which terms."""

    source: str  # torchvision's enum member, a file's name, or "random initialisation"
    sha256: str = ""  # of the file
    licence: str = ""  # terms of the weights
    notes: tuple[str, ...] = ()  # what of the file was chosen, left out or converted


class Normalize(Record, frozen=True, kw_only=True):
    """Per-channel mean and deviation of RGB in 0…1, applied inside the graph."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # subtracted
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)  # divided by afterwards
