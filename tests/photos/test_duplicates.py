"""Which photos count as the same picture: copies do, other pictures do not."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from edgetl.photos.duplicates import MAX_CELL, MIN_COSINE, join, near_pairs, same_pairs
from edgetl.photos.ingest import look_all, signature
from edgetl.preprocess import pixels
from edgetl.spec import Preprocess

SPEC = Preprocess(size=224)
Change = Callable[[Image.Image], Image.Image]


def trimmed(share: float, *, corner: bool = False) -> Change:
    def change(image: Image.Image) -> Image.Image:
        width, height = round(image.width * share), round(image.height * share)
        left, top = image.width - width, image.height - height
        if not corner:
            left, top = left // 2, top // 2
        return image.crop((left, top, left + width, top + height))

    return change


def resized(share: float) -> Change:
    return lambda image: image.resize(
        (round(image.width * share), round(image.height * share)), Image.Resampling.LANCZOS
    )


def saved(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def signed(sources: list[bytes] | list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    signs = [signature(pixels(source, SPEC)) for source in sources]
    return np.stack([steps for steps, _ in signs]), np.stack([thumb for _, thumb in signs])


# How many of 100 copies are to be found; the comment in duplicates.py names the same figures.
COPIES: dict[str, tuple[Change, int, float]] = {
    "quality 60": (lambda image: image, 60, 1.0),
    "quality 30": (lambda image: image, 30, 1.0),
    "resized to 90 %": (resized(0.9), 90, 1.0),
    "resized to 50 %": (resized(0.5), 90, 1.0),
    "trimmed by 1 %": (trimmed(0.99), 90, 1.0),
    "trimmed by 2 %": (trimmed(0.98), 90, 0.99),
    "trimmed by 3 %": (trimmed(0.97), 90, 0.93),
    "all at once": (lambda image: resized(0.9)(trimmed(0.99)(image)), 60, 1.0),
}


@pytest.fixture(scope="module")
def clothes(shared: Path) -> list[Image.Image]:
    paths = sorted((shared / "data/clothing/test").rglob("*.jpg"))
    found = []
    for path in np.random.default_rng(5).choice(np.array(paths), 100, replace=False):
        with Image.open(path) as image:
            found.append(ImageOps.exif_transpose(image).convert("RGB"))
    return found


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_real_photos_are_found(clothes: list[Image.Image], name: str) -> None:
    change, quality, share = COPIES[name]
    n = len(clothes)
    steps, thumbs = signed([saved(change(image), quality) for image in clothes])
    originals, original_thumbs = signed(clothes)
    pairs = near_pairs(
        np.concatenate([originals, steps]), np.concatenate([original_thumbs, thumbs])
    )
    found = {(i, j - n) for i, j in pairs if i < n <= j}
    assert sum(i == j for i, j in found) >= share * n
    assert all(i == j for i, j in found)  # and no other photo


def test_different_real_photos_are_not_joined(shared: Path) -> None:
    paths = sorted((shared / "data/clothing").glob("[tv][ea]*/*/*.jpg"))
    paths = [path for path in paths if "train" not in path.parts]
    looks = [seen for seen in look_all(paths, SPEC) if seen.steps is not None]
    assert len(looks) > 700
    steps = np.array([seen.steps for seen in looks])
    assert near_pairs(steps, np.array([seen.thumb for seen in looks])) == []


def test_a_fixed_camera_does_not_make_photos_the_same(clothes: list[Image.Image]) -> None:
    rng = np.random.default_rng(6)
    background = clothes[0].resize((256, 256))
    photos = []
    for _ in range(40):
        photo = background.copy()
        x, y = (int(v) for v in rng.integers(60, 196, 2))
        fill = tuple(int(v) for v in rng.integers(0, 256, 3))
        ImageDraw.Draw(photo).ellipse((x - 22, y - 22, x + 22, y + 22), fill=fill)
        photos.append(photo)
    assert len(near_pairs(*signed(photos))) <= 0.01 * 40 * 39 / 2


def test_drawn_shapes_on_one_ground_are_different_pictures() -> None:
    photos = []
    for index in range(36):
        photo = Image.new("RGB", (256, 256), "white")
        x, y = 60 + 25 * (index % 6), 60 + 25 * (index // 6)
        ImageDraw.Draw(photo).ellipse((x - 15, y - 15, x + 15, y + 15), fill="black")
        photos.append(photo)
    assert near_pairs(*signed(photos)) == []


def test_colour_tells_apart_what_brightness_does_not() -> None:
    red, blue, same = (Image.new("RGB", (64, 64), c) for c in ("#b00000", "#0000b0", "#b20000"))
    assert near_pairs(*signed([red, blue, same])) == [(0, 2)]


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_pairs_are_those_of_a_plain_double_loop(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, max(1, n // 3), n)
    steps = rng.normal(size=(max(1, n), 289))[kinds] + rng.normal(size=(n, 289)) * 0.35
    steps = (steps / np.linalg.norm(steps, axis=1, keepdims=True)).astype(np.float32)
    thumbs = rng.integers(0, 256, (max(1, n), 8, 8, 3))[kinds] + rng.integers(-18, 19, (n, 8, 8, 3))
    thumbs = thumbs.clip(0, 255).astype(np.uint8)
    wanted = [
        (i, j)
        for i in range(n)
        for j in range(i + 1, n)
        if steps[i] @ steps[j] >= MIN_COSINE
        and np.abs(thumbs[i].astype(int) - thumbs[j]).max() <= MAX_CELL
    ]
    assert sorted(near_pairs(steps, thumbs)) == wanted


def test_blocks_do_not_hide_pairs_and_are_fast() -> None:
    rng = np.random.default_rng(7)
    steps = rng.normal(size=(5000, 289)).astype(np.float32)
    steps[4999], steps[3000] = steps[10], steps[2047]
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    thumbs = np.zeros((5000, 8, 8, 3), np.uint8)
    start = time.perf_counter()
    assert sorted(near_pairs(steps, thumbs)) == [(10, 4999), (2047, 3000)]
    assert time.perf_counter() - start < 10


def test_same_bytes_are_pairs_with_the_first() -> None:
    assert same_pairs(["a", "b", "a", "c", "b", "a"]) == [(0, 2), (1, 4), (0, 5)]
    assert same_pairs([]) == []


@settings(max_examples=80, derandomize=True, deadline=None)
@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))
        )
    )
)
def test_joining_finds_connected_photos(case: tuple[int, list[tuple[int, int]]]) -> None:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count, pairs = case
    found = join(count, pairs)
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    _, wanted = connected_components(graph, directed=False)
    for i in range(count):
        assert found[i] == min(j for j in range(count) if wanted[j] == wanted[i])
