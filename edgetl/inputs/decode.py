"""From an image file to 8-bit RGB: size limits, scaled decoding, samples of more bits."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from edgetl.errors import ImageError

# Pillow's own bound, twice its Image.MAX_IMAGE_PIXELS: as many fit into half a GiB of RGB.
MAX_PIXELS = 178_956_970
FULL_DEPTH = 16
DEPTHS = range(8, FULL_DEPTH + 1)
_LARGE = threading.Lock()


def load(image: ImageFile.ImageFile, wanted: tuple[int, int], data: bytes) -> None:
    """Decode; a JPEG at the smallest DCT scale that keeps `wanted` (width, height).

    ImageError, before anything is decoded, where more than MAX_PIXELS would lie in memory. A JPEG
    whose picture comes in one pass needs memory for its scaled size only; any other for all of it.
    """
    width, height = image.size
    most, advice = width * height, "save it smaller."
    if image.format in ("JPEG", "MPO"):
        image.draft(image.mode, wanted)
        if _one_pass(data):
            most = image.width * image.height
        else:
            advice = "save it smaller, or as a JPEG that is not progressive."
    if most > MAX_PIXELS:
        raise ImageError(
            f"{width} × {height} pixels are more than the {MAX_PIXELS / 1e6:.0f} million that are "
            "decoded.",
            fix=advice,
        )
    if width * height <= (Image.MAX_IMAGE_PIXELS or MAX_PIXELS):
        image.load()
        return
    # The reader of TIFF judges the size by itself. One at a time: filters are the whole process's.
    with _LARGE, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image.load()


def _one_pass(data: bytes) -> bool:
    """Whether a JPEG's first scan holds its whole picture, so that libjpeg keeps no coefficients.

    False for progressive files and for those that store one colour after the other.
    """
    at, components = 2, 0
    while at + 10 < len(data):
        if data[at] != 0xFF:
            at += 1  # filler between segments
            continue
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1):  # sequential frame
            components = data[at + 9]
        elif marker == 0xDA:  # scan
            return 0 < components == data[at + 4]
        standalone = marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8
        at += (1 if marker == 0xFF else 2) if standalone else 2 + length
    return False


def is_wide_colour(image: Image.Image) -> bool:
    """Whether a file, not loaded yet, has 16-bit colour, of which Pillow keeps the upper bytes."""
    tiles = getattr(image, "tile", None) or []
    return image.mode in ("RGB", "RGBA") and any(";16" in str(tile[3]) for tile in tiles)


def to_rgb(image: Image.Image, depth: int, *, wide_colour: bool = False) -> tuple[Image.Image, int]:
    """An image in 8-bit RGB, and how many bits its largest sample has (0: it is an 8-bit image).

    Grey samples of more than 8 bits keep the upper 8 of `depth` bits. Raises ImageError where they
    do not fit `depth`, or where nothing but black would be left.
    """
    if wide_colour:
        return _flat(image), _colour_bits(image, depth)
    if image.mode.startswith(("I", "F")):
        return _narrowed(image, depth)
    return _flat(image), 0


def _flat(image: Image.Image) -> Image.Image:
    """8-bit RGB, transparency laid over white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image.convert("RGB")


def _narrowed(image: Image.Image, depth: int) -> tuple[Image.Image, int]:
    kind = "floating-point" if image.mode == "F" else "32-bit"
    if image.mode == "F" and depth == FULL_DEPTH:
        raise ImageError(
            "floating-point samples have no fixed range.",
            fix="save it as 8 or 16 bit, or state the range of whole numbers by --depth BITS.",
        )
    wide = np.asarray(image)
    low, high = float(wide.min()), float(wide.max())
    if not (low >= 0 and high < 2**depth):  # so written, NaN is refused as well
        found = f"this one's are {low:g}…{high:g}"
        if depth == FULL_DEPTH:
            raise ImageError(
                f"{kind} samples have no fixed range, and {found}.", fix="save it as 8 or 16 bit."
            )
        raise ImageError(
            f"samples of {depth} bits are 0…{2**depth - 1}, and {found}.",
            fix="save it as 8 bit; a model for more bits is trained with a larger --depth.",
        )
    bits = int(high).bit_length()
    if 0 < high < 2 ** (depth - 8):
        way_out = f"; --depth {max(bits, 8)} reads them" if high >= 1 else ""
        raise ImageError(
            f"nothing but black would be left: the largest of its samples is {high:g} of "
            f"{2**depth - 1}{way_out}.",
            fix="save it as 8 bit, or train with a smaller --depth.",
        )
    narrow = wide.astype(np.int32) >> (depth - 8)
    return Image.fromarray(narrow.astype(np.uint8)).convert("RGB"), max(bits, 1)


def _colour_bits(image: Image.Image, depth: int) -> int:
    """Bits of the largest sample of a 16-bit colour file, from its upper bytes."""
    if depth != FULL_DEPTH:
        raise ImageError(
            f"16-bit colour cannot be read as {depth} bits.", fix="save it as 8 bit, or as grey."
        )
    extrema: Any = image.getextrema()  # (lowest, highest) of each band
    upper: int = max(highest for _, highest in extrema[:3])
    if upper == 0:
        raise ImageError(
            "nothing but black would be left: all of its 16-bit samples are below 256.",
            fix="save it as 8 bit.",
        )
    return 8 + upper.bit_length()
