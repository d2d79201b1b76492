"""Export at its best against plain builds: latency in interleaved rounds, accuracy, time.

    python -m benchmarks.export_search [--data DIR] [--work DIR] [--only PART]

Parts: `latency` (three backbones: what edgetl chooses against ONNX Runtime fp32 and int8, OpenVINO
f32, bf16 and int8, built plainly here from the same ONNX), `clothing` (the fine-tuned MobileNetV2
on the test split, and how long its export takes) and `cells` (EfficientNet-B0 and MobileNetV3-large
trained from scratch on crops of blood cells, INT8 with and without training for it). `clothing`
needs the run that `main_job` leaves in --work. Writes results/export_search.jsonl, replacing the
rows of the parts that ran. Run it on a quiet machine; all of it takes about 40 minutes on two
cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.cells import crops
from benchmarks.common import parser, read_rows, write_rows
from benchmarks.plain import PLAIN, plain_files
from benchmarks.random_source import RandomSource
from edgetl.bundle import open_bundle, write_bundle
from edgetl.bundle.manifest import Artifact, Candidate
from edgetl.cli.rows import candidate_row
from edgetl.exporter.export import measure_here
from edgetl.exporter.job import ExportJob
from edgetl.exporter.plan import Plan, plan
from edgetl.exporter.sources.base import Source
from edgetl.exporter.variants import add_placements
from edgetl.files import sha256_bytes
from edgetl.runtime.bench.measure import measure
from edgetl.spec import Measurement, Recipe

BACKBONES = ("mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0")
SECONDS = 1.5  # for each candidate in each interleaved round
# with sessions of their own: where code and tensors happen to lie moves times by percents
ROUNDS = 4
BUDGET_S = 180.0
LATENCY_BUDGET_S = 120.0


def edgetl(*arguments: str | Path) -> tuple[Any, float]:
    """(JSON document, wall seconds) of a command, process start included."""
    words = [sys.executable, "-m", "edgetl", *map(str, arguments), "--json"]
    start = time.perf_counter()
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout), time.perf_counter() - start


# --- latency ------------------------------------------------------------------------------------


def searched_bundle(source: Source, path: Path) -> None:
    """Write the bundle of a network whose weights are random: all but calibration and the gate."""
    found = plan("cpu")
    open_gate = tuple(map(_for_speed, found.recipes))
    with tempfile.TemporaryDirectory() as folder:
        job = ExportJob(
            source,
            Plan(found.devices, open_gate),
            engine="auto",
            precision="auto",
            max_drop=0.999,
            progress=print,
        )
        job.try_recipes(open_gate)
        measure_here(job, Path(folder) / "trial.edgetl")
        print(*add_placements(job, LATENCY_BUDGET_S), sep="\n")
        measure_here(job, Path(folder) / "trial.edgetl")
        job.write(path)


def _for_speed(recipe: Recipe) -> Recipe:
    """The recipe without a gate; how it is calibrated decides nothing about its speed."""
    return msgspec.structs.replace(
        recipe,
        calibration=("minmax",) if recipe.calibration else (),
        calibration_images=min(64, recipe.calibration_images),
    )


def with_plain(bundle: Path, canonical: bytes, images: Any, path: Path) -> str:
    """Add the plain builds to a bundle as further candidates; returns the one edgetl chose."""
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
        members = {name: opened.read(name) for name in opened.members() if name != "manifest.json"}
    artifacts, candidates = list(manifest.artifacts), list(manifest.candidates)
    for name, files in plain_files(canonical, images).items():
        how = PLAIN[name]
        paths = tuple(f"plain/{name}{suffix}" for suffix in files)
        for member, data in zip(paths, files.values(), strict=True):
            members[member] = data
            artifacts.append(Artifact(path=member, size=len(data), sha256=sha256_bytes(data)))
        candidates.append(
            Candidate(
                name=name,
                recipe=name,
                engine=how.engine,
                precision=how.precision,
                artifacts=paths,
                session=how.session,
            )
        )
    changed = msgspec.structs.replace(
        manifest, artifacts=tuple(artifacts), candidates=tuple(candidates)
    )
    write_bundle(path, changed, members)
    return manifest.chosen


def race(name: str, bundle: Path, canonical: bytes, images: Any) -> list[dict[str, Any]]:
    """Rows of the chosen candidate and the plain ones, measured in turns, in several rounds."""
    samples: dict[str, list[int]] = {}
    stated: dict[str, Measurement] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "race.edgetl"
        chosen = with_plain(bundle, canonical, images, path)
        with open_bundle(path) as opened:
            entered = [c for c in opened.manifest.candidates if c.name in {chosen, *PLAIN}]
            for _ in range(ROUNDS):
                rows, skipped = measure(opened, entered, threads=0, batch=1, duration=SECONDS)
                assert not skipped, skipped
                for row in rows:
                    samples.setdefault(row.candidate, []).extend(row.samples_ns)
                    stated[row.candidate] = row
    medians = {recipe: float(np.median(taken)) / 1e6 for recipe, taken in samples.items()}
    best = min(medians[p] for p in PLAIN)
    print(name, {recipe: round(median / best, 3) for recipe, median in medians.items()})
    return [
        {
            "row": "latency",
            "backbone": name,
            "candidate": recipe,
            "chosen": recipe == chosen,
            "kept_float": _kept(entered, recipe),
            "ratio_to_best_plain": medians[recipe] / best,
            "p50_ms": medians[recipe],
            "p90_ms": float(np.quantile(taken, 0.9)) / 1e6,
            "engine": f"{stated[recipe].engine} {stated[recipe].engine_version}",
            "threads": stated[recipe].threads,
            "samples_ns": taken,
        }
        for recipe, taken in samples.items()
    ]


def _kept(entered: list[Candidate], recipe: str) -> list[str]:
    found = next(c.quantization for c in entered if c.name == recipe)
    return list(found.kept_float) if found else []


def latency(work: Path, data: Path, only: str | None, *, reuse: bool) -> list[dict[str, Any]]:
    """All backbones, with random weights."""
    rows: list[dict[str, Any]] = []
    for name in BACKBONES:
        if only not in (None, name):
            continue
        source = RandomSource(name, data)
        bundle = work / f"search-{name}.edgetl"
        if not (reuse and bundle.is_file()):
            searched_bundle(source, bundle)
        rows += race(name, bundle, source.canonical(), source.calibration(300)[0])
    return rows


# --- accuracy -----------------------------------------------------------------------------------


def candidates_on_test(run: Path, bundle: Path, data: Path) -> list[dict[str, Any]]:
    """A row for each candidate: scores on validation, and on the test split what shipped."""
    reference, _ = edgetl("evaluate", run, data)
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
    rows = []
    for candidate in manifest.candidates:
        row = {"row": "candidate", "run": run.name, **candidate_row(candidate, manifest.task)}
        row["chosen"] = candidate.name == manifest.chosen
        if candidate.rejected is None:
            scores, _ = edgetl("evaluate", bundle, data, "--candidate", candidate.name)
            row["test_accuracy"] = scores["accuracy"]
            row["test_drop"] = reference["accuracy"] - scores["accuracy"]
            row["test_n"] = scores["n"]
        print({k: row.get(k) for k in ("name", "drop", "test_drop", "p50_ms", "rejected")})
        rows.append(row)
    return rows


def clothing(work: Path, data: Path, *, reuse: bool) -> list[dict[str, Any]]:
    """The fine-tuned MobileNetV2: the time of a plain export, then all that edgetl can do."""
    run = work / "clothing-finetune"
    quick, bundle = work / "clothing-quick.edgetl", work / "clothing-best.edgetl"
    _, quick_s = edgetl("export", run, "--target", "cpu", "--out", quick, "--search", "never")
    rows: list[dict[str, Any]] = [_export_row(run, "all CPU candidates", quick_s)]
    if not (reuse and bundle.is_file()):
        how = ("--qat", "always", "--search", "always", "--budget", f"{BUDGET_S:.0f}s")
        _, best_s = edgetl("export", run, "--target", "cpu", "--out", bundle, *how)
        rows.append(_export_row(run, " ".join(how), best_s))
    from edgetl.exporter.sources.run import RunSource

    source = RunSource(run)
    rows += race("mobilenet_v2, fine-tuned", bundle, source.canonical(), source.calibration(300)[0])
    return rows + candidates_on_test(run, bundle, data)


def _export_row(run: Path, how: str, wall_s: float) -> dict[str, Any]:
    return {"row": "export", "run": run.name, "how": how, "wall_s": wall_s}


def cells(work: Path, data: Path) -> list[dict[str, Any]]:
    """Networks with squeeze-and-excitation, trained from scratch on blood cells."""
    folder = work / "cells"
    crops(data.parent / "bccd", folder)
    rows: list[dict[str, Any]] = []
    for backbone in ("efficientnet_b0", "mobilenet_v3_large"):
        run, bundle = work / f"cells-{backbone}", work / f"cells-{backbone}.edgetl"
        if not (run / "report.html").is_file():
            edgetl(
                "finetune", folder, "--out", run, "--backbone", backbone, "--weights", "none",
                "--strategy", "scratch", "--size", "112", "--fit", "squash", "--epochs", "14",
                "--overwrite",
            )  # fmt: skip
        edgetl(
            "export",
            run,
            "--target",
            "cpu",
            "--out",
            bundle,
            "--qat",
            "always",
            "--search",
            "never",
        )
        rows += candidates_on_test(run, bundle, folder)
    return rows


def main() -> None:
    """Run the parts that are asked for and write their rows."""
    options = parser(__doc__)
    options.add_argument("--only", choices=["latency", "clothing", "cells", *BACKBONES])
    options.add_argument(
        "--reuse", action="store_true", help="score the bundle that an interrupted run exported"
    )
    given = options.parse_args()
    rows: list[dict[str, Any]] = []
    if given.only in (None, "latency", *BACKBONES):
        named = given.only if given.only in BACKBONES else None
        rows += [
            r | {"part": "latency"}
            for r in latency(given.work, given.data, named, reuse=given.reuse)
        ]
    if given.only in (None, "clothing"):
        rows += [
            r | {"part": "clothing"} for r in clothing(given.work, given.data, reuse=given.reuse)
        ]
    if given.only in (None, "cells"):
        rows += [r | {"part": "cells"} for r in cells(given.work, given.data)]
    done = {_group(row) for row in rows}
    kept = [row for row in read_rows("export_search") if _group(row) not in done]
    print(write_rows("export_search", kept + rows, keep=len(kept)))


def _group(row: dict[str, Any]) -> str:
    """Rows that are replaced together."""
    return str(row["backbone"] if row["part"] == "latency" else row["part"])


if __name__ == "__main__":
    main()
