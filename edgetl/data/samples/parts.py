"""Drawn photos of machine parts: five kinds at any angle, some worn, lit unevenly, on a belt.

They stand in for real photos where there are none. A second camera sees other parts of the same
kinds with other colours, blur and dark corners, as a new line in the factory would.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from edgetl.data.samples.base import save_photo
from edgetl.machine import available_cores

SIZE, CANVAS = 224, 336  # pixels of a photo, and of what it is drawn on
EACH = 120  # photos of a kind
WORN = 0.4  # share of the parts that have a defect
Floats = npt.NDArray[np.floating]
Rng = np.random.Generator
Box = tuple[float, float, float, float]
FINISH = {  # usual colour of a kind; shades and lighting overlap
    "bolt": (120, 120, 130),
    "gear": (150, 150, 150),
    "nut": (165, 155, 120),
    "spring": (130, 145, 165),
    "washer": (175, 145, 95),
}


def draw(folder: Path, each: int = EACH) -> None:
    """The first camera: FOLDER/<kind>/NNNN.jpg, `each` photos of a kind."""
    _draw(folder, each, seed=1, camera=lambda photo, _: photo)


def draw_camera2(folder: Path) -> None:
    """The second camera, with parts of its own."""
    _draw(folder, EACH, seed=2, camera=_other_camera)


def _draw(folder: Path, each: int, *, seed: int, camera: Callable[[Floats, Rng], Floats]) -> None:
    def draw_one(job: tuple[str, int]) -> None:
        kind, index = job
        rng = np.random.default_rng((seed, list(FINISH).index(kind), index))
        photo = camera(_photo(kind, rng), rng).clip(0, 255).astype(np.uint8)
        save_photo(Image.fromarray(photo), folder / kind / f"{index:04d}.jpg")

    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(draw_one, itertools.product(FINISH, range(each))))


# --- shapes -----------------------------------------------------------------------------------


def _disc(draw: ImageDraw.ImageDraw, radius: float, fill: int) -> None:
    """A disc in the middle of the canvas, by its share of it."""
    low, high = CANVAS * (0.5 - radius), CANVAS * (0.5 + radius)
    draw.ellipse((low, low, high, high), fill=fill)


def _points(sides: int, radius: float, turn: float = 0.0) -> list[tuple[float, float]]:
    angles = (turn + 2 * math.pi * k / sides for k in range(sides))
    return [
        (CANVAS * (0.5 + radius * math.cos(a)), CANVAS * (0.5 + radius * math.sin(a)))
        for a in angles
    ]


def _shape(kind: str, rng: Rng) -> Image.Image:
    """A part's outline, white on black."""
    image = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(image)
    if kind == "washer":
        _disc(draw, rng.uniform(0.3, 0.38), 255)
        _disc(draw, rng.uniform(0.13, 0.2), 0)
    elif kind == "nut":
        draw.polygon(_points(6, rng.uniform(0.32, 0.4)), fill=255)
        _disc(draw, rng.uniform(0.13, 0.19), 0)
    elif kind == "gear":
        teeth, tooth = int(rng.integers(9, 15)), CANVAS * rng.uniform(0.04, 0.055)
        for x, y in _points(teeth, 0.36):
            draw.ellipse((x - tooth, y - tooth, x + tooth, y + tooth), fill=255)
        _disc(draw, 0.34, 255)
        _disc(draw, rng.uniform(0.06, 0.12), 0)
    elif kind == "bolt":
        wide, head = CANVAS * rng.uniform(0.06, 0.09), CANVAS * rng.uniform(0.14, 0.19)
        middle, top, low = CANVAS / 2, CANVAS * 0.12, CANVAS * rng.uniform(0.78, 0.92)
        draw.rectangle((middle - head, top, middle + head, top + 0.7 * head), fill=255)
        draw.rectangle((middle - wide, top, middle + wide, low), fill=255)
        for y in np.arange(top + head * 1.2, low, CANVAS * 0.035):  # the thread
            draw.line((middle - 1.25 * wide, y, middle + 1.25 * wide, y + 7), fill=255, width=5)
    else:
        turns = int(rng.integers(5, 9))
        wide = CANVAS * rng.uniform(0.14, 0.2)
        coil = [
            (CANVAS / 2 + wide * math.sin(2 * math.pi * turns * t), CANVAS * (0.12 + 0.76 * t))
            for t in np.linspace(0, 1, 300)
        ]
        draw.line(coil, fill=255, width=int(CANVAS * rng.uniform(0.03, 0.045)), joint="curve")
    return image


# --- what wears them --------------------------------------------------------------------------


def _smooth(rng: Rng, cells: int, size: int) -> Floats:
    """Soft noise of mean 0 and deviation about 1, `(size, size)`."""
    coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float64)


def _chipped(shape: Image.Image, rng: Rng) -> Image.Image:
    """A bite out of the edge."""
    bite = Image.new("L", shape.size, 255)
    x, y = _points(1, 0.36, rng.uniform(0, 2 * math.pi))[0]
    wide = CANVAS * rng.uniform(0.03, 0.07)
    ImageDraw.Draw(bite).ellipse((x - wide, y - wide, x + wide, y + wide), fill=0)
    return ImageChops.multiply(shape, bite)


def _scratched(surface: Floats, rng: Rng) -> Floats:
    """A few bright, thin lines."""
    lines = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(lines)
    for _ in range(int(rng.integers(2, 6))):
        ends = rng.uniform(0.2, 0.8, 4) * CANVAS
        draw.line(tuple(ends), fill=255, width=2)
    return surface + np.asarray(lines, np.float64)[..., None] / 255 * rng.uniform(40, 90)


def _rusty(surface: Floats, rng: Rng) -> Floats:
    """Brown patches."""
    patches = (_smooth(rng, 9, CANVAS)[..., None] > 0.6) * rng.uniform(0.4, 0.9)
    return np.asarray(surface * (1 - patches) + np.array([125.0, 70.0, 35.0]) * patches)


# --- a photo ----------------------------------------------------------------------------------


def _part(kind: str, rng: Rng) -> Image.Image:
    """One part in RGBA, upright, with the sheen of metal."""
    shape = _shape(kind, rng)
    base = rng.uniform(0.8, 1.2) * np.array(FINISH[kind]) + rng.normal(0, 5, 3)
    height = np.asarray(shape.filter(ImageFilter.GaussianBlur(7)), np.float64)
    slope = np.gradient(height)
    angle = rng.uniform(0, 2 * math.pi)  # whence the light comes
    sheen = math.cos(angle) * slope[1] + math.sin(angle) * slope[0]
    surface = base + (5.0 * sheen + 8 * _smooth(rng, 24, CANVAS))[..., None]
    if rng.random() < WORN:
        defect = rng.choice(["chip", "scratch", "rust"])
        if defect == "chip":
            shape = _chipped(shape, rng)
        else:
            surface = (_scratched if defect == "scratch" else _rusty)(surface, rng)
    part = Image.fromarray(surface.clip(0, 255).astype(np.uint8)).convert("RGBA")
    part.putalpha(shape)
    return part


def _photo(kind: str, rng: Rng) -> Floats:
    """One photo `(SIZE, SIZE, 3)`: a part with its shadow on a belt, lit from a side, noisy."""
    tone = rng.uniform(40, 130) + rng.normal(0, 8, 3)
    grain = 9 * _smooth(rng, 7, CANVAS) + 5 * _smooth(rng, 90, CANVAS)
    belt = Image.fromarray((tone + grain[..., None]).clip(0, 255).astype(np.uint8))
    side = int(CANVAS * rng.uniform(0.65, 1.0))
    part = _part(kind, rng).resize((side, side), Image.Resampling.BOX)
    part = part.rotate(rng.uniform(0, 360), Image.Resampling.BICUBIC)
    x, y = (int(v) for v in rng.integers(0, CANVAS - side + 1, 2))
    shadow = part.getchannel("A").filter(ImageFilter.GaussianBlur(8)).point(lambda v: v // 2)
    belt.paste((0, 0, 0), (x + 8, y + 9), shadow)
    belt.paste(part, (x, y), part)
    blurred = belt.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    small = blurred.resize((SIZE, SIZE), Image.Resampling.BOX)
    along = np.linspace(rng.uniform(0.7, 1), rng.uniform(1, 1.3), SIZE)
    light = along[None, :, None] if rng.random() < 0.5 else along[:, None, None]
    noise = rng.normal(0, rng.uniform(2, 9), (SIZE, SIZE, 3))
    return np.asarray(small, np.float64) * light + noise


def _other_camera(photo: Floats, rng: Rng) -> Floats:
    """Bluer, flatter, out of focus, and dark in its corners."""
    soft = Image.fromarray(photo.clip(0, 255).astype(np.uint8))
    blurred = np.asarray(soft.filter(ImageFilter.GaussianBlur(1.6)), np.float64)
    tinted = (blurred * 0.75 + 35) * np.array([0.82, 0.97, 1.15])
    away = np.linspace(-1, 1, SIZE)
    distance = away[None, :, None] ** 2 + away[:, None, None] ** 2
    return np.asarray(tinted * (1 - 0.28 * distance) + rng.normal(0, 4, photo.shape))
