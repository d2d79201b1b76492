"""Read every photo once: hash, pixels by the one preprocessing, and a signature of its look."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgetl.errors import ImageError, StorageError
from edgetl.files import sha256_bytes
from edgetl.machine import available_cores
from edgetl.preprocess import Pixels, pixels
from edgetl.spec import Preprocess

STEP_SIDE = 12
THUMB_SIDE = 8
FLAT = 32.0  # keeps noise from looking like structure in a photo without any


class Look:
    """One photo as read: `error` is set instead of the rest where it cannot be."""

    __slots__ = ("error", "pixels", "sha256", "steps", "thumb")

    def __init__(self) -> None:
        self.error = ""
        self.sha256 = ""
        self.pixels: Pixels | None = None  # (size, size, 3)
        self.steps: npt.NDArray[np.float32] | None = None  # (289,)
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
    seen.steps, seen.thumb = signature(seen.pixels)
    return seen


def signature(image: Pixels) -> tuple[npt.NDArray[np.float32], Pixels]:
    """Unit vector `(289,)` of a 12x12 grid's brightness steps, and an 8x8 RGB thumbnail."""
    small = Image.fromarray(image)
    side = (STEP_SIDE + 1, STEP_SIDE + 1)
    grey = np.asarray(small.convert("L").resize(side, Image.Resampling.BOX), np.float32)
    right, down = grey[:-1, 1:] - grey[:-1, :-1], grey[1:, :-1] - grey[:-1, :-1]
    steps = np.concatenate([right.ravel(), down.ravel(), np.array([FLAT], np.float32)])
    thumb = small.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)
    return steps / np.linalg.norm(steps), np.asarray(thumb)


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
    """A new uint8 memory map `(count, size, size, 3)` on disk; StorageError when it does not fit.

    The disk space is taken at once: a full disk would otherwise kill the process at some later
    write into the map.
    """
    shape = (max(count, 1), size, size, 3)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        cache = np.lib.format.open_memmap(os.fspath(path), mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise StorageError(
            f"Cannot write {path}, {math.prod(shape) / 2**20:.0f} MiB: {error.strerror or error}.",
            fix="free disk space or choose a folder you may write to.",
        ) from error
    return cache
