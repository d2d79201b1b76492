"""`edgetl bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgetl
from edgetl.cli.common import (
    Debug,
    EngineChoice,
    Json,
    PrecisionChoice,
    emit,
    number,
    say,
    show,
    table,
    verb,
)
from edgetl.progress import status_line


@verb
def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle that `edgetl export` wrote.")],
    engine: Annotated[EngineChoice, typer.Option(help="Measure only this one.")] = "auto",
    precision: Annotated[PrecisionChoice, typer.Option(help="Measure only this one.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="0: every core.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images a run.")] = 1,
    duration: Annotated[float, typer.Option(help="Seconds for each candidate.")] = 3.0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the candidates of a bundle here, in turns; the fastest is then what runs here."""
    with status_line(show=not json) as progress:
        done = edgetl.bench(
            bundle,
            engine=engine,
            precision=precision,
            threads=threads,
            batch=batch,
            duration=duration,
            progress=progress,
        )
    for item in done.skipped:
        say(f"not measured: {item.candidate}: {item.reason} Fix: {item.fix}")
    for note in done.notes:
        say(note)
    if json:
        emit(done)
        return
    rows = [
        [
            row.candidate,
            f"{row.engine} {row.engine_version}",
            row.precision,
            str(row.batch),
            str(row.threads),
            number(row.p50_ms, 3),
            number(row.p90_ms, 3),
            number(row.p99_ms, 3),
            number(row.throughput, 1),
            number(row.peak_rss_mib, 0),
            str(len(row.samples_ns)),
            f"unstable: {row.unstable}" if row.unstable else "",
        ]
        for row in done.rows
    ]
    show(table(f"on {done.rows[0].machine}", COLUMNS, rows))


COLUMNS = [
    "recipe",
    "engine",
    "precision",
    "batch#",
    "threads#",
    "p50 ms#",
    "p90 ms#",
    "p99 ms#",
    "images/s#",
    "peak MiB#",
    "samples#",
    "",
]
