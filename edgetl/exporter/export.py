"""`edgetl export`: build every candidate of a target, gate it, measure it, write the bundle."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgetl.bundle import open_bundle
from edgetl.bundle.manifest import Candidate, FrontPoint
from edgetl.errors import EngineError, GateError, UsageError
from edgetl.exporter.backends import BASELINE, backend_of
from edgetl.exporter.job import ExportJob, Say
from edgetl.exporter.plan import Plan, plan
from edgetl.exporter.sources.open import open_source
from edgetl.exporter.variants import add_placements, add_trained, search_pays, training_pays
from edgetl.files import check_replaceable, check_room, check_temporary_room, user_path
from edgetl.options import ExportOptions, takes
from edgetl.options.export import When
from edgetl.runtime.bench.measure import measure
from edgetl.runtime.choose import AUTO
from edgetl.spec import Record
from edgetl.tasks.base import Task

MEASURE_SECONDS = 2.0
BUDGET_S = 600.0


class Export(Record, frozen=True, kw_only=True):
    """What an export did: the bundle, the chosen candidate, and every candidate."""

    bundle: str
    sha256: str
    chosen: str
    provisional: bool
    task: Task
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()
    front: tuple[FrontPoint, ...] = ()


@takes(ExportOptions)
def export(
    source: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    progress: Say = lambda _: None,
    bar: bool = False,
    report: Callable[[list[Candidate]], None] = lambda _: None,
    options: ExportOptions | None = None,
    **changes: Any,
) -> Export:
    """Write the bundle `out` for the devices `target` (names, separated by commas).

    `source` is a finished run, or an ONNX classifier, which `calib` and the other fields of
    OnnxOptions describe; its photos score every candidate, and what fails the gate is not shipped.
    `bar` draws the search's progress on a terminal; `report` is called with all candidates, also
    when the gate then fails. Raises EdgetlErrors of every kind.
    """
    asked = ExportOptions.of(options, changes)
    engine, precision = asked.engine, asked.precision
    destination, start = user_path(out), user_path(source)
    planned = plan(
        asked.target,
        engine,
        precision,
        dla=asked.dla,
        extra=[Path(path) for path in asked.recipes],
    )
    _check(destination, planned, asked)
    for recipe in planned.recipes:
        if AUTO not in (engine, precision) or engine == recipe.engine:
            backend_of(recipe).proxy(recipe).ready()
    opened = open_source(start, asked, progress=progress)
    with tempfile.TemporaryDirectory(prefix="edgetl-export-") as folder:
        job = ExportJob(
            opened,
            planned,
            engine=engine,
            precision=precision,
            max_drop=asked.max_drop,
            progress=progress,
            bar=bar,
        )
        notes = _try_all(job, Path(folder) / destination.name, asked, report)
        sha256 = job.write(destination)
    chosen, provisional = job.choice()
    return Export(
        bundle=str(destination),
        sha256=sha256,
        chosen=chosen,
        provisional=provisional,
        task=opened.task,
        candidates=tuple(job.candidates.values()),
        notes=tuple(notes),
        front=tuple(job.front),
    )


def _try_all(
    job: ExportJob,
    trial: Path,
    asked: ExportOptions,
    report: Callable[[list[Candidate]], None],
) -> list[str]:
    """Build, judge and measure every candidate that is asked for; returns what to tell."""
    qat, search = asked.qat, asked.search
    job.try_recipes(job.plan.recipes)
    trains = qat == "always" or (qat == "auto" and training_pays(job))
    notes = add_trained(job) if trains else []
    report(list(job.candidates.values()))
    if search == "never" or not job.plan.measured:
        _insist(job, qat)
    _insist_on_baseline(job)
    measure_here(job, trial)
    if search == "always" or (search == "auto" and search_pays(job)):
        before = set(job.built)
        notes += add_placements(job, BUDGET_S if asked.budget_s is None else asked.budget_s)
        if set(job.built) != before:
            measure_here(job, trial)
    report(list(job.candidates.values()))
    _insist(job, qat)
    return notes


def _check(destination: Path, planned: Plan, asked: ExportOptions) -> None:
    """UsageError for what cannot be had of a plan, before anything is computed."""
    if destination.is_dir():
        raise UsageError(f"--out {destination} is a folder.", fix="name a file: NAME.edgetl")
    check_replaceable(destination, ".edgetl", b"PK", "--out")
    integers = any(recipe.precision == "int8" for recipe in planned.recipes)
    if asked.qat == "always" and not integers:
        raise UsageError(
            "--qat always trains for INT8, but no INT8 recipe is tried.",
            fix="leave --qat or --precision away, or choose a target with INT8 recipes.",
        )
    if asked.search == "always" and not integers:
        raise UsageError(
            "--search always places INT8, but no INT8 recipe is tried.",
            fix="leave --search or --precision away, or choose a target with INT8 recipes.",
        )
    if asked.search == "always" and not planned.measured:
        raise UsageError(
            "--search always measures INT8 placements on this machine, which none of the targets "
            "is.",
            fix="add cpu to --target, or leave --search away.",
        )
    check_room(destination.parent, fix="let --out name a file where you may write.")
    check_temporary_room()


def _insist_on_baseline(job: ExportJob) -> None:
    """GateError when the baseline was refused."""
    baseline = job.candidates[BASELINE]
    if baseline.rejected is not None:
        raise GateError(
            f"{BASELINE}, which every bundle carries, was refused: {baseline.rejected}.",
            fix="see `edgetl doctor`; if that finds nothing, report this with the run's run.json.",
        )


def _insist(job: ExportJob, qat: When) -> None:
    """GateError when the baseline was refused, or all that was asked for."""
    _insist_on_baseline(job)
    asked = [
        c
        for c in job.candidates.values()
        if job.engine in (AUTO, c.engine) and job.precision in (AUTO, c.precision)
    ]
    if all(c.rejected for c in asked):
        reasons = "; ".join(f"{c.name}: {c.rejected}" for c in asked)
        trains = qat == "never" and all(c.precision == "int8" for c in asked)
        more = ", or train it for INT8 by --qat auto" if trains else ""
        raise GateError(
            f"No candidate that was asked for passed the gate ({reasons}).",
            fix=f"allow more than --max-drop {job.max_drop}, or another engine or precision{more}.",
        )


def measure_here(job: ExportJob, trial: Path) -> None:
    """Measure in turns what passed and is meant for this machine; `trial` is a bundle to write."""
    names = {c.name for c in job.passed if not c.provisional}
    if not names:
        return
    job.say("measuring what passed, in turns")
    job.write(trial)
    with open_bundle(trial) as opened:
        wanted = [c for c in opened.manifest.candidates if c.name in names]
        rows, skipped = measure(opened, wanted, threads=0, batch=1, duration=MEASURE_SECONDS)
    job.rows = [msgspec.structs.replace(row, bundle_sha256=None) for row in rows]  # of the trial
    for row in rows:
        job.candidates[row.candidate] = msgspec.structs.replace(
            job.candidates[row.candidate],
            measured_on=row.machine,
            p50_ms=row.p50_ms,
            p90_ms=row.p90_ms,
        )
    if unstable := [f"{row.candidate}: {row.unstable}" for row in rows if row.unstable]:
        job.say(f"unstable, as something else kept the processor busy: {', '.join(unstable)}")
    for item in skipped:  # what cannot run after all
        job.refuse(item.candidate, EngineError(item.reason, fix=item.fix))
