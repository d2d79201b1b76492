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

from edgetl.errors import StorageError
from edgetl.photos.ingest import look, look_all, open_cache, signature
from edgetl.preprocess import pixels
from edgetl.spec import Preprocess

SPEC = Preprocess(size=64)


def test_a_photo_is_hashed_decoded_and_signed(shapes: Path) -> None:
    path = shapes / "disc" / "00.png"
    seen = look(path, SPEC)
    assert seen.error == ""
    assert seen.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert seen.pixels is not None
    assert seen.steps is not None
    assert seen.thumb is not None
    assert np.array_equal(seen.pixels, pixels(path, SPEC))
    assert seen.steps.shape == (2 * 12 * 12 + 1,)
    assert seen.steps.dtype == np.float32
    assert np.linalg.norm(seen.steps) == pytest.approx(1, abs=1e-5)
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
    assert seen.steps is None


def test_files_come_back_in_order(shapes: Path) -> None:
    paths = sorted(shapes.rglob("*.png")) * 8  # more than one block
    paths.insert(300, shapes / "missing.png")
    ticks: list[int] = []
    found = [seen.sha256 for seen in look_all(paths, SPEC, progress=ticks.append)]
    assert found[300] == ""
    del found[300], paths[300]
    assert found == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert sum(ticks) == len(paths) + 1


def test_the_signature_of_a_flat_picture_is_steady() -> None:
    flat = np.full((64, 64, 3), 90, np.uint8)
    noisy = flat + np.random.default_rng(0).integers(0, 4, flat.shape, np.uint8)
    assert signature(flat)[0] @ signature(noisy)[0] > 0.9


def test_the_cache_is_a_map_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "new" / "photos.npy"
    cache = open_cache(path, 3, 16)
    cache[1] = 7
    del cache
    again = np.load(path, mmap_mode="r")
    assert again.shape == (3, 16, 16, 3)
    assert again.dtype == np.uint8
    assert (again[1] == 7).all()
    assert not again[2].any()
    assert open_cache(path, 0, 16).shape == (1, 16, 16, 3)
    assert path.stat().st_blocks * 512 >= 16 * 16 * 3


def test_the_cache_takes_its_space_at_once(tmp_path: Path) -> None:
    path = tmp_path / "photos.npy"
    open_cache(path, 200, 64)
    assert path.stat().st_blocks * 512 >= 200 * 64 * 64 * 3


def test_a_cache_that_does_not_fit_is_a_storage_error(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from edgetl.photos.ingest import open_cache; from edgetl.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try: open_cache(Path(sys.argv[1]), 700, 64)\n"
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
        open_cache(tmp_path / "file" / "photos.npy", 1, 8)
