"""What a distance from FP32 costs: where the gate's limits come from.

    python -m benchmarks.gate [--data DIR] [--work DIR] [--weights FILE]

Trains small networks on two data sets that no bar of the gate is measured with, photos of blood
cells (cut from BCCD) and scikit-learn's handwritten digits, each with few training photos, so that
answers are uncertain and many test photos are left. Every INT8 and BF16 recipe of this machine is
built by every calibration method, and from quantization-aware training. For each, the mean KL
divergence from FP32 on validation and test, and what accuracy and log-loss lose on test, go to
results/gate.jsonl. About 25 minutes on two cores.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

import edgetl
from benchmarks.cells import crops
from benchmarks.common import parser, write_rows
from edgetl.exporter.candidates import build, candidate_outputs
from edgetl.exporter.context import BuildContext
from edgetl.exporter.plan import plan
from edgetl.exporter.sources.run import RunSource
from edgetl.exporter.variants import trained_context
from edgetl.metrics import cross_entropy, divergences, paired_drop, paired_rise
from edgetl.spec import Recipe, Strategy

SIDE = 96
NETWORKS: tuple[tuple[str, Strategy], ...] = (
    ("mobilenet_v2", "probe"),
    ("mobilenet_v2", "finetune"),
    ("mobilenet_v3_small", "scratch"),
    ("efficientnet_b0", "scratch"),
)
TRAINED, VALIDATING = 30, 40  # photos of each class; the rest are for the test


def digits(folder: Path) -> None:
    """Write scikit-learn's digits, 8 x 8 grey, as `folder`/SPLIT/CLASS/NUMBER.png."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    seen: dict[int, int] = {}
    for row in order.tolist():
        label = int(found.target[row])
        number = seen[label] = seen.get(label, 0) + 1
        home = folder / _side(number) / f"digit {label}"
        home.mkdir(parents=True, exist_ok=True)
        grey = (found.images[row] * 255 / 16).astype(np.uint8)
        Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(
            home / f"{number:04d}.png"
        )


def cells(source: Path, folder: Path) -> None:
    """Deal the crops of blood cells out anew, with few for training."""
    whole = folder.with_name("cells-whole")
    crops(source, whole)
    for name in sorted({path.name for path in whole.glob("*/*")}):
        for number, path in enumerate(sorted(whole.glob(f"*/{name}/*.jpg")), 1):
            home = folder / _side(number) / name
            home.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, home / f"{path.parent.parent.name}-{path.name}")


def _side(number: int) -> str:
    if number <= TRAINED:
        return "train"
    return "validation" if number <= TRAINED + VALIDATING else "test"


def variants(context: BuildContext) -> Iterator[tuple[Recipe, BuildContext, str]]:
    """Recipes with one calibration method each, and those from training for integers."""
    recipes = [r for r in plan("cpu").recipes if r.precision in ("int8", "bf16")]
    for recipe in recipes:
        methods = recipe.calibration or ("",)
        for method in methods:
            once = msgspec.structs.replace(recipe, calibration=(method,) if method else ())
            yield once, context, method
    integers = [recipe for recipe in recipes if recipe.precision == "int8"]
    trained, _ = trained_context(context, integers, print)
    if trained is not None:
        for recipe in integers:
            yield recipe, trained, "qat"


def rows_of(run: Path, data: str) -> list[dict[str, Any]]:
    """One row for each variant of a run's network."""
    source = RunSource(run)
    context = BuildContext(source, source.canonical())
    judges = source.validation()
    chosen = source.photos.of("test")
    images, geometries = source.photos.read(chosen)
    truth = source.task.targets(chosen, geometries)
    near, reference = (source.reference(i)["logits"] for i in (judges.images, images))
    rows: list[dict[str, Any]] = []
    for recipe, base, how in variants(context):
        built = build(recipe, base)
        outputs, _ = candidate_outputs(built, [judges.images, images])
        mine, theirs = (found["logits"] for found in outputs)
        drop, interval = paired_drop(reference.argmax(1) == truth, theirs.argmax(1) == truth)
        rise, rise_interval = paired_rise(reference, theirs, truth)
        rows.append(
            {
                "data": data,
                "run": run.name,
                "recipe": recipe.name,
                "how": how,
                "n_validation": len(judges.images),
                "n_test": len(truth),
                "reference_accuracy": float((reference.argmax(1) == truth).mean()),
                "reference_loss": cross_entropy(reference, truth),
                "divergence_validation": float(divergences(near, mine).mean()),
                "divergence_test": float(divergences(reference, theirs).mean()),
                "agreement_test": float((reference.argmax(1) == theirs.argmax(1)).mean()),
                "drop_test": drop,
                "drop_interval": interval,
                "rise_test": rise,
                "rise_interval": rise_interval,
            }
        )
        print({k: v for k, v in rows[-1].items() if not k.startswith("n_")}, flush=True)
    return rows


def main() -> None:
    """Make the data, train, build, and write the rows."""
    given = parser(__doc__).parse_args()
    work: Path = given.work
    rows: list[dict[str, Any]] = []
    for data in ("digits", "cells"):
        folder = work / f"gate-{data}"
        if not folder.is_dir():
            digits(folder) if data == "digits" else cells(given.data.parent / "bccd", folder)
        for backbone, strategy in NETWORKS:
            run = work / f"gate-{data}-{backbone}-{strategy}"
            if not (run / "report.html").is_file():
                edgetl.finetune(
                    folder,
                    out=run,
                    backbone=backbone,
                    weights="none" if strategy == "scratch" else str(given.weights),
                    strategy=strategy,
                    size=SIDE,
                    fit="squash",
                    flip=False,
                    epochs=60 if strategy == "scratch" else None,
                    overwrite=True,
                )
            rows += rows_of(run, data)
            write_rows("gate", rows)


if __name__ == "__main__":
    main()
