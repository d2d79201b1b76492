"""The one preprocessing, on real files of every kind and on drawn pictures."""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from edgetl.errors import ImageError
from edgetl.inputs.formats import SUFFIXES
from edgetl.inputs.image import PADDING, ImageInput, sized
from edgetl.spec import Fit
from tests.helpers import batch, pixels

SPEC = sized(64)
FITS: tuple[Fit, ...] = ("crop", "pad", "squash")


def scene(width: int = 120, height: int = 80) -> Image.Image:
    """A smooth picture whose every corner differs, so that turns and mirrors show."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    image = Image.fromarray(np.stack([across, down, 255 - across], axis=2).astype(np.uint8))
    ImageDraw.Draw(image).ellipse((20, 10, 50, 30), fill="yellow")
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def apart(a: Any, b: Any) -> float:
    """Mean absolute difference."""
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean())


# --- orientation ------------------------------------------------------------------------------

# What a camera stores when it was held so that the picture has to be turned by this tag.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("tag", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_every_exif_orientation_equals_the_upright_picture(kind: str, tag: int, fit: Fit) -> None:
    turn = STORED[tag]
    stored = scene() if turn is None else scene().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = tag
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    options |= {"lossless": True} if kind == "WEBP" else {}
    spec = sized(64, fit)
    found = pixels(encoded(stored, kind, exif=exif, **options), spec)
    upright = pixels(scene(), spec)
    assert apart(found, upright) <= (1.5 if kind == "JPEG" else 0)
    assert apart(found, upright[:, ::-1]) > 10  # the comparison would see a mirrored picture


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\0"])
def test_damaged_exif_does_not_cost_the_photo(exif: bytes) -> None:
    assert apart(pixels(encoded(scene(), "JPEG", exif=exif), SPEC), pixels(scene(), SPEC)) < 3


def test_an_unknown_orientation_is_taken_as_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    assert apart(pixels(encoded(scene(), exif=exif), SPEC), pixels(scene(), SPEC)) == 0


# --- kinds of samples -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files_give_the_pixels_of_the_picture(kind: str) -> None:
    assert apart(pixels(encoded(scene(), kind), SPEC), pixels(scene(), SPEC)) == 0


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_accepted_suffix_can_be_read_in_a_fresh_process(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo{suffix}"
    mode = {".pgm": "L", ".pbm": "1"}.get(suffix, "RGB")
    kind = {".jpe": "JPEG", ".jfif": "JPEG", ".mpo": "MPO"}.get(suffix)
    scene().convert(mode).save(path, kind)
    code = (
        "import sys; from edgetl.inputs.image import sized\n"
        "print(sized(8).read(sys.argv[1]).pixels.shape)"
    )
    if suffix in (".png", ".webp", ".tif", ".mpo"):  # Pillow loads these readers one by one
        run = [sys.executable, "-c", code, str(path)]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "(8, 8, 3)", done.stderr
    assert pixels(path, SPEC).std() > 20


def test_grey_becomes_three_equal_channels() -> None:
    found = pixels(encoded(scene().convert("L")), SPEC)
    assert (found[..., 0] == found[..., 1]).all()
    assert (found[..., 1] == found[..., 2]).all()
    assert found.std() > 20


def test_a_palette_is_looked_up() -> None:
    image = scene().quantize(64)
    assert apart(pixels(encoded(image), SPEC), pixels(image.convert("RGB"), SPEC)) == 0


def test_a_transparent_palette_colour_becomes_white() -> None:
    image = Image.new("P", (64, 64), 1)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(0, (0, 0, 64, 32))
    found = pixels(encoded(image, transparency=0), sized(64, "squash"))
    assert found[10, 30].tolist() == [255, 255, 255]
    assert found[50, 30].tolist() == [0, 0, 200]


def test_alpha_is_laid_over_white() -> None:
    image = Image.new("RGBA", (64, 64), (200, 100, 0, 0))
    image.paste((200, 100, 0, 128), (0, 0, 32, 64))
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        found = pixels(encoded(image, kind, **options), sized(64, "squash"))
        assert found[30, 50].tolist() == [255, 255, 255]
        assert np.abs(found[30, 10].astype(int) - [227, 177, 127]).max() <= 1
    grey = pixels(encoded(Image.new("LA", (64, 64), (0, 0))), SPEC)
    assert (grey == 255).all()


def test_cmyk_is_converted() -> None:
    ink = Image.new("CMYK", (64, 64), (0, 255, 255, 0))
    assert apart(pixels(encoded(ink, "TIFF"), SPEC), [255, 0, 0]) == 0
    assert apart(pixels(encoded(ink, "JPEG", quality=95), SPEC), [255, 0, 0]) < 3


def test_16_bit_grey_keeps_the_upper_byte() -> None:
    ramp = (np.arange(64, dtype=np.uint16) * 1024 + 255)[None].repeat(64, axis=0)
    for kind in ("PNG", "TIFF", "PPM"):
        found = pixels(encoded(Image.fromarray(ramp), kind), sized(64, "squash"))
        assert found[0, :, 0].tolist() == [value * 4 for value in range(64)]


def test_samples_without_a_known_range_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "depth.tif"
    Image.fromarray(np.zeros((8, 8), np.float32)).save(path)
    with pytest.raises(ImageError, match=r"depth\.tif: floating-point samples have no fixed range"):
        pixels(path, SPEC)
    Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(path)
    with pytest.raises(ImageError, match=r"depth\.tif: 32-bit samples have no fixed range"):
        pixels(path, SPEC)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_of_several_frames_the_first_is_taken_and_the_file_is_closed(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "frames"
    red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    red.save(path, kind, save_all=True, append_images=[blue])
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 2
    assert apart(pixels(path, SPEC), [255, 0, 0]) < 2  # an open file would be a ResourceWarning


# --- files that cannot be read ----------------------------------------------------------------


def test_files_that_are_no_images_are_named(tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("this is not a photo\n" * 50)
    with pytest.raises(ImageError, match=r"notes\.jpg: not an image in a format that edgetl reads"):
        pixels(text, SPEC)
    empty = tmp_path / "empty.jpg"
    empty.touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: the file is empty"):
        pixels(empty, SPEC)
    with pytest.raises(ImageError, match=r"nowhere\.jpg: no such file"):
        pixels(tmp_path / "nowhere.jpg", SPEC)
    with pytest.raises(ImageError, match=r"it is a folder"):
        pixels(tmp_path, SPEC)
    with pytest.raises(ImageError, match=r"<bytes>: the file is empty"):
        pixels(b"", SPEC)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.9])
def test_truncated_files_are_refused(kind: str, share: float, tmp_path: Path) -> None:
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    data = encoded(noisy, kind)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=r"Cannot read image .*cut\.jpg: .+\. Fix: replace it"):
        pixels(path, SPEC)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.sampled_from(["", "JPEG", "PNG", "GIF"]))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_bytes_raise_anything_but_image_error(tail: bytes, kind: str) -> None:
    head = encoded(scene(16, 16), kind)[:60] if kind else b""
    try:
        found = pixels(head + tail, SPEC)
    except ImageError:
        return
    assert found.shape == (64, 64, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((2, 5, 5, 3), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused_with_their_shape(array: Any) -> None:
    with pytest.raises(ImageError, match=r"must be uint8 of shape .*, not .* \(\d") as caught:
        pixels(array, SPEC)
    assert str(array.shape) in caught.value.message


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        (ImageInput(rules=3), "rules 3"),
        (ImageInput(rules=0), "rules 0"),
        (ImageInput(rules=2, depth=7), "rules 2 with depth 7"),
        (ImageInput(rules=2, depth=17), "rules 2 with depth 17"),
    ],
)
def test_rules_of_a_later_edgetl_are_refused(spec: ImageInput, what: str) -> None:
    with pytest.raises(ImageError, match=rf"wants preprocessing {what}; .* knows rules 1 and 2"):
        pixels(scene(), spec)


# --- sources agree ----------------------------------------------------------------------------


@pytest.mark.parametrize("fit", FITS)
def test_path_bytes_image_and_array_agree(fit: Fit, tmp_path: Path) -> None:
    spec, path = sized(64, fit), tmp_path / "photo.jpg"
    path.write_bytes(encoded(scene(), "JPEG", quality=90))
    with Image.open(path) as image:
        sources = [str(path), path, path.read_bytes(), image, np.asarray(image.convert("RGB"))]
        rows = batch(sources, spec)
    assert rows.shape == (5, 64, 64, 3)
    assert rows.dtype == np.uint8
    assert (rows == rows[0]).all()


def test_grey_and_reversed_arrays_are_read() -> None:
    grey = np.asarray(scene().convert("L"))
    assert apart(pixels(grey, SPEC), pixels(scene().convert("L"), SPEC)) == 0
    bgr = np.asarray(scene())[:, :, ::-1]
    assert apart(pixels(bgr[:, :, ::-1], SPEC), pixels(scene(), SPEC)) == 0


def test_the_callers_image_is_left_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(io.BytesIO(encoded(scene(1200, 800), "JPEG", exif=exif))) as image:
        first = pixels(image, SPEC)
        assert image.size == (1200, 800)
        assert image.getexif()[0x0112] == 6
        assert apart(pixels(image, SPEC), first) == 0


# --- geometry ---------------------------------------------------------------------------------


def test_crop_keeps_the_central_224_of_256() -> None:
    image = Image.new("RGB", (512, 256), "black")
    ImageDraw.Draw(image).rectangle((144, 16, 367, 239), fill="white")  # 224 px in the middle
    found = pixels(image, sized(224))
    assert (found == 255).all()
    whole = pixels(image, ImageInput(height=256, width=256, crop=1.0))
    edges = np.asarray(image.crop((128, 0, 384, 256)))
    assert (whole == edges).all()


def test_squash_keeps_all_and_changes_the_aspect() -> None:
    image = Image.new("RGB", (400, 100), "black")
    ImageDraw.Draw(image).rectangle((0, 0, 99, 99), fill="white")  # the left quarter
    found = pixels(image, sized(80, "squash"))
    assert (found[:, :17] == 255).all()
    assert (found[:, 23:] == 0).all()


@pytest.mark.parametrize(("width", "height"), [(400, 100), (100, 400), (101, 37), (64, 64)])
def test_pad_keeps_all_and_the_aspect(width: int, height: int) -> None:
    found = pixels(Image.new("RGB", (width, height), "red"), sized(80, "pad"))
    scale = 80 / max(width, height)
    inside = (found == [255, 0, 0]).all(axis=2)
    rows, columns = np.nonzero(inside)
    assert np.ptp(rows) + 1 == round(height * scale)
    assert np.ptp(columns) + 1 == round(width * scale)
    assert abs(rows.min() - (79 - rows.max())) <= 1
    assert abs(columns.min() - (79 - columns.max())) <= 1
    assert (found[~inside] == PADDING).all()


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(FITS), st.integers(1, 80))
def test_any_picture_gives_the_wanted_shape(width: int, height: int, fit: Fit, size: int) -> None:
    colour = (10, 200, 90)
    found = pixels(Image.new("RGB", (width, height), colour), sized(size, fit))
    assert found.shape == (size, size, 3)
    assert (found == colour).all(axis=-1).any()  # padding may take the middle of a tiny picture


def test_resizing_is_antialiased() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    found = pixels(stripes, sized(64, "squash"))
    assert np.abs(found.astype(int) - 127).max() <= 8


# --- scaled JPEG decoding ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def twelve_megapixels(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A photo, and its copy upscaled to 12 megapixels."""
    small = sorted((shared / "data/clothing/test").rglob("*.jpg"))[0]
    large = tmp_path_factory.mktemp("large") / "large.jpg"
    with Image.open(small) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    scale = (12e6 / (upright.width * upright.height)) ** 0.5
    size = (round(upright.width * scale), round(upright.height * scale))
    upright.resize(size, Image.Resampling.BICUBIC).save(large, quality=95)
    return small, large


@pytest.mark.parametrize("fit", FITS)
def test_a_large_copy_gives_nearly_the_same_pixels(
    twelve_megapixels: tuple[Path, Path], fit: Fit
) -> None:
    small, large = twelve_megapixels
    spec = sized(224, fit)
    found = pixels(large, spec)
    assert apart(found, pixels(small, spec)) < 3
    with Image.open(large) as image:
        assert apart(found, pixels(np.asarray(image), spec)) < 3
    assert apart(found, np.roll(pixels(small, spec), 6, axis=1)) > 6  # what a shift would cost


def test_a_large_jpeg_is_decoded_at_a_small_scale(twelve_megapixels: tuple[Path, Path]) -> None:
    large = twelve_megapixels[1].read_bytes()

    def seconds(work: Any) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def full() -> None:
        with Image.open(io.BytesIO(large)) as image:
            pixels(np.asarray(image), ImageInput())

    assert seconds(lambda: pixels(large, ImageInput())) < seconds(full) / 3


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(2000, 700), (700, 2000), (511, 513), (1023, 400)])
def test_scaled_decoding_never_enlarges(fit: Fit, size: tuple[int, int]) -> None:
    spec = sized(224, fit)
    data = encoded(scene(*size), "JPEG", quality=98, subsampling=0)
    assert apart(pixels(data, spec), pixels(scene(*size), spec)) < 1.5
