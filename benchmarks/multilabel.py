"""Several classes true of one photo: one or two of five garments side by side.

    python -m benchmarks.multilabel [--data DIR] [--weights FILE]

Pictures are made from the clothing photos, each split's from its own. The bundle's answers to
the test pictures are scored by scikit-learn, from `edgetl predict --json`. Writes
results/multilabel.jsonl.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score

from benchmarks.common import parser, write_rows
from benchmarks.main_job import edgetl

GARMENTS = ("dress", "hat", "pants", "shirt", "shoes")
PICTURES = {"train": 700, "validation": 250, "test": 300}
SIDE = 256  # pixels of a garment in a picture


def picture(paths: list[Path]) -> Image.Image:
    """Photos side by side."""
    parts = [Image.open(path).convert("RGB").resize((SIDE, SIDE)) for path in paths]
    joined = Image.new("RGB", (SIDE * len(parts), SIDE))
    for place, part in enumerate(parts):
        joined.paste(part, (SIDE * place, 0))
    return joined


def make(data: Path, home: Path, seed: int = 0) -> Path:
    """Pictures and their table; returns the table."""
    rng = np.random.default_rng(seed)
    home.mkdir(parents=True, exist_ok=True)
    rows = []
    for split, count in PICTURES.items():
        photos = {name: sorted((data / split / name).glob("*.jpg")) for name in GARMENTS}
        for number in range(count):
            shown = rng.choice(GARMENTS, size=rng.integers(1, 3), replace=False)
            chosen = [photos[name][rng.integers(len(photos[name]))] for name in shown]
            path = home / f"{split}-{number:04}.jpg"
            picture(chosen).save(path, quality=92)
            rows.append([path.name, "|".join(sorted(shown)), split])
    table = home / "labels.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "labels", "split"], *rows])
    return table


def answers(bundle: Path, home: Path, names: list[str], *chosen: str) -> list[dict[str, Any]]:
    """Predictions by class, for each picture."""
    paths = [home / name for name in names]
    found, _ = edgetl("predict", bundle, *paths, "--top", str(len(GARMENTS)), *chosen)
    return [{p["label"]: p for p in row["predictions"]} for row in found]


def main() -> None:
    """Run and write."""
    options = parser(__doc__)
    options.add_argument("--strategy", default="probe")
    given = options.parse_args()
    home, run = given.work / "garments", given.work / "garments-run"
    table, bundle = make(given.data, home), given.work / "garments.edgetl"
    trained, train_s = edgetl(
        "finetune", home, "--labels", table, "--task", "multilabel", "--out", run, "--overwrite",
        "--strategy", given.strategy, "--weights", given.weights, "--fit", "squash",
        "--backbone", "mobilenet_v2",
    )  # fmt: skip
    exported, export_s = edgetl("export", run, "--target", "cpu", "--out", bundle)
    with table.open() as stream:
        wanted = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    truth = np.array([[name in row["labels"].split("|") for name in GARMENTS] for row in wanted])
    rows: list[dict[str, Any]] = [
        {
            "row": "run",
            "strategy": given.strategy,
            "train_s": train_s,
            "export_s": export_s,
            "test": trained["metrics"]["test"],
            "chosen": exported["chosen"],
        }
    ]
    for candidate in exported["candidates"]:
        row = {k: v for k, v in candidate.items() if k in ("name", "map", "drop", "rejected")}
        if candidate["rejected"] is None:
            given_by = ("--candidate", candidate["name"])
            found = answers(bundle, home, [one["path"] for one in wanted], *given_by)
            chance = [[one[name]["probability"] for name in GARMENTS] for one in found]
            present = [[one[name]["present"] for name in GARMENTS] for one in found]
            row["test_map"] = average_precision_score(truth, np.array(chance), average="macro")
            row["test_macro_f1"] = f1_score(truth, np.array(present), average="macro")
        row["chosen"] = candidate["name"] == exported["chosen"]
        rows.append({"row": "candidate", "n": len(wanted), **row})
    print(json.dumps(rows, indent=1))
    print(write_rows("multilabel", rows))


if __name__ == "__main__":
    main()
