"""What one image is given as, and what a file is: by its first bytes, and by its name's suffix."""

from __future__ import annotations

import importlib
import io
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeGuard, Union

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError, features

from edgetl.errors import ImageError
from edgetl.inputs.base import Pixels

HEAD = 512  # bytes that `kind_of` looks at

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF")  # as Pillow names them; with MPO
READABLE = "JPEG, PNG, WebP, BMP, TIFF, GIF or PPM"
SUFFIXES = frozenset(
    f".{name}" for name in (
        "jpg", "jpeg", "jpe", "jfif", "mpo", "png", "bmp", "webp", "tif", "tiff", "gif",
        "ppm", "pgm", "pbm", "pnm",
    )
)  # fmt: skip
# Photos all the same, which need an extra, a newer Pillow, or to be converted.
FOREIGN = frozenset(
    f".{name}" for name in (
        "heic", "heif", "hif", "avif", "jxl", "jp2", "j2k", "jpf", "jpx", "raw", "dng", "cr2",
        "cr3", "nef", "arw", "orf", "rw2", "raf",
    )
)  # fmt: skip
_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706  # TIFF tags
_CONVERT = "convert it to JPEG or PNG."
# Kind → what reads it, and the fix.
_NEEDS = {
    "HEIC": (
        "edgetl reads with the extra heif",
        "pip install 'edgetl[heif]', or convert it to JPEG.",
    ),
    "AVIF": ("Pillow reads from 11.3 on", "pip install -U pillow, or convert it to JPEG."),
    "JPEG XL": ("edgetl does not read", _CONVERT),
    "JPEG 2000": ("edgetl does not read", _CONVERT),
    "Canon raw": ("edgetl does not read", _CONVERT),
    "camera raw": ("edgetl does not read", _CONVERT),
}
PHOTOS = frozenset({"JPEG", "PNG", "GIF", "BMP", "WebP", "TIFF", "PPM", *_NEEDS})

_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0\x10\0\0\0CR\x02", "Canon raw"),  # before TIFF, as which it starts
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"\x93NUMPY", "NumPy"),
    (b"\x89HDF", "HDF5"),
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
)
_PATTERNS = (
    (re.compile(rb"(?s).{128}DICM"), "DICOM"),
    (re.compile(rb"(?s)BM.{13}\0\0\0"), "BMP"),  # its second header is shorter than 256 bytes
    (re.compile(rb"P[1-6][ \t\r\n#]"), "PPM"),
)
_BRANDS = (
    (("avif", "avis"), "AVIF"),
    (("crx ",), "Canon raw"),
    (("heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"), "HEIC"),
)


def kind_of(head: bytes) -> str:
    """The kind of a file by its first `HEAD` bytes: one of PHOTOS, another name, or ""."""
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF":
        return "WebP" if head[8:12] == b"WEBP" else "video or sound"
    if head[4:8] == b"ftyp":
        return _brand(head)
    for pattern, kind in _PATTERNS:
        if pattern.match(head):
            return kind
    return ""


def _brand(head: bytes) -> str:
    """The kind of an ISO media file, of which HEIC and AVIF are two, by the brands it states."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[at : at + 4].decode("latin-1") for at in (8, *range(16, end, 4))}
    for names, kind in _BRANDS:
        if brands & set(names):
            return kind
    return "video or sound"


def open_image(data: bytes) -> ImageFile.ImageFile:
    """A file's bytes as a Pillow image, not yet decoded.

    ImageError says what it is where nothing here reads it, and the way out.
    """
    kind = kind_of(data[:HEAD])
    try:
        image = _opened(data, _readers(kind))
        if isinstance(image, TiffImagePlugin.TiffImageFile) and _is_raw(image):
            raise _unread("camera raw")
        return image
    except UnidentifiedImageError as error:
        if kind in PHOTOS:
            what = f"it starts as {kind} does, but is damaged" + (
                " or of a kind that Pillow does not read, such as a camera's raw" * (kind == "TIFF")
            )
        else:
            what = "not an image in a format that edgetl reads" + f", but {kind}" * bool(kind)
        raise ImageError(f"{what}.", fix=f"replace it with a whole {READABLE} file.") from error


def _opened(data: bytes, formats: Iterable[str]) -> ImageFile.ImageFile:
    """Read a file's header with Pillow's reader of it, whatever its size; nothing is decoded yet.

    This is `Image.open` less its judgement of the size, which warns and raises by a process-wide
    setting and knows nothing of scaled decoding. Raises UnidentifiedImageError, or what a reader
    raises on a damaged header.
    """
    Image.preinit()
    for name in formats:
        if name not in Image.OPEN:
            Image.init()
        if name not in Image.OPEN:  # Pillow was built without it
            continue
        factory, accepts = Image.OPEN[name]
        try:
            accepted = accepts is None or accepts(data[:16])  # a string says why not
            if accepted and not isinstance(accepted, str):
                return factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # another format after all
    raise UnidentifiedImageError


def _is_raw(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether a TIFF is a camera's raw photo, of which Pillow would give the small preview."""
    tags = image.tag_v2
    is_preview = bool(tags.get(_SUBFILE_TYPE, 0) & 1) and _SUB_IFDS in tags
    return is_preview or _DNG_VERSION in tags


def _readers(kind: str) -> tuple[str, ...]:
    """Pillow's formats for a kind; ImageError where it needs what is not here."""
    if kind not in _NEEDS:
        return FORMATS
    if kind == "AVIF" and "avif" in features.modules and features.check("avif"):
        return ("AVIF",)
    if kind == "HEIC" and _heif():
        return ("HEIF",)
    raise _unread(kind)


def _unread(kind: str) -> ImageError:
    reader, fix = _NEEDS[kind]
    return ImageError(f"it is {kind}, which {reader}.", fix=fix)


def _heif() -> bool:
    """Teach Pillow HEIC if the extra is installed."""
    if "HEIF" not in Image.OPEN:
        try:
            importlib.import_module("pi_heif").register_heif_opener()
        except ImportError:
            return False
    return True


# --- what an image is given as: a path, bytes, an open file, an image or an array ---------------

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
