"""Photos that judge and calibrate a given model: class folders, split folders, or loose photos."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from edgetl.data.duplicates import join, same_pairs
from edgetl.data.found import Found, by_kind, data_folder, photo_lines, skipped_line
from edgetl.data.groups import seeded_split
from edgetl.data.ingest import look_all, open_cache
from edgetl.data.scan import scan
from edgetl.data.walk import walk
from edgetl.errors import DataError, StorageError
from edgetl.files import scratch_folder, sha256_bytes
from edgetl.inputs.base import Geometry, Input, Pixels, Read
from edgetl.runs.samples import by_share, read_all, read_photo
from edgetl.spec import Photo, Split

log = logging.getLogger("edgetl")

Use = Literal["calibration", "held-out", "validation"]

FEWEST = 8
SHARE = 4  # decoded photos take at most a quarter of what is free in the temporary folder
MOST_VALIDATION = 5000  # 750 MB at 224 pixels; accuracy is then known to half a point

# Shares of photos that come without validation, in the order in which small classes fill them.
_SHARES: dict[Split, float] = {"validation": 0.5, "train": 0.4, "test": 0.1}
_NO_VALIDATION: dict[Split, float] = {"train": 0.8, "test": 0.2}
_USES: dict[Split, Use] = {"train": "calibration", "test": "held-out", "validation": "validation"}
_APART = 3  # photos that a class needs to be in all uses


class Folder:
    """Checked photos, each of one use; `classes` are the class folders, () for loose photos.

    Equal files have one use. The split is seeded; of split folders, `validation` judges and `train`
    calibrates, and `test` is left alone unless there is no `train`.
    """

    def __init__(
        self,
        root: Path,
        spec: Input,
        *,
        labels: tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        """Raises DataError for photos that cannot be used, or folders that are not in `labels`."""
        self.root, self.spec, self.seed = data_folder(root), spec, seed
        self.warnings: list[str] = []
        self._known: dict[str, Read] = {}  # what was decoded, by hash
        found, self.classes = self._found(labels)
        self._check_classes(labels)
        found, hashes = self._readable(found)
        uses = self._split(found, hashes)
        self._photos: dict[Use, list[Photo]] = {"calibration": [], "held-out": [], "validation": []}
        for item, sha256, split in zip(found, hashes, uses, strict=True):
            if split is not None:
                self._photos[_USES[split]].append(
                    Photo(path=item.path, split=split, label=item.label, sha256=sha256)
                )
        self._check_uses()
        self._photos = {use: by_share(photos, self.seed) for use, photos in self._photos.items()}
        judges = self._photos["validation"]
        if len(judges) > MOST_VALIDATION:
            self.warnings.append(
                f"{MOST_VALIDATION} of {len(judges)} photos judge, by class share."
            )
            self._photos["validation"] = judges[:MOST_VALIDATION]
        for text in self.warnings:
            log.warning(text)

    def of(self, use: Use) -> list[Photo]:
        """The photos of one use; any first ones hold every class by its share."""
        return self._photos[use]

    def read(self, photos: list[Photo]) -> tuple[Pixels, list[Geometry]]:
        """Decode photos to uint8 `(N, H, W, 3)`; DataError when a file has changed."""
        return read_all(self._read, photos, self.spec)

    @property
    def sha256(self) -> str:
        """Hash of all photos in use: their paths, uses, classes and contents."""
        photos = [photo for photos in self._photos.values() for photo in photos]
        return sha256_bytes(photo_lines(sorted(photos, key=lambda photo: photo.path)))

    # --- finding ------------------------------------------------------------------------------

    def _found(self, labels: tuple[str, ...]) -> tuple[list[Found], tuple[str, ...]]:
        """Photos and class folders; without folders, all photos of the folder itself."""
        seen = walk(self.root)
        if seen.folders:
            scanned = scan(self.root, need_train=False, known=labels, seen=seen)
            self.warnings += scanned.warnings
            self.warnings += map(skipped_line, scanned.skipped)
            return list(scanned.photos), tuple(sorted({item.label for item in scanned.photos}))
        if not seen.photos:
            raise DataError(
                f"No photos in {self.root}.",
                fix=f"put at least {FEWEST} photos into it, in class folders or loose.",
            )
        self.warnings += map(skipped_line, by_kind(seen.others))
        return [Found(path=path, label="") for path in seen.photos], ()

    def _check_classes(self, labels: tuple[str, ...]) -> None:
        if len(self.classes) == 1:
            raise DataError(
                f"Only one class, {self.classes[0]}, in {self.root}: accuracy over one class says "
                "little, and ranges calibrated on it fit no other.",
                fix="add folders of other classes, or give a folder of loose photos of all kinds: "
                "then agreement with the given model decides.",
            )
        foreign = [name for name in self.classes if name not in labels] if labels else []
        if foreign:
            shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
            raise DataError(
                f"{len(foreign)} of {len(self.classes)} class folders in {self.root} are not among "
                f"the {len(labels)} labels: {shown}.",
                fix="name class folders as the labels are, or give a folder of loose photos.",
            )

    def _room(self, count: int) -> Pixels:
        """Room on disk for decoded photos `(N, H, W, 3)`; the others are decoded when wanted."""
        with contextlib.suppress(StorageError), scratch_folder() as home:  # mapped, it lives on
            room = shutil.disk_usage(home).free // SHARE // math.prod(self.spec.shape)
            if room:
                return open_cache(home / "pixels", min(count, room), self.spec.shape)
        return np.zeros((0, *self.spec.shape), np.uint8)

    def _readable(self, found: list[Found]) -> tuple[list[Found], list[str]]:
        """What can be decoded, with hashes; the rest is named in a warning."""
        kept, hashes, bad = [], [], []
        paths = [self.root / item.path for item in found]
        cache = self._room(len(found))
        for item, seen in zip(found, look_all(paths, self.spec), strict=True):
            if seen.pixels is None or seen.geometry is None:
                bad.append(f"{item.path} ({seen.error})")
                continue
            kept.append(item)
            hashes.append(seen.sha256)
            if seen.sha256 not in self._known and len(self._known) < len(cache):
                row = cache[len(self._known)]
                row[:] = seen.pixels
                self._known[seen.sha256] = Read(row, seen.geometry, seen.bits, seen.stored)
        named = "; ".join(bad[:5]) + (f"; and {len(bad) - 5} more" if len(bad) > 5 else "")
        if len(bad) > len(found) / 2:
            raise DataError(
                f"{len(bad)} of {len(found)} photos in {self.root} cannot be read: {named}.",
                fix="replace or remove these files.",
            )
        if bad:
            self.warnings.append(f"skipped {len(bad)} of {len(found)} photos: {named}.")
        different = len(set(hashes))
        if different < FEWEST:
            raise DataError(
                f"{self.root} holds {different} different photos that can be read "
                f"(of {len(found)} files; {len(bad)} unreadable); at least {FEWEST} are needed.",
                fix="add photos; 100 or more calibrate well, and as many judge well.",
            )
        return kept, hashes

    # --- splitting ----------------------------------------------------------------------------

    def _split(self, found: list[Found], hashes: list[str]) -> list[Split | None]:
        """For each photo its use, by the split that stands for it, or None for no use."""
        groups = join(len(found), same_pairs(hashes))
        named = {item.split for item in found}
        judged = {"train", "validation"} <= named
        rows = [i for i, f in enumerate(found) if "train" not in named or f.split == "train"]
        trained = {hashes[i] for i in rows}
        judges = {i for i, f in enumerate(found) if judged and f.split == "validation"}
        both = {i for i in judges if hashes[i] in trained}
        if both:  # a photo that is in both judges nothing
            self.warnings.append(
                f"validation photos in {self.root} that are in training too judge nothing: "
                f"{len(both)}."
            )
        judges -= both
        result: list[Split | None] = [
            "validation" if i in judges else None for i in range(len(found))
        ]
        labels = [found[i].label for i in rows]
        own = [groups[i] for i in rows]
        # labels of too few different photos to be in all uses are taken together
        different = Counter(label for label, _ in set(zip(labels, own, strict=True)))
        strata = [label if different[label] >= _APART else "" for label in labels]
        chosen = seeded_split(strata, own, _NO_VALIDATION if judged else _SHARES, self.seed)
        for row, split in zip(rows, chosen, strict=True):
            result[row] = split
        return result

    def _check_uses(self) -> None:
        empty = [use for use, photos in self._photos.items() if not photos]
        if empty:
            counts = ", ".join(f"{len(photos)} {use}" for use, photos in self._photos.items())
            raise DataError(
                f"The photos in {self.root} leave none for {' and '.join(empty)} ({counts}).",
                fix="add different photos, or give class folders without splits.",
            )

    def _read(self, photo: Photo) -> Read:
        if photo.sha256 in self._known:
            return self._known[photo.sha256]
        path = self.root / photo.path
        changed = DataError(f"{path} changed during the export.", fix="export again.")
        return read_photo(path, photo, self.spec, changed)
