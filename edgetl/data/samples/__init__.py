"""Photos that edgetl makes itself, wherever a data folder may be named: `sample:parts`."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edgetl.data.samples import digits, parts
from edgetl.errors import StorageError, UsageError
from edgetl.files import CACHE, cache_folder
from edgetl.registry import look_up

PREFIX = "sample:"
VERSION = 1  # of what is drawn; another one is drawn anew


class Sample(NamedTuple):
    """A set of photos in class folders."""

    title: str
    photos: int
    classes: int
    draw: Callable[[Path], None]  # writes FOLDER/<class>/*


SAMPLES = {
    "parts": Sample("machine parts on a belt, drawn; some are worn", 600, 5, parts.draw),
    "parts-camera2": Sample(
        "other such parts by a camera of other colours, less sharp", 600, 5, parts.draw_camera2
    ),
    "digits": Sample("handwritten digits, real, of scikit-learn", 1797, 10, digits.draw),
}


def is_sample(data: str | os.PathLike[str]) -> bool:
    """Whether a data folder's name means a sample."""
    return os.fspath(data).startswith(PREFIX)


def find_sample(name: str) -> Sample:
    """A sample by name, with or without `sample:`; UnknownNameError suggests the nearest."""
    return look_up(name.removeprefix(PREFIX), SAMPLES, "sample", listing="edgetl samples")


def sample_folder(name: str) -> Path:
    """The photos of `sample:NAME`, in the cache; they are made at the first use.

    UnknownNameError for a name that is none, StorageError where the cache cannot be written.
    """
    sample = find_sample(name)
    home = cache_folder() / "samples" / f"{name.removeprefix(PREFIX)}-{VERSION}"
    if not home.is_dir():
        write_sample(sample, home, CACHE)
    return home


def real_path(path: Path) -> Path:
    """A path, or the folder of the sample that it names."""
    return sample_folder(str(path)) if is_sample(path) else path


def write_sample(
    sample: Sample, folder: Path, fix: str = "name a folder you may write to."
) -> None:
    """Make a sample's photos as `folder`, which must not be there; all of them or none.

    StorageError with `fix` where that is not possible.
    """
    if folder.exists():
        raise UsageError(f"{folder} is there already.", fix="name a new folder.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
        made.mkdir()
        try:
            sample.draw(made)
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"Cannot write {folder}: {error.strerror or error}.", fix=fix) from error
