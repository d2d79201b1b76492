"""The one way from an image to pixels: training-time evaluation, calibration, gates and runtime.

Rule set 1, in order:

1. Decode the first frame. A JPEG file is decoded at the smallest of libjpeg's DCT scales (1, 1/2,
   1/4, 1/8) that keeps at least the wanted size. ICC profiles are ignored. Arrays and Pillow
   images are taken as they are. What would take more than 179 million pixels of memory is refused.
2. Apply the orientation of the EXIF data, or where these state none, of the XMP data.
3. To 8-bit RGB: 16-bit samples keep their upper byte, transparency is laid over white, and grey,
   palette and CMYK are converted. Floating-point samples are refused, and so are wide samples of
   which nothing but black would be left.
4. Resize with Pillow's antialiased filter, first widths, then heights, to (width, height): `crop`
   takes the share `crop` of the largest central box of that aspect, `squash` the whole image with
   its aspect changed, `pad` the whole image with its aspect kept, centred on (124, 116, 104).
5. With order `bgr`, reverse the colours.

Rule set 2 differs in step 3: grey samples of 16 bits, 32 bits or floating point are whole numbers
of `depth` bits (8…15), of which the upper 8 are kept, so that 12-bit samples in 16-bit files use
the whole range. A sample that does not fit is an error, and so is 16-bit colour.

Nothing else happens outside the graph.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from PIL import Image, ImageFile

from edgetl.errors import ImageError
from edgetl.inputs.base import Geometry, Input, Pixels, Read
from edgetl.inputs.decode import DEPTHS, FULL_DEPTH, MAX_PIXELS, is_wide_colour, load, to_rgb
from edgetl.inputs.formats import (
    ImageSource,
    fix_for,
    open_image,
    reason_of,
    source_bytes,
    source_name,
)
from edgetl.spec import LARGEST_SIDE, Fit, Interpolation, Order, Record, Size

CROP = 224 / 256
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
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
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height


class ImageInput(Record, Input, frozen=True, kw_only=True, tag="image"):
    """How an image becomes uint8 `(height, width, 3)`, by the rules P1 to P10 of docs/bundle.md."""

    height: int = 224  # pixels, 1…8192
    width: int = 224  # the same
    fit: Fit = "crop"  # how an image fits that size
    crop: float = CROP  # share of the largest central box that fit `crop` keeps
    interpolation: Interpolation = "bilinear"  # filter of the resize
    order: Order = "rgb"  # of the colours in the result
    rules: int = 1  # number of the rule set
    depth: int = 16  # bits of grey samples in 16-bit and wider files, by rules 2

    def __post_init__(self) -> None:
        if not (1 <= self.height <= LARGEST_SIDE and 1 <= self.width <= LARGEST_SIDE):
            raise ValueError(f"{self.height}x{self.width} pixels are not possible")
        if not 0 < self.crop <= 1:
            raise ValueError(f"a crop of {self.crop} is not possible")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3)."""
        return self.height, self.width, 3

    def seen(self, crop: float, interpolation: Interpolation) -> ImageInput:
        """Of that crop and filter."""
        return msgspec.structs.replace(self, crop=crop, interpolation=interpolation)

    def enlarged(self) -> ImageInput:
        """A little larger, and with a border around what is cropped, where there is one."""
        high, wide = (round(side / CROP / 8) * 8 for side in (self.height, self.width))
        crop = min(1.0, self.crop / CROP)
        return msgspec.structs.replace(self, height=high, width=wide, crop=crop)

    def __str__(self) -> str:
        side = f"{self.width}" if self.width == self.height else f"{self.height}x{self.width}"
        crop = f" of {self.crop:g}" if self.fit == "crop" and self.crop != 1 else ""
        other = [
            v for v, usual in ((self.interpolation, "bilinear"), (self.order, "rgb")) if v != usual
        ]
        return ", ".join([f"{side} px by {self.fit}{crop}", *other])

    def read(self, source: ImageSource) -> Read:
        """One image as uint8 `(height, width, 3)`, and how to find its photo again.

        `source` is a file's path, its bytes, a file opened for reading bytes, a Pillow image, or a
        uint8 array `(H, W, 3)` in RGB or `(H, W)` in grey. Raises ImageError when it cannot be
        read.
        """
        found = _seen(source, self, scaled=True)
        return Read(*_fit(found.image, self, found.size), found.bits, found.stored)

    def photo(self, source: ImageSource) -> Image.Image:
        """The whole photo in RGB, upright and as large as it is. Raises ImageError."""
        return _seen(source, self, scaled=False).image


class _Seen(NamedTuple):
    """An image upright in RGB, `size` (width, height) of its photo, and what `Read` has of it."""

    image: Image.Image
    size: tuple[int, int]
    bits: int
    stored: tuple[int, int]


class _Decoded(NamedTuple):
    image: Image.Image
    stored: tuple[int, int]
    wide_colour: bool = False


def sized(size: Size, fit: Fit = "crop", depth: int = FULL_DEPTH) -> ImageInput:
    """An input of `size` pixels a side, or (height, width); `depth` is as in rule set 2."""
    height, width = (size, size) if isinstance(size, int) else size
    rules = 1 if depth == FULL_DEPTH else 2
    return ImageInput(height=height, width=width, fit=fit, rules=rules, depth=depth)


def _seen(source: ImageSource, spec: ImageInput, *, scaled: bool) -> _Seen:
    """Decode an image; `scaled`, a JPEG as small as the input allows."""
    depth = spec.depth if spec.rules == 2 else FULL_DEPTH
    if spec.rules not in (1, 2) or depth not in DEPTHS:
        what = f"rules {spec.rules}" + (f" with depth {depth}" if spec.rules == 2 else "")
        raise ImageError(
            f"The model wants preprocessing {what}; this edgetl knows rules 1 and 2.",
            fix="pip install -U edgetl",
        )
    name = source_name(source)
    try:
        found = _decoded(source, spec if scaled else None)
        image = found.image
        turned = _turned(image)
        if turned in UPRIGHT:
            image = image.transpose(UPRIGHT[turned])
        rgb, bits = to_rgb(image, depth, wide_colour=found.wide_colour)
        photo = found.stored[::-1] if turned in SIDEWAYS else found.stored
        return _Seen(rgb, photo, bits, found.stored)
    except ImageError as error:
        raise ImageError(f"Cannot read image {name}: {error.message}", fix=error.fix) from None
    except Image.DecompressionBombError as error:  # of Pillow's readers that measure by themselves
        what = f"it has more than {MAX_PIXELS / 1e6:.0f} million pixels"
        raise ImageError(f"Cannot read image {name}: {what}.", fix="save it smaller.") from error
    except Exception as error:  # Pillow's plug-ins raise almost anything on damaged files
        raise ImageError(
            f"Cannot read image {name}: {reason_of(error)}.",
            fix=fix_for(error),
        ) from error


def _decoded(source: ImageSource, spec: ImageInput | None) -> _Decoded:
    """Decode a file at the smallest scale that suffices for `spec`; other images as they are."""
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
    data = source_bytes(source)
    image = open_image(data)
    found = _Decoded(image, image.size, is_wide_colour(image))
    load(image, _wanted(image, spec) if spec else image.size, data)
    return found


def _turned(image: Image.Image) -> int:
    """The orientation that EXIF data state, 1…8."""
    found: int = image.getexif().get(ORIENTATION_TAG, 1)
    return found


def _wanted(image: ImageFile.ImageFile, spec: ImageInput) -> tuple[int, int]:
    """Smallest (width, height) that a scaled decode of a JPEG may have, as it lies in the file."""
    turned = image.format in ("JPEG", "MPO") and _turned(image) in SIDEWAYS
    width, height = image.size[::-1] if turned else image.size
    if spec.fit == "crop":
        least = round(spec.width / spec.crop), round(spec.height / spec.crop)
    else:
        least = spec.size if spec.fit == "squash" else _inside(width, height, spec)
    return least[::-1] if turned else least


def shown_share(image: Image.Image, spec: ImageInput) -> float:
    """Share of a photo's area that the input shows, 0…1; the image need only be opened."""
    width, height = image.size[::-1] if _turned(image) in SIDEWAYS else image.size
    left, top, right, bottom = _box((width, height), spec)
    return (right - left) * (bottom - top) / (width * height)


def _inside(width: int, height: int, spec: ImageInput) -> tuple[int, int]:
    """The largest (width, height) of an image's aspect that fits into the input."""
    scale = min(spec.width / width, spec.height / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _fit(image: Image.Image, spec: ImageInput, photo: tuple[int, int]) -> tuple[Pixels, Geometry]:
    """The image at the input's size; `photo` is its size before it was decoded smaller."""
    filtered = FILTERS[spec.interpolation]
    left, top, right, bottom = box = _box(image.size, spec)
    if spec.fit == "pad":
        inner = _inside(*image.size, spec)
        place = (spec.width - inner[0]) // 2, (spec.height - inner[1]) // 2
        fitted = Image.new("RGB", spec.size, PADDING)
        fitted.paste(_resized(image, inner, filtered, box), place)
    else:
        inner, place = spec.size, (0, 0)
        fitted = _resized(image, inner, filtered, box)
    # of what was decoded, then of the photo: a JPEG may have been decoded smaller
    whole = photo[0] / image.width, photo[1] / image.height
    scale = (right - left) / inner[0] * whole[0], (bottom - top) / inner[1] * whole[1]
    offset = left * whole[0] - place[0] * scale[0], top * whole[1] - place[1] * scale[1]
    found: Pixels = np.asarray(fitted)
    if spec.order == "bgr":
        found = np.ascontiguousarray(found[..., ::-1])
    return found, Geometry(scale, offset, photo)


def _resized(
    image: Image.Image,
    size: tuple[int, int],
    filtered: Image.Resampling,
    box: tuple[float, float, float, float],
) -> Image.Image:
    """Widths first in every Pillow: 13 turns the order round where that is less work.

    The passes round, so that the other order would differ by one of 255 here and there.
    """
    left, top, right, bottom = box
    shrunk = image.height - size[1]
    if shrunk > 0 and shrunk > 2 * (image.width - size[0]):
        wide = image.resize((size[0], image.height), filtered, (left, 0, right, image.height))
        return wide.resize(size, filtered, (0, top, size[0], bottom))
    return image.resize(size, filtered, box=box)


def _box(size: tuple[int, int], spec: ImageInput) -> tuple[float, float, float, float]:
    """The part of an image that the input shows: left, top, right, bottom."""
    width, height = size
    if spec.fit != "crop":
        return 0, 0, width, height
    # of a square: spec.crop of the shorter side
    wide = min(width, height * spec.width / spec.height) * spec.crop
    high = min(height, width * spec.height / spec.width) * spec.crop
    left, top = (width - wide) / 2, (height - high) / 2
    return left, top, left + wide, top + high
