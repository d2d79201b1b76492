"""Inputs that are not square, colour order, and the way from a network's pixels to the photo's."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgetl.errors import UnknownNameError
from edgetl.inputs.base import INPUTS, Input
from edgetl.inputs.image import ImageInput, sized
from edgetl.spec import Fit
from edgetl.tasks.base import decode_stored

FITS: tuple[Fit, ...] = ("crop", "pad", "squash")
SHAPES = [(64, 64), (48, 96), (96, 48)]


def marked(size: tuple[int, int], corner: tuple[int, int]) -> Image.Image:
    """A black photo with a white square of 24 pixels, whose upper left corner is `corner`."""
    image = Image.new("RGB", size)
    image.paste("white", (*corner, corner[0] + 24, corner[1] + 24))
    return image


def centre(pixels: Any) -> Any:
    """(x, y) of what is white."""
    bright = pixels.astype(np.float64).mean(axis=2) - 100  # the padding's grey is no mark
    bright[bright < 60] = 0
    y, x = np.mgrid[0 : pixels.shape[0], 0 : pixels.shape[1]] + 0.5
    return np.array([(x * bright).sum(), (y * bright).sum()]) / bright.sum()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (250, 250)])
def test_a_point_of_the_input_is_found_in_the_photo(
    fit: Fit, height: int, width: int, size: tuple[int, int]
) -> None:
    spec = ImageInput(height=height, width=width, fit=fit)
    corner = size[0] // 2 - 12, size[1] // 2 - 30
    read = spec.read(marked(size, corner))
    assert read.pixels.shape == spec.shape == (height, width, 3)
    assert read.geometry.size == size
    found = read.geometry.to_photo(centre(read.pixels))
    np.testing.assert_allclose(found, np.add(corner, 12), atol=2)
    np.testing.assert_allclose(read.geometry.to_input(found), centre(read.pixels), atol=1e-9)


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96)])
def test_a_large_jpeg_is_measured_as_it_was_stored_and_turned(
    turned: int, height: int, width: int
) -> None:
    """libjpeg decodes it at an eighth, EXIF turns it: points are those of the upright photo."""
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = turned
    marked((1600, 1200), (800, 500)).resize((1600, 1200)).save(stream, "JPEG", exif=exif)
    spec = ImageInput(height=height, width=width, fit="squash")
    big = Image.new("RGB", (1600, 1200))
    big.paste("white", (720, 420, 960, 660))
    big.save(stream := io.BytesIO(), "JPEG", exif=exif, quality=95)
    read = spec.read(stream.getvalue())
    upright = (1200, 1600) if turned >= 5 else (1600, 1200)
    assert (read.geometry.size, read.stored) == (upright, (1600, 1200))
    found = read.geometry.to_photo(centre(read.pixels))
    x, y = 840.0, 540.0  # as stored
    turns = {
        1: (x, y), 2: (1600 - x, y), 3: (1600 - x, 1200 - y), 4: (x, 1200 - y),
        5: (y, x), 6: (1200 - y, x), 7: (1200 - y, 1600 - x), 8: (y, 1600 - x),
    }  # fmt: skip
    np.testing.assert_allclose(found, turns[turned], atol=12)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(8, 90), st.integers(8, 90), st.integers(8, 200), st.integers(8, 200),
    st.sampled_from(FITS),
)  # fmt: skip
def test_there_and_back_is_the_same_point(
    height: int, width: int, wide: int, high: int, fit: Fit
) -> None:
    spec = ImageInput(height=height, width=width, fit=fit)
    geometry = spec.read(np.zeros((high, wide, 3), np.uint8)).geometry
    points = np.array([[0, 0], [width, height], [width / 3, height / 5]])
    np.testing.assert_allclose(geometry.to_input(geometry.to_photo(points)), points, atol=1e-9)
    corners = geometry.to_photo(np.array([[0, 0], [width, height]]))
    if fit == "squash":
        np.testing.assert_allclose(corners, [[0, 0], [wide, high]], atol=1e-9)
    if fit == "crop":  # within the photo, around its middle
        assert corners.min() >= -1e-9
        np.testing.assert_allclose(corners.mean(axis=0), [wide / 2, high / 2], atol=1e-9)


def test_bgr_is_rgb_reversed() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (80, 60, 3), np.uint8)
    rgb, bgr = (sized(32), msgspec.structs.replace(sized(32), order="bgr"))
    np.testing.assert_array_equal(bgr.read(photo).pixels, rgb.read(photo).pixels[..., ::-1])
    assert bgr.read(photo).pixels.flags.c_contiguous


def test_bicubic_is_pillows() -> None:
    # Pillow 13 resizes tall photos by heights first, edgetl none.
    photo = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    spec = ImageInput(height=32, width=48, fit="squash", interpolation="bicubic")
    expected = Image.fromarray(photo).resize((48, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(spec.read(photo).pixels, np.asarray(expected))


@pytest.mark.parametrize("crop", [1.0, 0.875, 0.5])
def test_the_crop_is_a_share_of_the_shorter_side(crop: float) -> None:
    geometry = msgspec.structs.replace(sized(64), crop=crop).read(Image.new("RGB", (300, 200)))
    np.testing.assert_allclose(geometry.geometry.scale, [200 * crop / 64] * 2)


@pytest.mark.parametrize(
    "changes", [{"height": 0}, {"width": 9000}, {"crop": 0.0}, {"crop": 1.5}, {"crop": -1.0}]
)
def test_what_no_image_can_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not possible"):
        ImageInput(**changes)


def test_it_is_stored_whole_and_an_unknown_one_is_named() -> None:
    spec = ImageInput(height=32, width=48, fit="pad", order="bgr")
    stored = msgspec.to_builtins(spec)
    assert stored["type"] == "image"
    assert msgspec.convert(stored, Input, dec_hook=decode_stored) == spec
    with pytest.raises(msgspec.ValidationError, match="adds its input 'sound' is not here"):
        msgspec.convert({"type": "sound"}, Input, dec_hook=decode_stored)
    with pytest.raises(UnknownNameError, match="Unknown input 'imag'"):
        INPUTS.find("imag")
