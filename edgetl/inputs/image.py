"""The one way from an image to pixels: training-time evaluation, calibration, gates and runtime.

Rule set 1, in order:

1. Decode the first frame. A JPEG file is decoded at the smallest of libjpeg's DCT scales (1, 1/2,
   1/4, 1/8) that keeps at least the wanted size. ICC profiles are ignored. Arrays and Pillow
   images are taken as they are. What would take more than 179 million pixels of memory is refused.
2. Apply the EXIF orientation.
3. To 8-bit RGB: 16-bit samples keep their upper byte, transparency is laid over white, and grey,
   palette and CMYK are converted. Floating-point samples are refused, and so are wide samples of
   which nothing but black would be left.
4. Resize with Pillow's antialiased bilinear filter, to (size, size): `crop` takes the central
   square of 224/256 of the shorter side, `squash` the whole image with its aspect changed, `pad`
   the whole image with its aspect kept, centred on (124, 116, 104).

Rule set 2 differs in step 3: grey samples of 16 bits, 32 bits or floating point are whole numbers
of `depth` bits (8…15), of which the upper 8 are kept, so that 12-bit samples in 16-bit files use
the whole range. A sample that does not fit is an error, and so is 16-bit colour.

Nothing else happens outside the graph.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, TypeGuard, Union

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgetl.errors import ImageError
from edgetl.inputs.decode import DEPTHS, FULL_DEPTH, MAX_PIXELS, is_wide_colour, load, to_rgb
from edgetl.inputs.formats import READABLE, open_image
from edgetl.spec import Fit, Preprocess

Pixels: TypeAlias = npt.NDArray[np.uint8]
ImageSource: TypeAlias = Union[
    str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], Image.Image, Pixels
]

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
REASONS = {
    FileNotFoundError: "no such file",
    IsADirectoryError: "it is a folder",
}


class Read(NamedTuple):
    """One image as pixels, and what they do not show any more."""

    pixels: Pixels  # (size, size, 3)
    bits: int  # that the largest sample of a 16-bit or wider file has; 0 for 8-bit images
    stored: tuple[int, int]  # (width, height) in the file


class _Decoded(NamedTuple):
    image: Image.Image
    stored: tuple[int, int]
    wide_colour: bool = False


def rules_for(size: int, fit: Fit, depth: int = FULL_DEPTH) -> Preprocess:
    """The preprocessing of files whose wide grey samples have `depth` bits, 8…16."""
    return Preprocess(size=size, fit=fit, rules=1 if depth == FULL_DEPTH else 2, depth=depth)


def pixels(source: ImageSource, spec: Preprocess, *, crop: float = CROP) -> Pixels:
    """Turn one image into uint8 RGB `(size, size, 3)`.

    `source` is a file's path, its bytes, a file opened for reading bytes, a Pillow image, or a
    uint8 array `(H, W, 3)` in RGB or `(H, W)` in grey. `crop` is the share of the shorter side that
    fit `crop` keeps; only training, which crops again by itself, keeps all of it. Raises ImageError
    when it cannot be read.
    """
    return read(source, spec, crop=crop).pixels


def read(source: ImageSource, spec: Preprocess, *, crop: float = CROP) -> Read:
    """`pixels`, and what was found in the file."""
    depth = spec.depth if spec.rules == 2 else FULL_DEPTH
    if spec.rules not in (1, 2) or depth not in DEPTHS:
        what = f"rules {spec.rules}" + (f" with depth {depth}" if spec.rules == 2 else "")
        raise ImageError(
            f"The model wants preprocessing {what}; this edgetl knows rules 1 and 2.",
            fix="pip install -U edgetl",
        )
    name = _name(source)
    try:
        found = _decoded(source, spec, crop)
        rgb, bits = to_rgb(_upright(found.image), depth, wide_colour=found.wide_colour)
        return Read(_fit(rgb, spec, crop), bits, found.stored)
    except ImageError as error:
        raise ImageError(f"Cannot read image {name}: {error.message}", fix=error.fix) from None
    except Image.DecompressionBombError as error:  # of Pillow's readers that measure by themselves
        what = f"it has more than {MAX_PIXELS / 1e6:.0f} million pixels"
        raise ImageError(f"Cannot read image {name}: {what}.", fix="save it smaller.") from error
    except Exception as error:  # Pillow's plug-ins raise almost anything on damaged files
        raise ImageError(
            f"Cannot read image {name}: {_reason(error)}.",
            fix=_fix(error),
        ) from error


def batch(sources: Iterable[ImageSource], spec: Preprocess) -> Pixels:
    """Turn images into one uint8 array `(N, size, size, 3)`; errors as in `pixels`."""
    rows = [pixels(source, spec) for source in sources]
    return np.stack(rows) if rows else np.zeros((0, spec.size, spec.size, 3), np.uint8)


def is_source(value: object) -> TypeGuard[ImageSource]:
    """Whether a value is of a kind that one image is given as."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
    return isinstance(value, kinds) or hasattr(value, "read")


def _name(source: ImageSource) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    name = getattr(source, "name", "")  # of an open file
    return name if name and isinstance(name, str) else f"<{type(source).__name__}>"


def _fix(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:  # the file itself, not what it holds
        return "check the path and its permissions."
    return f"replace it with a whole {READABLE} file."


def _reason(error: Exception) -> str:
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


def _decoded(source: ImageSource, spec: Preprocess, crop: float) -> _Decoded:
    """Decode a file at the smallest sufficient scale; the caller's own image is not scaled."""
    if isinstance(source, Image.Image):
        wide_colour = is_wide_colour(source)
        source.load()
        return _Decoded(source, source.size, wide_colour)
    if isinstance(source, np.ndarray):
        right = source.ndim == 2 or (source.ndim == 3 and source.shape[2] == 3)
        if source.dtype != np.uint8 or not right or not source.size:
            raise ImageError(
                f"an image array must be uint8 of shape (H, W, 3) or (H, W), not {source.dtype} "
                f"{source.shape}.",
                fix="convert it to RGB with values 0…255 first.",
            )
        return _Decoded(Image.fromarray(source), (source.shape[1], source.shape[0]))
    data = _bytes(source)
    image = open_image(data)
    found = _Decoded(image, image.size, is_wide_colour(image))
    load(image, _wanted(image.width, image.height, spec, crop), data)
    return found


def _bytes(source: ImageSource) -> bytes:
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
