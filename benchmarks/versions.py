"""The chosen candidate of two versions of edgetl, each run by its own version, in turns.

    python -m benchmarks.versions --old PYTHON [--results NAME] NAME=OLD.edgetl,NEW.edgetl …

PYTHON is an interpreter that holds the earlier version. For each NAME two processes are loaded,
one a version, and take turns of as many runs; both are only ever asked through the public API.
Writes results/versions.jsonl (or NAME.jsonl) with the time of every run. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import write_rows

TURNS, RUNS, WARMUP = 24, 40, 30
WORKER = f"""
import json, sys, time
import numpy as np
import edgetl
with edgetl.load(sys.argv[1]) as model:
    run = getattr(model, "run", None) or model.logits  # of versions before named outputs
    image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    for _ in range({WARMUP}):
        run(image)
    print(json.dumps(getattr(model.candidate, "name", model.candidate.recipe)), flush=True)
    for _ in sys.stdin:
        taken = []
        for _ in range({RUNS} + 1):
            start = time.perf_counter_ns()
            run(image)
            taken.append(time.perf_counter_ns() - start)
        print(json.dumps(taken[1:]), flush=True)
"""


def race(name: str, workers: list[tuple[str, Path]]) -> dict[str, Any]:
    """Medians and samples of the old and the new version's chosen candidate."""
    running = [
        subprocess.Popen(
            [python, "-c", WORKER, str(bundle.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=bundle.parent,
        )
        for python, bundle in workers
    ]
    chosen = [_answer(worker) for worker in running]
    samples: tuple[list[int], list[int]] = ([], [])
    for _ in range(TURNS):
        for worker, kept in zip(running, samples, strict=True):
            assert worker.stdin is not None
            print(file=worker.stdin, flush=True)
            kept.extend(_answer(worker))
    for worker in running:
        worker.communicate()
    old, new = (float(np.median(kept)) / 1e6 for kept in samples)
    return {
        "name": name,
        "old": chosen[0],
        "new": chosen[1],
        "old_p50_ms": old,
        "new_p50_ms": new,
        "ratio": new / old,
        "old_samples_ns": samples[0],
        "new_samples_ns": samples[1],
    }


def _answer(worker: subprocess.Popen[str]) -> Any:
    assert worker.stdout is not None
    return json.loads(worker.stdout.readline())


def main() -> None:
    """Race every pair, and write the rows."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--old", required=True)
    options.add_argument("--results", default="versions")
    options.add_argument("pairs", nargs="+")
    given = options.parse_args()
    rows = []
    for pair in given.pairs:
        name, _, paths = pair.partition("=")
        old, _, new = paths.partition(",")
        row = race(name, [(given.old, Path(old)), (sys.executable, Path(new))])
        print({key: value for key, value in row.items() if "samples" not in key}, flush=True)
        rows.append(row)
    write_rows(given.results, rows)


if __name__ == "__main__":
    main()
