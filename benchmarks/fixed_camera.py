"""3,000 photos of one part by a fixed camera, in two classes: time, memory and accuracy of a probe.

    python -m benchmarks.fixed_camera [--weights FILE] [--photos N]

Every photo shows the same drawn part with its own shift, light and grain; those of class `holed`
have a hole somewhere. Nearly all of their 4.5 million pairs look alike. Writes
results/fixed_camera.jsonl; takes about a minute on two cores.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.common import parser, write_rows

SIDE = 256
CLASSES = ("whole", "holed")


def part() -> Image.Image:
    """The part on its ground, without grain."""
    image = Image.new("RGB", (SIDE, SIDE), (58, 62, 66))
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((24, 40, 232, 216), 18, fill=(150, 146, 138))
    for x, y in ((44, 60), (212, 60), (44, 196), (212, 196)):
        pen.ellipse((x - 8, y - 8, x + 8, y + 8), fill=(92, 90, 88))
    return image.filter(ImageFilter.GaussianBlur(1))


def photo(ground: Image.Image, index: int, *, holed: bool) -> Image.Image:
    """One shot: shifted by up to 3 pixels, in light of 95…105 %, with grain."""
    rng = np.random.default_rng([index, holed])
    image = ground.copy()
    if holed:
        x, y = (int(v) for v in rng.integers(72, 184, 2))
        ImageDraw.Draw(image).ellipse((x - 12, y - 12, x + 12, y + 12), fill=(40, 38, 36))
    shift = tuple(int(v) for v in rng.integers(-3, 4, 2))
    values = np.roll(np.asarray(image, np.float32), shift, (0, 1)) * rng.uniform(0.95, 1.05)
    values += rng.normal(0, 3, values.shape)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def draw(root: Path, count: int) -> None:
    """Half of the photos of each class, numbered in order of time."""
    ground = part()
    for label in CLASSES:
        (root / label).mkdir(parents=True)
        for index in range(count // 2):
            shot = photo(ground, index, holed=label == "holed")
            shot.save(root / label / f"{index:05}.jpg", quality=92)


def measure(data: Path, weights: Path, run: Path) -> dict[str, Any]:
    """Probe at 96 pixels from the command line, process start included."""
    words = [
        *(sys.executable, "-m", "edgetl", "finetune", str(data), "--out", str(run), "--overwrite"),
        *("--backbone", "mobilenet_v2"),
        *("--strategy", "probe", "--size", "96", "--weights", str(weights), "--json"),
    ]
    start = time.perf_counter()
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    wall = time.perf_counter() - start
    found = json.loads(done.stdout)
    return {
        "row": "fixed camera",
        "photos": sum(1 for _ in data.rglob("*.jpg")),
        "wall_s": wall,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "test_accuracy": found["metrics"]["test"]["accuracy"],
        "n": found["metrics"]["test"]["n"],
        "timings_s": found["timings_s"],
        "warnings": found["warnings"],
    }


def main() -> None:
    """Draw, run and write."""
    options = parser(__doc__)
    options.add_argument("--photos", type=int, default=3000)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as home:
        draw(Path(home) / "photos", given.photos)
        row = measure(Path(home) / "photos", given.weights, Path(home) / "run")
    print(row)
    print(write_rows("fixed_camera", [row]))


if __name__ == "__main__":
    main()
