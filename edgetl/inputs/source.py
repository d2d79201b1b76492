"""What one image is given as: a path, bytes, an open file, an image or an array; and its errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeGuard, Union

import numpy as np
from PIL import Image

from edgetl.errors import ImageError
from edgetl.inputs.base import Pixels
from edgetl.inputs.formats import READABLE

ImageSource: TypeAlias = Union[
    str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], Image.Image, Pixels
]

REASONS = {
    FileNotFoundError: "no such file",
    IsADirectoryError: "it is a folder",
}


def is_source(value: object) -> TypeGuard[ImageSource]:
    """Whether a value is of a kind that one image is given as."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
    return isinstance(value, kinds) or hasattr(value, "read")


def source_name(source: ImageSource) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    name = getattr(source, "name", "")  # of an open file
    return name if name and isinstance(name, str) else f"<{type(source).__name__}>"


def fix_for(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:  # the file itself, not what it holds
        return "check the path and its permissions."
    return f"replace it with a whole {READABLE} file."


def reason_of(error: Exception) -> str:
    for kind, reason in REASONS.items():
        if isinstance(error, kind):
            return reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(error).split("\n")[0].rstrip(". ")
    if "truncated" in text.lower():
        return "image file is truncated: the file is cut off"
    if text.startswith(("broken data stream", "could not create decoder object")):  # PNG, WebP
        return "the file is damaged or cut off"
    return text or type(error).__name__


def source_bytes(source: ImageSource) -> bytes:
    """All bytes of a file; of one that is open, those from where it stands."""
    if not is_source(source):
        raise ImageError(
            f"a {type(source).__name__} is no image.",
            fix="give a path, bytes, an open file, a Pillow image or a uint8 array.",
        )
    data: Any
    if isinstance(source, (str, os.PathLike)):
        data = Path(os.fsdecode(source)).read_bytes()
        fix = "replace the file."
    else:
        data = source.read() if hasattr(source, "read") else source
        fix = "go back to its start by seek(0) if it was read before, or give other bytes."
    if not isinstance(data, (bytes, bytearray, memoryview)):
        kind = type(data).__name__
        if kind == "coroutine":
            data.close()  # else Python would warn that nobody awaited it
        raise ImageError(
            f"its read() gives a {kind}, not bytes.",
            fix="open the file with mode 'rb', or await its read() and give the bytes.",
        )
    if not len(data):
        raise ImageError("the file is empty.", fix=fix)
    return bytes(data)
