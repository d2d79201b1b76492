"""Draw a small photo-like data set: machine parts on a noisy belt, five classes.

    python -m benchmarks.sample DIR [--each 120] [--size 128] [--seed 0]

It stands in for real photos where there is no network and no data; it is drawn, and easy.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("bolt", "gear", "nut", "spring", "washer")
MATERIALS = {  # usual finish of a part; shades and lighting overlap
    "bolt": (90, 90, 100),
    "gear": (150, 150, 150),
    "nut": (160, 150, 110),
    "spring": (120, 140, 160),
    "washer": (180, 140, 80),
}


def _ring(draw: ImageDraw.ImageDraw, radius: float, hole: float, colour: tuple[int, ...]) -> None:
    draw.ellipse((-radius + 128, -radius + 128, radius + 128, radius + 128), fill=colour)
    draw.ellipse((-hole + 128, -hole + 128, hole + 128, hole + 128), fill=(0, 0, 0, 0))


def _polygon(sides: int, radius: float, turn: float = 0.0) -> list[tuple[float, float]]:
    return [
        (
            128 + radius * math.cos(turn + 2 * math.pi * k / sides),
            128 + radius * math.sin(turn + 2 * math.pi * k / sides),
        )
        for k in range(sides)
    ]


def draw_part(kind: str, rng: np.random.Generator) -> Image.Image:
    """One part, RGBA 256x256, upright; the caller turns, scales and places it."""
    image = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    shade = rng.uniform(0.75, 1.25)
    tint = shade * np.array(MATERIALS[kind]) + rng.normal(0, 10, 3)
    colour = (*(int(v) for v in tint.clip(0, 255)), 255)
    if kind == "washer":
        _ring(draw, rng.uniform(80, 100), rng.uniform(35, 55), colour)
    elif kind == "nut":
        draw.polygon(_polygon(6, rng.uniform(80, 100)), fill=colour)
        hole = rng.uniform(32, 48)
        draw.ellipse((128 - hole, 128 - hole, 128 + hole, 128 + hole), fill=(0, 0, 0, 0))
    elif kind == "gear":
        teeth = int(rng.integers(9, 14))
        for k in range(teeth):
            draw.polygon(_polygon(3, 30, 2 * math.pi * k / teeth), fill=colour)
            x, y = _polygon(teeth, 92)[k]
            draw.rectangle((x - 13, y - 13, x + 13, y + 13), fill=colour)
        _ring(draw, 88, rng.uniform(18, 30), colour)
    elif kind == "bolt":
        width = rng.uniform(16, 24)
        draw.rectangle((128 - width, 70, 128 + width, 230), fill=colour)
        draw.polygon([(x, 0.45 * y) for x, y in _polygon(6, 62)], fill=colour)
        for y in range(100, 228, 12):
            draw.line((128 - width, y, 128 + width, y + 7), fill=(40, 40, 40, 255), width=3)
    else:
        turns = int(rng.integers(5, 9))
        points = [
            (128 + 45 * math.sin(2 * math.pi * turns * t), 30 + 196 * t)
            for t in np.linspace(0, 1, 240)
        ]
        draw.line(points, fill=colour, width=int(rng.integers(8, 13)), joint="curve")
    return image


def draw_photo(kind: str, rng: np.random.Generator, size: int) -> Image.Image:
    """One photo, RGB: a part at any angle on a textured belt, lit unevenly, blurred and noisy."""
    tone = rng.uniform(30, 120) + rng.normal(0, 8, 3)
    coarse = rng.normal(0, 10, (8, 8, 1)) + rng.normal(0, 4, (8, 8, 3)) + tone
    belt = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    side = int(size * rng.uniform(0.7, 1.0))
    part = draw_part(kind, rng).rotate(rng.uniform(0, 360), Image.Resampling.BICUBIC)
    part = part.resize((side, side), Image.Resampling.LANCZOS)
    place = tuple(int(v) for v in rng.integers(0, size - side + 1, 2))
    belt.paste(part, (place[0], place[1]), part)
    belt = belt.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.0)))
    light = np.linspace(rng.uniform(0.7, 1), rng.uniform(1, 1.3), size)[None, :, None]
    pixels = np.asarray(belt, np.float32) * light + rng.normal(
        0, rng.uniform(2, 12), (size, size, 3)
    )
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_data(folder: Path, each: int, size: int, seed: int) -> None:
    """`each` JPEG photos of every class under folder/<class>/."""
    rng = np.random.default_rng(seed)
    for kind in CLASSES:
        home = folder / kind
        home.mkdir(parents=True, exist_ok=True)
        for index in range(each):
            draw_photo(kind, rng, size).save(home / f"{index:04d}.jpg", quality=88)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=120)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw_data(given.folder, given.each, given.size, given.seed)
