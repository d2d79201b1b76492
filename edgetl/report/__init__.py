"""The report of a training run: one HTML file that needs nothing else."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from edgetl.files import write_bytes
from edgetl.runs.record import EpochRow, RunRecord
from edgetl.spec import Record


class Mistake(Record, frozen=True, kw_only=True):
    """One wrongly classified photo: its probability is 0…1, `jpeg` a small thumbnail."""

    path: str
    truth: str
    predicted: str
    probability: float
    split: str
    jpeg: bytes


def thumbnail(image: Image.Image, side: int) -> bytes:
    """A small JPEG of an image, which itself is made small."""
    image.thumbnail((side, side))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def write_run_report(
    path: Path, record: RunRecord, history: list[EpochRow], mistakes: list[Mistake]
) -> None:
    """Write the run's HTML report to `path`, whole or not at all; mistakes come worst first."""
    from edgetl.report.page import render

    write_bytes(path, render(record, history, mistakes).encode("utf-8", "replace"))
