"""What a file is by its bytes; kinds that need an extra or a newer Pillow say so."""

from __future__ import annotations

import base64
import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, TiffTags, features

from edgetl.errors import ImageError
from edgetl.inputs.formats import kind_of, open_image
from edgetl.inputs.image import sized
from tests.helpers import pixels

# 64 x 48 px, red on the left and blue on the right.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAA"
    "AAAAACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAAHsAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAA"
    "AA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNw"
    "AAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFz"
    "wIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAA"
    "Av////AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAINtZGF0AAAAdygBrwngOSMkv//5"
    "N7//+ZKuQ/g40cF//iVGff4lOn/+963UV2Vc2KXkWH1UjqB8DyxKkd0U0Ta+z94+xjIRLc58WP8/8b+O5trmjzZ1n1IsrufF"
    "j/P/G/jtmodeN0Sry1/JpuAyRK45Z4cgNf1aCN4g5m04sSH2"
)

SPEC = sized(8, "squash")


def red_and_blue() -> Image.Image:
    image = Image.new("RGB", (64, 48), (20, 40, 200))
    image.paste((220, 30, 20), (0, 0, 32, 48))
    return image


def near(found: np.ndarray) -> bool:
    ends = found[:, [1, 6]].astype(int)
    return bool(np.abs(ends - [(220, 30, 20), (20, 40, 200)]).max() < 12)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("HEIC", HEIC),
        ("HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0heicmiaf"),
        ("AVIF", b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1miaf"),
        ("Canon raw", b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom"),
        ("Canon raw", b"II*\0\x10\0\0\0CR\x02\0"),
        ("video or sound", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"),
        ("video or sound", b"\0\0\0\x10ftypqt  \0\0\0\0heic"),  # behind the end of the brands
        ("video or sound", b"RIFF\0\0\0\0AVI LIST"),
        ("JPEG XL", b"\xff\x0a\xfa\x1f"),
        ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n"),
        ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n"),
        ("DICOM", b"\0" * 128 + b"DICM"),
        ("", b"BMW cars are listed here, one a line"),
        ("", b"P6something"),
        ("", b"P"),
        ("", b""),
    ],
)
def test_kinds_by_the_first_bytes(kind: str, head: bytes) -> None:
    assert kind_of(head) == kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WebP", "TIFF", "PPM"])
def test_kinds_that_are_always_read(kind: str) -> None:
    stream = io.BytesIO()
    red_and_blue().save(stream, kind)
    assert kind_of(stream.getvalue()) == kind
    assert open_image(stream.getvalue()).size == (64, 48)
    assert near(pixels(stream.getvalue(), SPEC))


@pytest.mark.parametrize(
    "tags",
    [{50706: bytes([1, 4, 0, 0])}, {254: 1, 330: 8}],  # DNG; Nikon's and Sony's
)
def test_the_preview_in_a_camera_raw_is_no_photo(tags: dict[int, bytes | int]) -> None:
    stream = io.BytesIO()
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory.tagtype[tag] = TiffTags.BYTE if isinstance(value, bytes) else TiffTags.LONG
        directory[tag] = value
    red_and_blue().save(stream, "TIFF", tiffinfo=directory)
    with pytest.raises(ImageError, match=r"it is camera raw, which edgetl does not read") as error:
        open_image(stream.getvalue())
    assert "convert it to JPEG or PNG" in error.value.fix


@pytest.mark.skipif(not importlib.util.find_spec("pi_heif"), reason="extra heif is not installed")
def test_heic_is_read_with_the_extra(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.jpg").write_bytes(HEIC)  # phones send it under this name too
    assert near(pixels(tmp_path / "IMG_1.jpg", SPEC))
    assert near(pixels(HEIC, SPEC))
    with pytest.raises(ImageError, match="starts as HEIC does, but is damaged"):
        pixels(HEIC[:60], SPEC)


def test_heic_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(ImageError, match="it is HEIC, which edgetl reads with the extra heif") as e:
        pixels(HEIC, SPEC)
    assert "pip install 'edgetl[heif]'" in e.value.fix
    assert "convert it to JPEG" in e.value.fix


def test_avif_is_read_where_pillow_does_or_named() -> None:
    if "avif" in features.modules and features.check("avif"):
        stream = io.BytesIO()
        red_and_blue().save(stream, "AVIF", quality=95)
        assert near(pixels(stream.getvalue(), SPEC))
    else:
        with pytest.raises(ImageError, match=r"it is AVIF, which Pillow reads from 11\.3 on"):
            pixels(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", SPEC)


@pytest.mark.parametrize(
    ("data", "message", "fix"),
    [
        (
            b"\xff\x0a\xfa\x1f",
            "it is JPEG XL, which edgetl does not read",
            "convert it to JPEG or PNG",
        ),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "it is JPEG 2000, which", "convert it to JPEG or PNG"),
        (b"%PDF-1.7", "not an image in a format that edgetl reads, but PDF", "whole JPEG, PNG"),
        (b"<html>404</html>", r"not an image in a format that edgetl reads\.", "whole JPEG, PNG"),
        (b"\x89PNG\r\n\x1a\nxx", "starts as PNG does, but is damaged", "whole JPEG, PNG"),
    ],
)
def test_what_cannot_be_read_is_named(data: bytes, message: str, fix: str) -> None:
    with pytest.raises(ImageError, match=message) as error:
        pixels(data, SPEC)
    assert fix in error.value.fix
