"""What is done more than once in a job: scans, decodes, forward passes, and the memory it takes.

    python -m benchmarks.work_once [--photos N] [--before CHECKOUT]

Draws N photos (20,000) in four classes, trains a small network on them for one epoch, exports it
for this machine, scores the bundle, and exports the bundle's ONNX as somebody else's, each by its
own command under counted.py. `--before` is a checkout of the version to compare with. Writes
results/work_once.jsonl. The network is small on purpose: counts do not depend on it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import ROOT, parser, write_rows

SIDE, SIZE = 96, 64
CLASSES = ("flat", "wide", "tall", "round")
CELLS = {"flat": (4, 4), "wide": (3, 12), "tall": (12, 3), "round": (8, 8)}  # rows, columns


def photo(label: str, index: int) -> Image.Image:
    """A random texture with cells of the class's shape."""
    rng = np.random.default_rng([CLASSES.index(label), index])
    cells = rng.integers(0, 256, (*CELLS[label], 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def draw(root: Path, count: int) -> None:
    """As many photos of each class."""
    for label in CLASSES:
        (root / label).mkdir(parents=True)

    def save(index: int) -> None:
        label = CLASSES[index % len(CLASSES)]
        photo(label, index).save(root / label / f"{index:05}.jpg", quality=85)

    with ThreadPoolExecutor() as pool:
        list(pool.map(save, range(count)))


def commands(home: Path) -> dict[str, list[str]]:
    """Each verb of the job, by name."""
    data, run, bundle = (str(home / name) for name in ("photos", "run", "model.edgetl"))
    tuned = ("--search", "never", "--qat", "never", "--max-drop", "0.5")
    return {
        "finetune": [
            *("finetune", data, "--out", run),
            *("--backbone", "shufflenet_v2_x0_5", "--weights", "none"),
            *("--strategy", "scratch", "--epochs", "1", "--size", str(SIZE)),
        ],
        "export": ["export", run, "--out", bundle, "--target", "cpu", *tuned],
        "evaluate": ["evaluate", bundle, data],
        "export of an ONNX": [
            *("export", str(home / "given.onnx"), "--out", str(home / "given.edgetl")),
            *("--calib", data, "--target", "cpu", *tuned),
        ],
    }


def give(home: Path) -> None:
    """The exported network as somebody else's ONNX."""
    with zipfile.ZipFile(home / "model.edgetl") as opened:
        (home / "given.onnx").write_bytes(opened.read("models/fp32.onnx"))


def measure(checkout: Path, version: str, photos: Path) -> list[dict[str, Any]]:
    """Every command of the job by the edgetl of a checkout."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "photos").symlink_to(photos)
        environment = os.environ | {
            "PYTHONPATH": str(checkout),
            "EDGETL_CACHE": str(home / "cache"),
        }
        for verb, words in commands(home).items():
            if verb == "export of an ONNX":
                give(home)
            start = time.perf_counter()
            done = subprocess.run(
                [
                    *(sys.executable, str(ROOT / "benchmarks" / "counted.py")),
                    *(str(home / "counts.json"), str(photos), *words),
                ],
                env=environment,
                cwd=home,
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise SystemExit(f"{version}, {verb}: {done.stdout[-2000:]}{done.stderr[-3000:]}")
            found = json.loads((home / "counts.json").read_text("utf-8"))
            assert Path(found.pop("package")).is_relative_to(checkout)
            count = sum(1 for _ in photos.rglob("*.jpg"))
            row = {"version": version, "verb": verb, "photos": count, "seconds": 0.0} | found
            row["seconds"] = round(time.perf_counter() - start, 1)
            print(row, flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Draw, run and write."""
    options = parser(__doc__)
    options.add_argument("--photos", type=int, default=20_000)
    options.add_argument("--before", type=Path, help="a checkout to compare with")
    options.add_argument("--dry", action="store_true", help="write no results")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as home:
        photos = Path(home).resolve() / "photos"
        draw(photos, asked.photos)
        rows = measure(asked.before.resolve(), "before", photos) if asked.before else []
        rows += measure(ROOT, "after", photos)
    if not asked.dry:
        print(write_rows("work_once", rows))


if __name__ == "__main__":
    main()
