"""Training batches: random crops of cached photos, with every draw fixed by (seed, epoch, step)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from edgetl.inputs.base import Pixels
from edgetl.train.tasks.base import TrainTask

SCALE = (0.4, 1.0)  # share of the photo's area
RATIO = (3 / 4, 4 / 3)
COLOUR = 0.25
ERASE_CHANCE = 0.25


class Batches:
    """Augmented batches of one epoch after another; a later epoch can be opened directly."""

    def __init__(
        self,
        pixels: Pixels,
        targets: Any,
        twin: TrainTask,
        *,
        size: tuple[int, int],
        batch: int,
        flip: bool,
        seed: int,
        erase: bool,
    ) -> None:
        """`pixels` are `(N, H, W, 3)`, `size` is (width, height) of what is trained with."""
        self.pixels, self.targets, self.twin = pixels, targets, twin
        self.size, self.batch, self.seed = size, batch, seed
        self.flip, self.erase = flip and twin.augments, erase and twin.augments
        self.steps = max(1, round(len(targets) / batch))

    def parts(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Rows of each batch of an epoch."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.targets))
        return np.array_split(order, self.steps)

    def epoch(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (images uint8 `(B, H, W, 3)`, targets of them); one batch is made ahead."""
        parts = self.parts(epoch)
        with ThreadPoolExecutor(1, thread_name_prefix="edgetl-batch") as pool:
            ahead = pool.submit(self._make, parts[0], epoch, 0)
            for step in range(self.steps):
                ready = ahead.result()
                if step + 1 < self.steps:
                    ahead = pool.submit(self._make, parts[step + 1], epoch, step + 1)
                yield ready

    def _make(
        self, rows: npt.NDArray[np.int64], epoch: int, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.seed, epoch, step + 1])
        images = np.stack([self._crop(self.pixels[row], rng) for row in rows])
        return torch.from_numpy(images), self.twin.batch(self.targets, rows)

    def _crop(self, photo: Pixels, rng: np.random.Generator) -> Pixels:
        height, width = photo.shape[:2]
        box = random_box((width, height), rng) if self.twin.augments else None
        image = Image.fromarray(photo).resize(self.size, Image.Resampling.BILINEAR, box=box)
        pixels = np.array(image)
        if self.flip and rng.random() < 0.5:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        if self.erase and rng.random() < ERASE_CHANCE:
            short = min(self.size)
            side = max(1, round(short * math.sqrt(rng.uniform(0.02, 0.2))))
            # drawn as if the photo were square, then spread along its longer side
            top, left = rng.integers(0, short - side + 1, 2)
            top, left = top * self.size[1] // short, left * self.size[0] // short
            pixels[top : top + side, left : left + side] = rng.integers(0, 256, 3)
        return pixels


def random_box(
    size: tuple[int, int], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A random crop of a photo of (width, height) pixels (Szegedy et al., CVPR 2015)."""
    wide, high = size
    area = wide * high * rng.uniform(*SCALE)
    ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1]))) * (wide / high)
    width, height = min(wide, math.sqrt(area * ratio)), min(high, math.sqrt(area / ratio))
    left, top = rng.uniform(0, wide - width), rng.uniform(0, high - height)
    return left, top, left + width, top + height


def jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Vary brightness, contrast and saturation of each photo `(B, H, W, 3)` in 0…255; float32.

    Brightness b makes `x` to `bx`; contrast c then spreads the values about their mean, and
    saturation s those of a pixel about its grey: together `bcs x + bc(1 - s) grey + b(1 - c) mean`.
    """
    draws = torch.rand((3, len(images), 1, 1, 1), generator=generator) * 2 * COLOUR + 1 - COLOUR
    brightness, contrast, saturation = draws.to(images.device)
    images, both = images.float(), brightness * contrast
    mean, grey = images.mean(dim=(1, 2, 3), keepdim=True), images.mean(dim=3, keepdim=True)
    rest = grey * (both * (1 - saturation)) + mean * (brightness - both)
    return torch.addcmul(rest, images, both * saturation).clamp_(0, 255)
