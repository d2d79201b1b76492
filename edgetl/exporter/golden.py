"""The self-test that a bundle carries: drawn inputs, expected outputs, and a JPEG with its pixels.

Nothing of it comes from the user's photos. The inputs are those of a pool of drawings that
together move every output furthest, so that a fault in any of them shows.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from edgetl.bundle.manifest import Golden
from edgetl.inputs.base import Input, Pixels
from edgetl.tasks.base import Outputs

INPUTS, JPEG, PIXELS = "golden/inputs.npy", "golden/image.jpg", "golden/pixels.npy"

MOST, FEWEST = 16, 4  # inputs
_BYTES = 2 << 20  # that the inputs may take beyond the fewest: members of a bundle are stored plain
_POOL = 64  # drawings to choose from


def golden_members(
    inputs: Pixels, expected: dict[str, Outputs], spec: Input
) -> tuple[Golden, dict[str, bytes]]:
    """Members for inputs `(N, H, W, 3)` and each candidate's outputs `(N, …)` of them."""
    members = {INPUTS: npy(inputs), JPEG: drawn_jpeg()}
    members[PIXELS] = npy(spec.read(members[JPEG]).pixels)
    paths = {
        name: {output: f"golden/{name}/{output}.npy" for output in outputs}
        for name, outputs in expected.items()
    }
    for name, outputs in expected.items():
        members |= {paths[name][output]: npy(values) for output, values in outputs.items()}
    return Golden(inputs=INPUTS, outputs=paths, jpeg=JPEG, pixels=PIXELS), members


def golden_inputs(reference: Callable[[Pixels], Outputs], shape: tuple[int, int, int]) -> Pixels:
    """Drawings uint8 `(N, *shape)`, chosen by the outputs that `reference` gives.

    Each one taken adds most to the ranges of the outputs' values, every value's range among all
    drawings counting alike. The same network gets the same drawings.
    """
    height, width, _ = shape
    pool = np.stack([drawing(seed, (width, height)) for seed in range(_POOL)])
    flat = [values.reshape(_POOL, -1) for values in reference(pool).values()]
    count = min(MOST, max(FEWEST, _BYTES // pool[0].nbytes))
    return pool[_widest(np.concatenate(flat, axis=1), count)]


def _widest(values: npt.NDArray[np.float32], count: int) -> list[int]:
    """Rows of `values` that together span most of every column's range, in the order taken."""
    finite = np.isfinite(values).all(axis=1)
    if not finite.any():  # the gate refuses such a network
        return list(range(count))
    low = values[finite].min(axis=0).astype(np.float64)
    high = values[finite].max(axis=0)
    share = (values - low) / np.where(high > low, high - low, 1)  # 0…1
    share[~finite] = 0.5  # in the middle, so not the first
    taken = [int(np.abs(share - 0.5).sum(axis=1).argmax())]
    for _ in range(count - 1):
        lowest, highest = share[taken].min(axis=0), share[taken].max(axis=0)
        gain = np.maximum(lowest - share, 0) + np.maximum(share - highest, 0)
        order = np.where(finite, gain.sum(axis=1), -1)  # what is not finite is taken last
        order[taken] = -2
        taken.append(int(order.argmax()))
    return taken


def drawing(seed: int, size: tuple[int, int]) -> Pixels:
    """A drawing `(H, W, 3)` of size (W, H): colours, shapes, stripes, grain, each at random."""
    rng = np.random.default_rng(seed)
    wide, high = 2 * size[0], 2 * size[1]  # drawn at twice the size, so that edges come out smooth
    grid = rng.integers(0, 256, (*rng.integers(1, 7, 2), 3), np.uint8)
    image = Image.fromarray(grid).resize((wide, high), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 9)):
        across, down = np.sort(rng.uniform(-0.1, 1.1, (2, 2)))
        (left, right), (top, bottom) = (across * wide).tolist(), (down * high).tolist()
        colour = tuple(rng.integers(0, 256, 3).tolist())
        shape = (pen.ellipse, pen.rectangle)[rng.integers(2)]
        shape((left, top, right, bottom), fill=colour)
    y, x = np.mgrid[0:high, 0:wide].astype(np.float32)
    x, y = x / wide, y / high
    angle, waves = rng.uniform(0, np.pi), rng.uniform(1, max(2, min(size) / 6))
    stripes = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)))[..., np.newaxis]
    grain = rng.normal(0, 1, (high, wide, 1))
    colours = np.asarray(image, np.float32)
    grey = colours.mean(axis=2, keepdims=True)
    vivid = grey + rng.uniform(0, 1) * (colours - grey)
    full = vivid + rng.uniform(0, 60) * stripes + rng.uniform(0, 30) * grain
    small = Image.fromarray(full.clip(0, 255).astype(np.uint8))
    return np.asarray(small.resize(size, Image.Resampling.BOX))


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
