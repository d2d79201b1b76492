"""The self-test that a bundle carries: inputs, expected logits, and a JPEG with its pixels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from edgetl.metrics import Logits
from edgetl.preprocess import Pixels, pixels
from edgetl.spec import Golden, Preprocess

COUNT = 4
INPUTS, JPEG, PIXELS = "golden/inputs.npy", "golden/image.jpg", "golden/pixels.npy"


def golden_members(
    images: Pixels, logits: dict[str, Logits], spec: Preprocess
) -> tuple[Golden, dict[str, bytes]]:
    """Members for the first images `(N, size, size, 3)` and each recipe's logits `(N, classes)`."""
    members = {INPUTS: npy(images[:COUNT]), JPEG: drawn_jpeg()}
    members[PIXELS] = npy(pixels(members[JPEG], spec))
    paths = {recipe: f"golden/{recipe}.npy" for recipe in logits}
    members |= {paths[recipe]: npy(values[:COUNT]) for recipe, values in logits.items()}
    return Golden(inputs=INPUTS, logits=paths, jpeg=JPEG, pixels=PIXELS), members


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
