"""The self-test that a bundle carries: drawn inputs, expected logits, and a JPEG with its pixels.

Nothing of it comes from the user's photos. The inputs are those of a pool of drawings that
together move every output furthest, so that a fault in any of them shows.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from edgetl.inputs.image import Pixels, pixels
from edgetl.metrics import Logits
from edgetl.spec import Golden, Preprocess

INPUTS, JPEG, PIXELS = "golden/inputs.npy", "golden/image.jpg", "golden/pixels.npy"

MOST, FEWEST = 16, 4  # inputs
_BYTES = 2 << 20  # that the inputs may take beyond the fewest: members of a bundle are stored plain
_POOL = 64  # drawings to choose from


def golden_members(
    inputs: Pixels, logits: dict[str, Logits], spec: Preprocess
) -> tuple[Golden, dict[str, bytes]]:
    """Members for inputs `(N, size, size, 3)` and each recipe's logits `(N, classes)` of them."""
    members = {INPUTS: npy(inputs), JPEG: drawn_jpeg()}
    members[PIXELS] = npy(pixels(members[JPEG], spec))
    paths = {recipe: f"golden/{recipe}.npy" for recipe in logits}
    members |= {paths[recipe]: npy(values) for recipe, values in logits.items()}
    return Golden(inputs=INPUTS, logits=paths, jpeg=JPEG, pixels=PIXELS), members


def golden_inputs(reference: Callable[[Pixels], Logits], size: int) -> Pixels:
    """Drawings uint8 `(N, size, size, 3)`, chosen by the logits that `reference` gives.

    Each one taken adds most to the ranges of the outputs, every output's range among all drawings
    counting alike. The same network gets the same drawings.
    """
    pool = np.stack([drawing(seed, size) for seed in range(_POOL)])
    logits = reference(pool)
    count = min(MOST, max(FEWEST, _BYTES // pool[0].nbytes))
    return pool[_widest(logits, count)]


def _widest(logits: Logits, count: int) -> list[int]:
    """Rows of `logits` that together span most of every column's range, in the order taken."""
    finite = np.isfinite(logits).all(axis=1)
    if not finite.any():  # the gate refuses such a network
        return list(range(count))
    low = logits[finite].min(axis=0).astype(np.float64)
    high = logits[finite].max(axis=0)
    share = (logits - low) / np.where(high > low, high - low, 1)  # 0…1
    share[~finite] = 0.5  # in the middle, so not the first
    taken = [int(np.abs(share - 0.5).sum(axis=1).argmax())]
    for _ in range(count - 1):
        lowest, highest = share[taken].min(axis=0), share[taken].max(axis=0)
        gain = np.maximum(lowest - share, 0) + np.maximum(share - highest, 0)
        order = np.where(finite, gain.sum(axis=1), -1)  # what is not finite is taken last
        order[taken] = -2
        taken.append(int(order.argmax()))
    return taken


def drawing(seed: int, size: int) -> Pixels:
    """A drawing `(size, size, 3)`: colours, shapes, stripes and grain, each as strong as drawn."""
    rng = np.random.default_rng(seed)
    side = 2 * size  # drawn at twice the size, so that edges come out smooth
    grid = rng.integers(0, 256, (*rng.integers(1, 7, 2), 3), np.uint8)
    image = Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 9)):
        left, right, top, bottom = np.sort(rng.uniform(-0.1, 1.1, (2, 2)) * side).ravel().tolist()
        colour = tuple(rng.integers(0, 256, 3).tolist())
        shape = (pen.ellipse, pen.rectangle)[rng.integers(2)]
        shape((left, top, right, bottom), fill=colour)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    angle, waves = rng.uniform(0, np.pi), rng.uniform(1, max(2, size / 6))
    stripes = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)))[..., np.newaxis]
    grain = rng.normal(0, 1, (side, side, 1))
    colours = np.asarray(image, np.float32)
    grey = colours.mean(axis=2, keepdims=True)
    vivid = grey + rng.uniform(0, 1) * (colours - grey)
    full = vivid + rng.uniform(0, 60) * stripes + rng.uniform(0, 30) * grain
    small = Image.fromarray(full.clip(0, 255).astype(np.uint8)).resize(
        (size, size), Image.Resampling.BOX
    )
    return np.asarray(small)


def npy(array: Any) -> bytes:
    """An array in NumPy's file format."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def drawn_jpeg() -> bytes:
    """A drawn 640x480 JPEG, turned by EXIF, with edges and gradients that a resize must respect."""
    y, x = np.mgrid[0:480, 0:640].astype(np.float32)
    waves = 127 + 80 * np.sin(x / 9) * np.cos(y / 13) + 40 * ((x // 40 + y // 40) % 2)
    image = np.stack([waves, 255 * x / 640, 255 * y / 480], axis=-1)
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90, exif=exif)
    return stream.getvalue()
