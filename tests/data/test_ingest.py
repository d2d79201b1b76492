"""Reading photos once: hash, pixels, signature, and the cache on disk."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetl.data.ingest import look, look_all, open_cache, signature, time_taken
from edgetl.errors import StorageError
from edgetl.inputs.image import sized
from tests.helpers import pixels

SPEC = sized(64)


def test_a_photo_is_hashed_decoded_and_signed(shapes: Path) -> None:
    path = shapes / "disc" / "00.png"
    seen = look(path, SPEC)
    assert seen.error == ""
    assert seen.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert seen.pixels is not None
    assert seen.grid is not None
    assert seen.thumb is not None
    assert np.array_equal(seen.pixels, pixels(path, SPEC))
    assert seen.grid.shape == (24, 24)
    assert seen.grid.dtype == np.float32
    assert seen.stored == (64, 64)
    assert seen.bits == 0
    assert seen.thumb.shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "the file is empty"),
        (b"text\n" * 100, "not an image in a format that edgetl reads"),
        ("cut", "image file is truncated: the file is cut off"),
        (None, "No such file or directory"),
        ("float", "floating-point samples have no fixed range"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_without_raising(
    content: bytes | str | None, error: str, tmp_path: Path
) -> None:
    path = tmp_path / "photo.jpg"
    stream = io.BytesIO()
    if content == "cut":
        Image.effect_noise((99, 99), 80).save(stream, "JPEG")
        content = stream.getvalue()[:2000]
    elif content == "float":
        Image.new("F", (9, 9)).save(stream, "TIFF")
        content = stream.getvalue()
    if isinstance(content, bytes):
        path.write_bytes(content)
    seen = look(path, SPEC)
    assert seen.error.startswith(error)
    assert not seen.error.endswith(".")
    assert seen.pixels is None
    assert seen.grid is None


def test_files_come_back_in_order(shapes: Path) -> None:
    paths = sorted(shapes.rglob("*.png")) * 8  # more than one block
    paths.insert(300, shapes / "missing.png")
    found = [seen.sha256 for seen in look_all(paths, SPEC)]
    assert found[300] == ""
    del found[300], paths[300]
    assert found == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_the_signature_is_brightness_and_colour() -> None:
    image = np.zeros((48, 48, 3), np.uint8)
    image[:24] = (200, 100, 50)
    grid, thumb = signature(image)
    assert grid[:12] == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=1e-3)
    assert (grid[12:] == 0).all()
    assert thumb[0, 0].tolist() == [200, 100, 50]


def test_the_time_is_when_a_photo_was_taken(tmp_path: Path) -> None:
    image, exif = Image.new("RGB", (8, 8)), Image.Exif()
    image.save(tmp_path / "none.jpg")
    exif[0x0132] = "2024:05:01 10:00:00"
    image.save(tmp_path / "changed.jpg", exif=exif)
    exif[0x8769] = {0x9003: "2023:02:03 04:05:06"}
    image.save(tmp_path / "taken.jpg", exif=exif)
    exif[0x8769], exif[0x0132] = {0x9003: "0000:00:00 00:00:00"}, "    :  :     :  :  "
    image.save(tmp_path / "unset.jpg", exif=exif)
    (tmp_path / "text.jpg").write_text("no photo")
    found = [
        time_taken(tmp_path / f"{n}.jpg") for n in ("none", "changed", "taken", "unset", "text")
    ]
    assert found == ["", "2024:05:01 10:00:00", "2023:02:03 04:05:06", "", ""]
    assert time_taken(tmp_path / "missing.jpg") == ""


def test_the_cache_is_a_map_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "new" / "photos.npy"
    cache = open_cache(path, 3, (16, 16, 3))
    cache[1] = 7
    del cache
    again = np.load(path, mmap_mode="r")
    assert again.shape == (3, 16, 16, 3)
    assert again.dtype == np.uint8
    assert (again[1] == 7).all()
    assert not again[2].any()
    assert open_cache(path, 0, (16, 16, 3)).shape == (1, 16, 16, 3)
    assert path.stat().st_blocks * 512 >= 16 * 16 * 3


def test_the_cache_takes_its_space_at_once(tmp_path: Path) -> None:
    path = tmp_path / "photos.npy"
    open_cache(path, 200, (64, 64, 3))
    assert path.stat().st_blocks * 512 >= 200 * 64 * 64 * 3


def test_a_cache_that_does_not_fit_is_a_storage_error(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from edgetl.data.ingest import open_cache; from edgetl.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try: open_cache(Path(sys.argv[1]), 700, (64, 64, 3))\n"
        "except StorageError as error: print(error)"
    )
    path = tmp_path / "photos.npy"
    run = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert f"Cannot write {path}, 8 MiB: File too large. Fix: free disk space" in done.stdout, (
        done.stderr
    )
    assert not path.exists()


def test_a_cache_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"Cannot write .*photos\.npy, 0 MiB"):
        open_cache(tmp_path / "file" / "photos.npy", 1, (8, 8, 3))
