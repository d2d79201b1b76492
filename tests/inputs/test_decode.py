"""Files that are too large, and samples of more than 8 bits."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from edgetl.errors import ImageError
from edgetl.inputs.decode import MAX_PIXELS
from edgetl.inputs.image import ImageInput, sized
from tests.helpers import pixels

SPEC = sized(64)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# --- huge files -------------------------------------------------------------------------------


def resized_header(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header says another size."""
    at = next(i for i in range(len(jpeg)) if jpeg[i : i + 2] in (b"\xff\xc0", b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG as its header says it, whatever follows."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        parts += [struct.pack(">I", len(body)), kind, body, crc]
    return b"".join(parts)


def test_a_huge_jpeg_is_read_at_a_smaller_scale_in_bounded_memory(tmp_path: Path) -> None:
    left = Image.new("L", (20_000, 9_200), 40)
    left.paste(200, (10_000, 0, 20_000, 9_200))
    path = tmp_path / "panorama.jpg"
    left.save(path, quality=50)
    del left
    code = (
        "import sys, resource, warnings; warnings.simplefilter('error')\n"
        "from edgetl.inputs.image import sized\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "got = sized(64, 'squash').read(sys.argv[1])\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(*got.stored, got.pixels[9, 9, 0], got.pixels[9, 60, 0], grown // 1024)"
    )
    run = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    width, height, dark, bright, grown = map(int, done.stdout.split() or [0] * 5)
    assert (width, height) == (20_000, 9_200), done.stderr
    assert (dark, bright) == (40, 200)
    assert grown < 60  # MiB; decoded whole it would be 175


def test_files_that_would_take_too_much_memory_are_refused_in_own_words() -> None:
    small = Image.effect_noise((64, 64), 50)
    progressive = resized_header(encoded(small, "JPEG", progressive=True), 20_000, 10_000)
    colour = encoded(small.convert("RGB"), "JPEG")
    scan = colour.index(b"\xff\xda")
    apart = resized_header(colour[: scan + 4] + b"\x01" + colour[scan + 5 :], 20_000, 10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in (progressive, apart):
            with pytest.raises(
                ImageError, match="20000 × 10000 pixels are more than the"
            ) as caught:
                pixels(data, SPEC)
            assert "a JPEG that is not progressive" in caught.value.fix
        with pytest.raises(ImageError, match="20000 × 10000 pixels are more than the 179 million"):
            pixels(png(20_000, 10_000, 8, 0, bytes(100)), SPEC)
        # Between Pillow's two limits: too short here, but no warning of Pillow's.
        with pytest.raises(ImageError, match=r"cut off|truncated"):
            pixels(png(12_000, 10_000, 8, 0, bytes(100)), SPEC)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "BMP", "PPM", "PNG", "JPEG", "MPO"])
def test_no_reader_of_pillow_warns_of_large_files(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(Image.effect_noise((300, 200), 60).convert("RGB"), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)  # stands for a larger file
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(data, SPEC).std() > 3
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
        message = ""
        try:
            pixels(data, SPEC)
        except ImageError as error:
            message = str(error)
    # By Pillow's version, readers of TIFF and WebP measure by themselves.
    own = "Cannot read image <bytes>: it has more than 179 million pixels. Fix: save it smaller."
    assert message in (("", own) if kind in ("TIFF", "WEBP") else ("",))


def test_the_limit_is_pillows_own_and_no_setting_of_the_process_matters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert pytest.approx(MAX_PIXELS, abs=2) == 2 * Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert pixels(encoded(Image.new("L", (300, 300), 7), "PNG"), SPEC).max() == 7


# --- samples of more than 8 bits --------------------------------------------------------------


def ramp(bits: int, dtype: Any = np.uint16) -> Image.Image:
    """All 256 upper bytes of `bits`-bit samples, left to right, the last with all bits set."""
    values = np.arange(256, dtype=np.int64) << (bits - 8)
    values[-1] = 2**bits - 1
    return Image.fromarray(values.astype(dtype)[None].repeat(64, axis=0))


def squash(bits: int) -> ImageInput:
    """256 pixels wide, so that the ramp comes out as it is."""
    return sized(256, "squash", bits)


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 16])
@pytest.mark.parametrize(
    ("kind", "dtype"), [("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.int32)]
)
def test_samples_of_any_depth_use_the_whole_range(bits: int, kind: str, dtype: Any) -> None:
    found = squash(bits).read(encoded(ramp(bits, dtype), kind))
    assert found.bits == bits
    assert found.pixels[30, :, 1].tolist() == list(range(256))


@pytest.mark.parametrize("bits", [8, 12, 15])
def test_whole_numbers_in_floating_point_are_read_where_their_depth_is_stated(bits: int) -> None:
    data = encoded(ramp(bits, np.float32), "TIFF")
    assert pixels(data, squash(bits))[30, :, 1].tolist() == list(range(256))
    with pytest.raises(ImageError, match="floating-point samples have no fixed") as caught:
        pixels(data, squash(16))
    assert "--depth BITS" in caught.value.fix


def test_rules_1_keep_the_upper_byte_whatever_depth_says() -> None:
    data = encoded(ramp(12), "PNG")
    assert pixels(data, sized(256, "squash")).max() == 15
    assert pixels(data, replace(sized(256, "squash"), depth=12)).max() == 15  # rules 1
    assert sized(64, "pad") == sized(64, "pad")
    assert sized(64, "pad", 12) == sized(64, "pad", 12)


@pytest.mark.parametrize(("high", "way_out"), [(255, "--depth 8 reads"), (3, "--depth 8 reads")])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_what_would_be_all_black_is_refused(high: int, way_out: str, dtype: Any) -> None:
    data = encoded(Image.fromarray(np.full((64, 64), high, dtype)), "TIFF")
    match = rf"nothing but black would be left: .* {high} of 65535; {way_out}"
    with pytest.raises(ImageError, match=match):
        pixels(data, SPEC)


def test_what_would_be_all_black_at_a_stated_depth_is_refused() -> None:
    data = encoded(Image.fromarray(np.full((64, 64), 15, np.uint16)), "PNG")
    with pytest.raises(ImageError, match=r"15 of 4095; --depth 8 reads"):
        pixels(data, squash(12))


def test_a_black_photo_is_a_photo() -> None:
    assert not pixels(encoded(Image.new("I;16", (64, 64)), "PNG"), SPEC).any()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.full((9, 9), 4096, np.uint16), r"samples of 12 bits are 0…4095.*4096…4096"),
        (np.full((9, 9), -1, np.int32), r"0…4095, and this one's are -1…-1"),
        (np.full((9, 9), np.nan, np.float32), r"0…4095, and this one's are nan"),
        (np.full((9, 9), np.inf, np.float32), r"0…4095, and this one's are inf"),
        (np.full((9, 9), 0.7, np.float32), r"nothing but black would be left: .* 0\.7 of 4095\."),
    ],
)
def test_samples_that_do_not_fit_the_depth_are_refused(values: Any, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        pixels(encoded(Image.fromarray(values), "TIFF"), squash(12))


def colour16(values: np.ndarray) -> bytes:
    """A PNG of 16-bit RGB, which Pillow reads but cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], 16, 2, rows)


def test_16_bit_colour_is_looked_at_as_well() -> None:
    full = np.full((64, 64, 3), 0x8000, np.uint16)
    assert SPEC.read(colour16(full)).bits == 16
    assert SPEC.read(colour16(full >> 4)).bits == 12
    with pytest.raises(ImageError, match="nothing but black would be left: all of its 16-bit"):
        pixels(colour16(full >> 8), SPEC)
    with pytest.raises(ImageError, match="16-bit colour cannot be read as 12 bits"):
        pixels(colour16(full >> 4), sized(64, "crop", 12))
    grey = encoded(Image.new("L", (64, 64), 3), "PNG")
    assert SPEC.read(grey).bits == 0
    assert sized(64, "crop", 12).read(grey).pixels.max() == 3  # 8-bit files are left alone
