"""Read every photo once: hash, pixels by the one preprocessing, and a signature of its look."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgetl.errors import ImageError
from edgetl.files import sha256_bytes
from edgetl.machine import available_cores
from edgetl.preprocess import Pixels, pixels
from edgetl.spec import Preprocess

HASH_SIDE = 16
THUMB_SIDE = 8


class Look:
    """One photo as read: `error` is set instead of the rest where it cannot be."""

    __slots__ = ("error", "gradient", "pixels", "sha256", "thumb")

    def __init__(self) -> None:
        self.error = ""
        self.sha256 = ""
        self.pixels: Pixels | None = None  # (size, size, 3)
        self.gradient: npt.NDArray[np.bool_] | None = None  # (256,)
        self.thumb: Pixels | None = None  # (8, 8, 3)


def look(path: Path, spec: Preprocess) -> Look:
    """Read one file; never raises for what is wrong with the file itself."""
    seen = Look()
    try:
        data = path.read_bytes()
    except OSError as error:
        seen.error = error.strerror or str(error)
        return seen
    if not data:
        seen.error = "the file is empty"
        return seen
    seen.sha256 = sha256_bytes(data)
    try:
        seen.pixels = pixels(data, spec)
    except ImageError as error:
        seen.error = error.message.removeprefix("Cannot read image <bytes>: ").rstrip(".")
        return seen
    seen.gradient, seen.thumb = signature(seen.pixels)
    return seen


def signature(image: Pixels) -> tuple[npt.NDArray[np.bool_], Pixels]:
    """Signs of 16x16 horizontal brightness steps `(256,)` ("dHash"), and an 8x8 RGB thumbnail."""
    small = Image.fromarray(image)
    grey = small.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    steps = np.asarray(grey, np.int16)
    thumb = small.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)
    return (steps[:, 1:] > steps[:, :-1]).ravel(), np.asarray(thumb)


def look_all(
    paths: list[Path], spec: Preprocess, *, progress: Callable[[int], None] | None = None
) -> Iterator[Look]:
    """Read files in order, on all cores; at most a few hundred decoded photos wait in memory."""
    workers = available_cores()
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="edgetl-read") as pool:
        for start in range(0, len(paths), 256):
            block = paths[start : start + 256]
            for seen in pool.map(lambda path: look(path, spec), block):
                if progress:
                    progress(1)
                yield seen


def open_cache(path: Path, count: int, size: int) -> npt.NDArray[np.uint8]:
    """A new uint8 memory map `(count, size, size, 3)` on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(
        os.fspath(path), mode="w+", dtype=np.uint8, shape=(max(count, 1), size, size, 3)
    )
