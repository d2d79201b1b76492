"""The run's own photos again, from their files through the one preprocessing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgetl.data.found import data_folder
from edgetl.data.samples import is_sample
from edgetl.data.walk import walk
from edgetl.errors import DataError, RunError
from edgetl.files import read_jsonl, sha256_bytes, sha256_file
from edgetl.inputs.base import Geometry, Input, Pixels, Read
from edgetl.machine import available_cores
from edgetl.runs.folder import PHOTOS
from edgetl.runs.record import RunRecord
from edgetl.spec import Photo, Split


class RunPhotos:
    """Finds, checks and decodes photos that a run's data.jsonl lists."""

    def __init__(self, run: Path, record: RunRecord, moved_to: str = "") -> None:
        """`moved_to` is where the photos are now; DataError counts the missing ones."""
        self.record = record
        self.photos = _listed(run / PHOTOS, record.data.sha256)
        if not moved_to and is_sample(record.config.data):
            moved_to = record.config.data
        self.root = data_folder(moved_to) if moved_to else Path(record.data.root)
        self.paths = {photo.path: self.root / photo.path for photo in self.photos}
        needed = [photo for photo in self.photos if photo.split != "test"]
        lost = [photo for photo in needed if not self.paths[photo.path].is_file()]
        if lost and moved_to:
            lost = self._search(lost)
        if lost:
            raise DataError(
                f"{len(lost)} of the {len(needed)} training and validation photos of the run are "
                f"not in {self.root}, {lost[0].path} for one.",
                fix="give the folder that holds them now by --data FOLDER.",
            )

    def _search(self, lost: list[Photo]) -> list[Photo]:
        """Look for photos by content under another name or in another folder."""
        wanted: dict[str, list[Photo]] = {}
        for photo in lost:  # a picture may be in the data set more than once
            wanted.setdefault(photo.sha256, []).append(photo)
        for path in (self.root / name for name in walk(self.root).photos):
            if not wanted:
                break
            for photo in wanted.pop(_hash(path), []):
                self.paths[photo.path] = path
        return [photo for photo in lost if not self.paths[photo.path].is_file()]

    def of(self, split: Split) -> list[Photo]:
        """The photos of one split, in their stored order."""
        return [photo for photo in self.photos if photo.split == split]

    def read(self, photos: list[Photo]) -> tuple[Pixels, list[Geometry]]:
        """Decode photos to `(N, H, W, 3)`; DataError when a file's hash has changed."""
        spec = self.record.input
        return read_all(lambda p: _read(self.paths[p.path], p, spec), photos, spec)

    def ranked(self, split: Split) -> list[Photo]:
        """The photos of a split, shuffled so that any first ones hold every class by its share."""
        return by_share(self.of(split), self.record.config.seed)


def read_all(
    one: Callable[[Photo], Read], photos: list[Photo], spec: Input
) -> tuple[Pixels, list[Geometry]]:
    """Pixels `(N, H, W, 3)` of photos that `one` reads, on all cores; none is held twice."""
    pixels = np.empty((len(photos), *spec.shape), np.uint8)
    geometries = []
    with ThreadPoolExecutor(available_cores()) as pool:
        for row, found in enumerate(pool.map(one, photos)):
            pixels[row] = found.pixels
            geometries.append(found.geometry)
    return pixels, geometries


def by_share(photos: list[Photo], seed: int) -> list[Photo]:
    """Shuffle photos so that any first ones hold every class by its share."""
    totals = Counter(photo.label for photo in photos)
    ranks: Counter[str] = Counter()
    keyed: list[tuple[float, int]] = []
    for index in np.random.default_rng(seed).permutation(len(photos)).tolist():
        label = photos[index].label
        keyed.append(((ranks[label] + 0.5) / totals[label], index))
        ranks[label] += 1
    return [photos[index] for _, index in sorted(keyed)]


def fingerprint(photos: list[Photo]) -> str:
    """SHA-256 over the sorted hashes of photos."""
    return sha256_bytes("\n".join(sorted(photo.sha256 for photo in photos)).encode())


def _listed(path: Path, sha256: str) -> list[Photo]:
    """The rows of data.jsonl; RunError unless it is the file that the run wrote."""
    try:
        if sha256_file(path) == sha256:
            return read_jsonl(path, Photo)
        problem = "is not as the run wrote it"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    raise RunError(f"{path} {problem}.", fix="restore it, or train the run again.")


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError:  # unreadable, so not the photo that is looked for
        return ""


def _read(path: Path, photo: Photo, spec: Input) -> Read:
    what = f"{path} is not the photo that the run was trained with: its hash differs."
    changed = DataError(what, fix="restore the file, or train the run again.")
    return read_photo(path, photo, spec, changed)


def read_photo(path: Path, photo: Photo, spec: Input, changed: DataError) -> Read:
    """A photo's file as a network reads it; `changed` is raised when its hash differs."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"Cannot read {path}: {error.strerror}.", fix="make the file readable."
        ) from error
    if sha256_bytes(data) != photo.sha256:
        raise changed
    return spec.read(data)
