"""Every backbone whose weights are here, on one set of photos: accuracy, time, INT8, size.

    python -m benchmarks.backbones [--backbones A,B] [--seeds 0,1,2] [--no-export]

For each backbone and seed: the probe and fine-tuning, scored on the test photos; then the default
export of the fine-tuned run to this CPU, as benchmarks/default_export.py scores it. Rows are added
to results/backbones.jsonl as they come, and what is there already is not done again, on whichever
machine it was, so that it may be stopped; rows of before a change of training are to be removed by
hand. MobileNetV2's weights are a file (--weights); the others' are installed packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import parser, read_rows, write_rows
from benchmarks.default_export import exported, on_test

NAME = "backbones"
LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def trained(data: Path, weights: str, run: Path, job: tuple[str, str, int]) -> dict[str, Any]:
    """Train one run; its scores."""
    backbone, strategy, seed = job
    words = [sys.executable, "-m", "edgetl", "finetune", str(data), "--out", str(run), "--json"]
    words += ["--backbone", backbone, "--strategy", strategy, "--seed", str(seed)]
    words += ["--weights", weights, "--overwrite"]
    done = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
    return {split: done["metrics"][split]["accuracy"] for split in ("validation", "test")} | {
        "seconds": done["seconds"],
        "weights": done["weights_origin"]["source"],
    }


def drops(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Loss of accuracy on validation of the closest INT8 candidate, without and with QAT."""
    found: dict[str, float | None] = {}
    for key, variant in (("drop_plain", ""), ("drop_qat", "qat")):
        made = [r for r in rows if r["precision"] == "int8" and r["variant"] == variant]
        made = [r for r in made if r["divergence"] is not None]  # it could be built
        best = min(made, key=lambda r: r["divergence"], default=None)
        found[key] = best["drop"] if best else None
    return found


def shipped(run: Path, bundle: Path) -> dict[str, Any]:
    """The default export of a run to this CPU."""
    done, wall_s = exported(run, bundle)
    chosen = next(row for row in done["candidates"] if row["name"] == done["chosen"])
    return {
        "chosen": done["chosen"],
        "precision": chosen["precision"],
        "p50_ms": chosen["p50_ms"],
        "bundle_mib": bundle.stat().st_size / 2**20,
        "wall_s": wall_s,
        **drops(done["candidates"]),
        **on_test(run, bundle, done["chosen"]),
    }


def main() -> None:
    """Do what results/backbones.jsonl lacks."""
    options = parser(__doc__)
    options.add_argument("--backbones", default=",".join((*LITES, "mobilenet_v2")))
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--no-export", action="store_true")
    given = options.parse_args()
    rows = read_rows(NAME)
    for seed in map(int, given.seeds.split(",")):
        for backbone in given.backbones.split(","):
            weights = str(given.weights) if backbone == "mobilenet_v2" else "imagenet"
            for strategy in ("probe", "finetune", "export"):
                job = backbone, strategy, seed
                known = {(r["backbone"], r["strategy"], r["seed"]) for r in rows}
                if job in known or (strategy == "export" and given.no_export):
                    continue
                tuned = given.work / f"{backbone}-finetune-{seed}"
                if strategy == "export":
                    found = shipped(tuned, tuned.with_suffix(".edgetl"))
                else:
                    run = given.work / f"{backbone}-{strategy}-{seed}"
                    found = trained(given.data, weights, run, job)
                row = {"backbone": backbone, "strategy": strategy, "seed": seed} | found
                print(row, flush=True)
                rows.append(row)
                write_rows(NAME, rows, keep=len(rows) - 1)
                rows = read_rows(NAME)


if __name__ == "__main__":
    main()
