"""Read every photo once: hash, pixels by the one preprocessing, and a signature of its look."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgetl.errors import ImageError, StorageError
from edgetl.files import sha256_bytes
from edgetl.inputs.base import Geometry, Input, Pixels
from edgetl.inputs.formats import open_image
from edgetl.machine import available_cores

GRID_SIDE = 24
THUMB_SIDE = 8
GREY = np.array([0.299, 0.587, 0.114], np.float32)
EXIF_IFD, TAKEN, CHANGED = 0x8769, 0x9003, 0x0132


@dataclass(slots=True)
class Look:
    """One photo as read: `error` is set instead of the rest where it cannot be."""

    error: str = ""
    sha256: str = ""
    pixels: Pixels | None = None  # (H, W, 3)
    geometry: Geometry | None = None
    bits: int = 0  # of the largest sample of a 16-bit or wider file; 0 for 8-bit images
    stored: tuple[int, int] = (0, 0)  # width and height in the file
    grid: npt.NDArray[np.float32] | None = None  # (24, 24)
    thumb: Pixels | None = None  # (8, 8, 3)


def look(path: Path, spec: Input) -> Look:
    """Read one file; never raises for what is wrong with the file itself."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return Look(error.strerror or str(error))
    if not data:
        return Look("the file is empty")
    sha256 = sha256_bytes(data)
    try:
        read = spec.read(data)
    except ImageError as error:
        return Look(error.message.removeprefix("Cannot read image <bytes>: ").rstrip("."), sha256)
    return Look("", sha256, *read, *signature(read.pixels))


def signature(image: Pixels) -> tuple[npt.NDArray[np.float32], Pixels]:
    """Brightness 0…255 on a 24x24 grid, and an 8x8 RGB thumbnail."""
    grey = Image.fromarray(image.astype(np.float32) @ GREY)
    grid = grey.resize((GRID_SIDE, GRID_SIDE), Image.Resampling.BOX)
    thumb = Image.fromarray(image).resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)
    return np.asarray(grid), np.asarray(thumb)


def time_taken(path: Path) -> str:
    """When a photo was taken by its EXIF data, as text that sorts; "" where that is not said."""
    try:
        exif = open_image(path.read_bytes()).getexif()
        texts = [str(exif.get_ifd(EXIF_IFD).get(TAKEN, "")), str(exif.get(CHANGED, ""))]
    except Exception:  # damaged EXIF data says no time
        return ""
    return next((text for text in texts if text.strip("0: \0")), "")


def look_all(paths: list[Path], spec: Input) -> Iterator[Look]:
    """Read files in order, on all cores; at most a few hundred decoded photos wait in memory."""
    with ThreadPoolExecutor(available_cores(), thread_name_prefix="edgetl-read") as pool:
        for start in range(0, len(paths), 256):
            yield from pool.map(lambda path: look(path, spec), paths[start : start + 256])


def open_cache(path: Path, count: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """A new uint8 memory map `(count, *shape)` on disk; StorageError when it does not fit.

    The disk space is taken at once: a full disk would otherwise kill the process at some later
    write into the map.
    """
    whole = (max(count, 1), *shape)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        cache = np.lib.format.open_memmap(os.fspath(path), mode="w+", dtype=np.uint8, shape=whole)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise StorageError(
            f"Cannot write {path}, {math.prod(whole) / 2**20:.0f} MiB: {error.strerror or error}.",
            fix="free disk space or choose a folder you may write to.",
        ) from error
    return cache
