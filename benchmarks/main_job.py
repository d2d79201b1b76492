"""The main job on real photos: probe, fine-tuning, export, and the bundle on the test split.

    python -m benchmarks.main_job [--data DIR] [--weights FILE] [--only probe|finetune]

Writes results/main_job.jsonl. Run it on a quiet machine; it takes about ten minutes on two cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import parser, write_rows


def edgetl(*arguments: str | Path) -> tuple[Any, float]:
    """(JSON document, wall seconds) of a command, process start included."""
    words = [sys.executable, "-m", "edgetl", *map(str, arguments), "--json"]
    start = time.perf_counter()
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout), time.perf_counter() - start


def train(strategy: str, data: Path, weights: Path, run: Path) -> dict[str, Any]:
    """Train by one strategy from the command line."""
    found, wall = edgetl(
        "finetune",
        data,
        "--out",
        run,
        "--strategy",
        strategy,
        "--weights",
        weights,
        "--overwrite",
        "--backbone",
        "mobilenet_v2",
    )
    test = found["metrics"]["test"]
    return {
        "row": "finetune",
        "strategy": strategy,
        "test_accuracy": test["accuracy"],
        "test_macro_f1": test["macro_f1"],
        "n": test["n"],
        "validation_accuracy": found["metrics"]["validation"]["accuracy"],
        "wall_s": wall,
        "timings_s": found["timings_s"],
    }


def export(run: Path, bundle: Path, data: Path) -> list[dict[str, Any]]:
    """Export for this machine and score every shipped candidate on the test split."""
    found, wall = edgetl("export", run, "--target", "cpu", "--out", bundle)
    reference, _ = edgetl("evaluate", run, data)
    rows: list[dict[str, Any]] = [
        {"row": "export", "run": run.name, "wall_s": wall, "chosen": found["chosen"]}
    ]
    for candidate in found["candidates"]:
        row = {"row": "candidate", "run": run.name, **candidate}
        if candidate["rejected"] is None:
            scores, _ = edgetl(
                "evaluate", bundle, data,
                "--engine", candidate["engine"], "--precision", candidate["precision"],
            )  # fmt: skip
            row["test_accuracy"] = scores["accuracy"]
            row["test_drop"] = reference["accuracy"] - scores["accuracy"]
            row["test_n"] = scores["n"]
        rows.append(row)
    return rows


def main() -> None:
    """Run and write."""
    options = parser(__doc__)
    options.add_argument("--only", choices=["probe", "finetune"])
    given = options.parse_args()
    rows: list[dict[str, Any]] = []
    for strategy in ("probe", "finetune"):
        if given.only in (None, strategy):
            run = given.work / f"clothing-{strategy}"
            rows.append(train(strategy, given.data, given.weights, run))
            print(rows[-1], flush=True)
            rows += export(run, given.work / f"clothing-{strategy}.edgetl", given.data)
            for row in rows[-6:]:
                print({k: v for k, v in row.items() if not isinstance(v, (list, dict))}, flush=True)
    print(write_rows("main_job", rows))


if __name__ == "__main__":
    main()
