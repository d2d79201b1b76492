"""Fine-tune, export and predict from Python: the whole job in one file.

    python examples/finetune.py photos/ out/

photos/ holds one folder a class. out/ gets a run folder with its report, and the bundle, which is
all that a device needs. Needs the extra `all`.
"""
# ruff: noqa: T201  (a script talks to who runs it)

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Literal

import edgetl
from edgetl.errors import EdgetlError


def arguments() -> argparse.Namespace:
    """What the command line says; the defaults are edgetl's own."""
    parser = argparse.ArgumentParser(description="Fine-tune, export and predict.")
    parser.add_argument("data", type=Path, metavar="DATA", help="photos, one folder a class")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the run and the bundle")
    parser.add_argument("--backbone", default="mobilenet_v2", help="see `edgetl backbones`")
    parser.add_argument("--weights", help="imagenet, none, or a file (default: imagenet)")
    parser.add_argument(
        "--strategy", default="auto", choices=("auto", "probe", "finetune", "scratch")
    )
    parser.add_argument("--epochs", type=int, help="default: by the number of photos")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--target", default="cpu", help="see `edgetl devices`; cpu is this machine")
    parser.add_argument("--quick", action="store_true", help="no training for INT8, no search")
    return parser.parse_args()


def main() -> None:
    """Do the whole job, and say after each step what came of it."""
    asked = arguments()
    run, bundle = asked.out / "run", asked.out / "model.edgetl"

    # 1. Train. The run folder holds report.html; a killed run goes on with resume=True.
    edgetl.finetune(
        asked.data,
        out=run,
        backbone=asked.backbone,
        weights=asked.weights,
        strategy=asked.strategy,
        epochs=asked.epochs,
        size=asked.size,
    )
    print(f"trained: {run / 'report.html'}")

    # 2. Export. Every candidate is compared with the trained network on the validation photos,
    #    and, where the target is this machine, measured; the fastest that is right is chosen.
    when: Literal["auto", "never"] = "never" if asked.quick else "auto"
    edgetl.export(run, target=asked.target, out=bundle, qat=when, search=when)
    print(f"exported: {bundle}")

    # 3. Predict. From here on, neither torch nor the photos are needed.
    photos = sorted(path for path in asked.data.rglob("*") if path.is_file())[:5]
    with edgetl.load(bundle) as model:
        print(f"running {model.candidate.name} on {model.describe().engine}")
        for result in model.predict(photos, top=1, keep_going=True):
            if result.error:
                print(f"{result.image}: {result.error}")
                continue
            best = result.predictions[0]
            print(f"{result.image}: {best.label} ({best.probability:.1%})")


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        main()
    except EdgetlError as error:  # what went wrong, and the fix
        sys.exit(f"error: {error}")
