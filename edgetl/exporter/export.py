"""`edgetl export`: build every candidate of a target, gate it, measure it, write the bundle."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgetl.bundle import open_bundle
from edgetl.engines import ready_engine
from edgetl.errors import EngineError, GateError, UsageError
from edgetl.exporter.build import stand_in, why
from edgetl.exporter.job import Job, Say, choice
from edgetl.exporter.plan import BASELINE, plan
from edgetl.runtime.choose import AUTO
from edgetl.runtime.measure import measure
from edgetl.spec import (
    Candidate,
    Measurement,
    Record,
)
from edgetl.train.run import finished_run

MEASURE_SECONDS = 2.0


class Export(Record, frozen=True, kw_only=True):
    """What an export did: the bundle, the chosen recipe, and every candidate."""

    bundle: str
    sha256: str
    chosen: str
    provisional: bool
    candidates: tuple[Candidate, ...]


def export(
    run: str | os.PathLike[str],
    *,
    target: str,
    out: str | os.PathLike[str],
    precision: str = AUTO,
    engine: str = AUTO,
    max_drop: float = 0.01,
    data: str | os.PathLike[str] | None = None,
    progress: Say = lambda _: None,
    report: Callable[[list[Candidate]], None] = lambda _: None,
) -> Export:
    """Write the bundle `out` for `target` from a finished run.

    Every candidate is scored on the run's validation photos; what fails the gate is refused and
    not shipped. `report` is called with all candidates, also when the gate then fails. Raises
    RunError, DataError, UnknownNameError, UsageError, TraceError, GateError or StorageError.
    """
    if not 0 <= max_drop < 1:
        raise UsageError(f"--max-drop {max_drop} is not possible.", fix="give 0…1, such as 0.01.")
    destination = Path(out).expanduser()
    if destination.is_dir():
        raise UsageError(f"--out {destination} is a folder.", fix="name a file: NAME.edgetl")
    home = Path(run).expanduser()
    record = finished_run(home)
    device, recipes = plan(target, engine, precision)
    for recipe in recipes:
        if AUTO not in (engine, precision) or engine == recipe.engine:
            ready_engine(stand_in(recipe))
    moved_to = "" if data is None else os.fspath(data)
    job = Job(
        home,
        record,
        device,
        engine=engine,
        precision=precision,
        max_drop=max_drop,
        moved_to=moved_to,
        progress=progress,
    )
    judged, built = job.candidates(recipes)
    report(judged)
    _insist(judged, engine, precision, max_drop)
    with tempfile.TemporaryDirectory(prefix="edgetl-export-") as folder:
        trial = Path(folder) / destination.name
        job.write(trial, judged, built, [])
        rows: list[Measurement] = []
        if device.kind == "cpu":
            progress("measuring what passed, in turns")
            judged, rows = _measured(trial, judged)
            report(judged)
            _insist(judged, engine, precision, max_drop)
    sha256 = job.write(destination, judged, built, rows)
    chosen, provisional = choice(judged, job.order(judged), engine, precision)
    return Export(
        bundle=str(destination),
        sha256=sha256,
        chosen=chosen,
        provisional=provisional,
        candidates=tuple(judged),
    )


def _insist(judged: list[Candidate], engine: str, precision: str, max_drop: float) -> None:
    """GateError when the baseline fails, or all that was asked for by engine or precision."""
    baseline = next(c for c in judged if c.recipe == BASELINE)
    if baseline.rejected is not None:
        raise GateError(
            f"ONNX Runtime fp32, which every bundle carries, was refused: {baseline.rejected}.",
            fix="see `edgetl doctor`; if that finds nothing, report this with the run's run.json.",
        )
    asked = [c for c in judged if engine in (AUTO, c.engine) and precision in (AUTO, c.precision)]
    if all(c.rejected for c in asked):
        reasons = "; ".join(f"{c.recipe}: {c.rejected}" for c in asked)
        raise GateError(
            f"No candidate that was asked for passed the gate ({reasons}).",
            fix=f"allow more than --max-drop {max_drop}, or another engine or precision.",
        )


def _measured(trial: Path, judged: list[Candidate]) -> tuple[list[Candidate], list[Measurement]]:
    """Measure the trial bundle's candidates here; what cannot run after all is refused."""
    with open_bundle(trial) as opened:
        passed = [c for c in judged if c.rejected is None]
        rows, skipped = measure(opened, passed, threads=0, batch=1, duration=MEASURE_SECONDS)
    by_recipe = {row.recipe: row for row in rows}
    reasons = {item.recipe: why(EngineError(item.reason, fix=item.fix)) for item in skipped}
    result = []
    for candidate in judged:
        row = by_recipe.get(candidate.recipe)
        changes: dict[str, Any] = {}
        if row is not None:
            changes = {"p50_ms": row.p50_ms, "p90_ms": row.p90_ms, "measured_on": row.machine}
        elif candidate.recipe in reasons:
            changes = {"rejected": reasons[candidate.recipe]}
        result.append(msgspec.structs.replace(candidate, **changes))
    return result, rows
