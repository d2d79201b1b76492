"""The one way from an image to pixels: training-time evaluation, calibration, gates and runtime.

Rule set 1, in order:

1. Decode the first frame. A JPEG file is decoded at the smallest of libjpeg's DCT scales (1, 1/2,
   1/4, 1/8) that keeps at least the wanted size. ICC profiles are ignored. Arrays and Pillow
   images are taken as they are.
2. Apply the EXIF orientation.
3. To 8-bit RGB: 16-bit samples keep their upper byte, transparency is laid over white, and grey,
   palette and CMYK are converted. Floating-point samples are refused.
4. Resize with Pillow's antialiased bilinear filter, to (size, size): `crop` takes the central
   square of 224/256 of the shorter side, `squash` the whole image with its aspect changed, `pad`
   the whole image with its aspect kept, centred on (124, 116, 104).

Nothing else happens outside the graph.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias, Union

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgetl.errors import ImageError
from edgetl.formats import READABLE, open_image
from edgetl.spec import Preprocess

Pixels: TypeAlias = npt.NDArray[np.uint8]
Source: TypeAlias = Union[str, "os.PathLike[str]", bytes, Image.Image, Pixels]

CROP = 224 / 256
PADDING = (124, 116, 104)
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def pixels(source: Source, spec: Preprocess, *, crop: float = CROP) -> Pixels:
    """Turn one image into uint8 RGB `(size, size, 3)`.

    `source` is a file's path, its bytes, a Pillow image, or a uint8 array `(H, W, 3)` in RGB or
    `(H, W)` in grey. `crop` is the share of the shorter side that fit `crop` keeps; only training,
    which crops again by itself, keeps all of it. Raises ImageError when it cannot be read.
    """
    if spec.rules != 1:
        raise ImageError(
            f"The model wants preprocessing rules {spec.rules}; this edgetl knows rules 1.",
            fix="pip install -U edgetl",
        )
    name = _name(source)
    try:
        return _fit(_rgb(_upright(_decoded(source, spec, crop))), spec, crop)
    except ImageError as error:
        raise ImageError(f"Cannot read image {name}: {error.message}", fix=error.fix) from None
    except Exception as error:  # Pillow's plug-ins raise almost anything on damaged files
        raise ImageError(
            f"Cannot read image {name}: {_reason(error)}.",
            fix=f"replace it with a whole {READABLE} file.",
        ) from error


def batch(sources: Iterable[Source], spec: Preprocess) -> Pixels:
    """Turn images into one uint8 array `(N, size, size, 3)`; errors as in `pixels`."""
    rows = [pixels(source, spec) for source in sources]
    return np.stack(rows) if rows else np.zeros((0, spec.size, spec.size, 3), np.uint8)


def _name(source: Source) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return f"<{type(source).__name__}>"


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    text = str(error).split("\n")[0].rstrip(". ")
    if "truncated" in text.lower():
        return "image file is truncated: the file is cut off"
    if text.startswith(("broken data stream", "could not create decoder object")):  # PNG, WebP
        return "the file is damaged or cut off"
    return text or type(error).__name__


def _decoded(source: Source, spec: Preprocess, crop: float) -> Image.Image:
    """Decode a file at the smallest sufficient scale; the caller's own image is not scaled."""
    if isinstance(source, Image.Image):
        source.load()
        return source
    if isinstance(source, np.ndarray):
        right = source.ndim == 2 or (source.ndim == 3 and source.shape[2] == 3)
        if source.dtype != np.uint8 or not right or not source.size:
            raise ImageError(
                f"an image array must be uint8 of shape (H, W, 3) or (H, W), not {source.dtype} "
                f"{source.shape}.",
                fix="convert it to RGB with values 0…255 first.",
            )
        return Image.fromarray(source)
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if not data:
        raise ImageError("the file is empty.", fix="replace the file.")
    image = open_image(data)
    if image.format in ("JPEG", "MPO"):
        image.draft(image.mode, _wanted(image.width, image.height, spec, crop))
    image.load()
    return image


def _upright(image: Image.Image) -> Image.Image:
    turn = UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
    return image if turn is None else image.transpose(turn)


def _wanted(width: int, height: int, spec: Preprocess, crop: float) -> tuple[int, int]:
    """Smallest (width, height) that a scaled decode may have."""
    if spec.fit == "crop":
        least = round(spec.size / crop)
        return least, least
    if spec.fit == "squash":
        return spec.size, spec.size
    scale = spec.size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image
    if mode.startswith("I"):
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise ImageError("32-bit samples have no fixed range.", fix="save it as 8 or 16 bit.")
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    elif mode == "F":
        raise ImageError(
            "floating-point samples have no fixed range.", fix="save it as 8 or 16 bit."
        )
    elif "transparency" in image.info or mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image.convert("RGB")


def _fit(image: Image.Image, spec: Preprocess, crop: float) -> Pixels:
    size = (spec.size, spec.size)
    box = None
    if spec.fit == "crop":
        side = min(image.size) * crop
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
    elif spec.fit == "pad":
        scale = spec.size / max(image.size)
        inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        canvas = Image.new("RGB", size, PADDING)
        resized = image.resize(inner, Image.Resampling.BILINEAR)
        canvas.paste(resized, ((spec.size - inner[0]) // 2, (spec.size - inner[1]) // 2))
        return np.asarray(canvas)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))
