"""The default export of fine-tuned networks on photos that decided nothing: the test split.

    python -m benchmarks.default_export RUN… [--against BUNDLE…]

For each run: `edgetl export --target cpu` with no other option, its wall time, what it chose, and
on the test split the chosen candidate's mean divergence from FP32, the paired rise of log-loss and
the drop of accuracy. `--against` names bundles of the same runs by an earlier version, in the same
order: the two chosen candidates are then timed in turns. Writes results/default_export.jsonl. Run
it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import write_rows
from edgetl.bundle import open_bundle
from edgetl.exporter.sources.run import RunSource
from edgetl.metrics import divergences, paired_drop, paired_rise
from edgetl.runtime.model import load
from edgetl.tasks.base import join

ROUNDS, RUNS = 40, 25


def exported(run: Path, bundle: Path) -> tuple[dict[str, Any], float]:
    """The default export's JSON document and wall seconds."""
    words = [sys.executable, "-m", "edgetl", "export", str(run), "--target", "cpu"]
    start = time.perf_counter()
    done = subprocess.run(
        [*words, "--out", str(bundle), "--json"], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout), time.perf_counter() - start


def on_test(run: Path, bundle: Path, chosen: str) -> dict[str, Any]:
    """Scores of the chosen candidate against the run's FP32 network on its test photos."""
    source = RunSource(run)
    photos = source.photos.of("test")
    images, geometries = source.photos.read(photos)
    truth = source.task.targets(photos, geometries)
    reference = source.reference(images)["logits"]
    with load(bundle, candidate=chosen) as model:
        logits = join([model.run(images[i : i + 1]) for i in range(len(images))])["logits"]
    drop, drop_interval = paired_drop(reference.argmax(1) == truth, logits.argmax(1) == truth)
    rise, rise_interval = paired_rise(reference, logits, truth)
    return {
        "n": len(truth),
        "reference_accuracy": float((reference.argmax(1) == truth).mean()),
        "divergence": float(divergences(reference, logits).mean()),
        "rise": rise,
        "rise_interval": rise_interval,
        "drop": drop,
        "drop_interval": drop_interval,
    }


def raced(bundles: tuple[Path, Path]) -> dict[str, Any]:
    """Medians of the chosen candidates of two bundles, run in turns, and their ratio."""
    samples: tuple[list[int], list[int]] = ([], [])
    names = []
    for bundle in bundles:
        with open_bundle(bundle) as opened:
            names.append(opened.manifest.chosen)
    with load(bundles[0], candidate=names[0]) as one, load(bundles[1], candidate=names[1]) as two:
        image = np.random.default_rng(0).integers(0, 256, (1, *one.input.shape), np.uint8)
        for _ in range(ROUNDS):
            for model, kept in zip((one, two), samples, strict=True):
                model.run(image)
                for _ in range(RUNS):
                    start = time.perf_counter_ns()
                    model.run(image)
                    kept.append(time.perf_counter_ns() - start)
    p50_ms = [float(np.median(kept)) / 1e6 for kept in samples]
    return {
        "p50_ms": p50_ms[0],
        "against": names[1],
        "against_p50_ms": p50_ms[1],
        "ratio": p50_ms[0] / p50_ms[1],
        "samples_ns": samples[0],
        "against_samples_ns": samples[1],
    }


def main() -> None:
    """Export, score, race, and write the rows."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("runs", type=Path, nargs="+")
    options.add_argument("--against", type=Path, nargs="*", default=[])
    given = options.parse_args()
    rows: list[dict[str, Any]] = []
    for number, run in enumerate(given.runs):
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / f"{run.name}.edgetl"
            done, wall_s = exported(run, bundle)
            row = {"run": run.name, "chosen": done["chosen"], "wall_s": wall_s}
            row |= on_test(run, bundle, done["chosen"])
            if number < len(given.against):
                row |= raced((bundle, given.against[number]))
        print({key: value for key, value in row.items() if "samples" not in key}, flush=True)
        rows.append(row)
        write_rows("default_export", rows)


if __name__ == "__main__":
    main()
