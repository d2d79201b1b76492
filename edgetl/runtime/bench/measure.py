"""Measure the candidates of a bundle on this machine, and remember what decides which one runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import msgspec
import numpy as np

import edgetl
from edgetl.bundle import MEASUREMENTS, Bundle, Candidate, open_bundle
from edgetl.errors import EngineError, EngineMissingError, StorageError
from edgetl.machine import available_cores, power_mode, this_machine
from edgetl.options import BenchOptions, takes
from edgetl.runtime.bench.process import WARMUP
from edgetl.runtime.bench.turns import Run, Turns
from edgetl.runtime.choose import AUTO, matching
from edgetl.runtime.local import Timing, instability, local_timings, merged, remember, timing
from edgetl.runtime.session import check_batch, check_threads
from edgetl.runtime.trust import judged
from edgetl.spec import Measurement, Record


class Unmeasured(Record, frozen=True, kw_only=True):
    """A candidate that could not be measured here, and why."""

    candidate: str = msgspec.field(name="recipe")  # the key has always been called so
    engine: str
    precision: str
    reason: str
    fix: str


class Bench(Record, frozen=True, kw_only=True):
    """Rows of one bench, fastest first, what could not run, and what else to tell."""

    rows: tuple[Measurement, ...]
    skipped: tuple[Unmeasured, ...]
    notes: tuple[str, ...] = ()


@takes(BenchOptions)
def bench(
    bundle: str | os.PathLike[str],
    *,
    progress: Callable[[str], None] = lambda _: None,
    options: BenchOptions | None = None,
    **changes: Any,
) -> Bench:
    """Time every matching candidate for `duration` seconds each, in interleaved turns.

    Each runs in a process of its own, which is stopped while others take their turn. Medians of all
    candidates at batch 1 with all cores are remembered and decide what `load` takes here; those of
    one engine or precision alone are not, as they were not taken in turns with the others. Raises
    EngineError when nothing can be measured.
    """
    asked = BenchOptions.of(options, changes)
    engine, precision, threads, batch = asked.engine, asked.precision, asked.threads, asked.batch
    check_threads(threads)
    with open_bundle(bundle) as opened:
        check_batch(opened, batch)
        found = matching(opened, engine, precision)
        runs = Turns(
            opened, threads=threads, batch=batch, duration=asked.duration, progress=progress
        ).take(found)
        rows, skipped = _rows(opened, runs, batch), _skipped(runs)
        if not rows:
            absent = all(isinstance(run.error, EngineMissingError) for run in runs)
            reasons = "; ".join(f"{item.candidate}: {item.reason}" for item in skipped)
            fixes = dict.fromkeys(item.fix for item in skipped)
            raise (EngineMissingError if absent else EngineError)(
                f"No candidate of {opened.path} can run here: {reasons}", fix="; ".join(fixes)
            )
        whole = batch == 1 and threads in (0, available_cores()) and engine == precision == AUTO
        notes = _remember(opened, runs, rows if whole else [])
    return Bench(rows=tuple(rows), skipped=tuple(skipped), notes=tuple(notes))


def measure(
    bundle: Bundle, candidates: list[Candidate], **options: Any
) -> tuple[list[Measurement], list[Unmeasured]]:
    """Measure candidates of an opened bundle in turns, with the options of `Turns`.

    Rows come fastest first. Nothing is remembered.
    """
    runs = Turns(bundle, **options).take(candidates)
    return _rows(bundle, runs, options["batch"]), _skipped(runs)


def _remember(bundle: Bundle, runs: list[Run], rows: list[Measurement]) -> list[str]:
    """Keep self-tests and, if there are rows, their medians; returns what to tell."""
    notes = []
    verdicts = {}
    for run in runs:
        if run.error is None and run.ready is not None and run.ready.check is not None:
            verdict = judged(run.candidate, run.ready.check)
            verdicts[run.candidate.name] = verdict
            if not verdict.passed:
                notes.append(
                    f"{run.candidate.name} is not chosen here, as its self-test fails: "
                    f"{verdict.detail}"
                )
    timings: dict[str, Timing] | None = None
    if rows:
        here = local_timings(bundle.sha256, [run.candidate for run in runs])
        before = _exported(bundle, rows) | here
        timings, why = merged(before, {row.candidate: timing(row) for row in rows})
        if why:
            notes.append(
                f"an earlier measurement still decides what runs here, not this one: {why}; to "
                "replace it, measure as long as it did, on an idle machine"
            )
    try:
        remember(bundle.sha256, timings=timings, verdicts=verdicts)
    except StorageError as error:
        notes.append(f"what was found is not remembered, and will not decide what runs: {error}")
    return notes


def _exported(bundle: Bundle, rows: list[Measurement]) -> dict[str, Timing]:
    """What the export measured, if on this machine and with the engines of these rows."""
    if MEASUREMENTS not in bundle.manifest.members:
        return {}
    same = {(row.candidate, row.machine, row.engine_version, 1) for row in rows}
    lines = bundle.read(MEASUREMENTS).splitlines()
    try:
        before = [msgspec.json.decode(line, type=Measurement) for line in lines]
    except msgspec.DecodeError:  # another program's
        return {}
    return {
        row.candidate: timing(row)
        for row in before
        if (row.candidate, row.machine, row.engine_version, row.batch) in same
    }


def _skipped(runs: list[Run]) -> list[Unmeasured]:
    return [
        Unmeasured(
            candidate=run.candidate.name,
            engine=run.candidate.engine,
            precision=run.candidate.precision,
            reason=run.error.message,
            fix=run.error.fix,
        )
        for run in runs
        if run.error is not None
    ]


def _rows(bundle: Bundle, runs: list[Run], batch: int) -> list[Measurement]:
    rows = [_row(bundle, run, batch) for run in runs if run.error is None]
    return sorted(rows, key=lambda row: row.p50_ms)


def _row(bundle: Bundle, run: Run, batch: int) -> Measurement:
    assert run.ready is not None
    described = run.ready.description
    assert described is not None
    p50, p90, p99 = (float(q) for q in np.percentile(np.array(run.samples_ns), [50, 90, 99]) / 1e6)
    return Measurement(
        candidate=run.candidate.name,
        engine=described.engine,
        engine_version=described.version,
        precision=described.precision,
        provider=described.provider,
        batch=batch,
        threads=described.threads,
        warmup=WARMUP,
        samples_ns=tuple(run.samples_ns),
        p50_ms=round(p50, 4),
        p90_ms=round(p90, 4),
        p99_ms=round(p99, 4),
        unstable=instability(p50, p90, p99),
        throughput=round(batch * len(run.samples_ns) / (sum(run.samples_ns) / 1e9), 2),
        peak_rss_mib=round(run.peak_rss_mib, 1),
        load_ms=round(run.ready.load_ms, 1),
        machine=this_machine().fingerprint,
        power_mode=power_mode(),
        bundle_sha256=bundle.sha256,
        edgetl=edgetl.__version__,
        utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
