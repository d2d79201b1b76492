"""`edgetl bench` and `edgetl build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgetl
from edgetl.cli.common import Answer, Debug, Json, message, number, table, verb
from edgetl.options import BenchOptions, BuildOptions
from edgetl.progress import status_line


@verb
def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle that `edgetl export` wrote.")],
    options: BenchOptions,
    json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Measure the candidates of a bundle here, in turns; the fastest is then what runs here."""
    with status_line(show=not json) as progress:
        done = edgetl.bench(bundle, options=options, progress=progress)
    for item in done.skipped:
        message(f"not measured: {item.candidate}: {item.reason} Fix: {item.fix}")
    for note in done.notes:
        message(note)
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
    return done, [table(f"on {done.rows[0].machine}", MEASURED, rows)]


MEASURED = [
    "candidate",
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


@verb
def build(
    bundle: Annotated[Path, typer.Argument(help="A bundle that `edgetl export` wrote.")],
    options: BuildOptions,
    json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Build a bundle's engines for this machine now, instead of at the first bench or predict."""
    with status_line(show=not json) as progress:
        done = edgetl.build(bundle, options=options, progress=progress)
    for item in done.skipped:
        message(f"not built: {item.candidate}: {item.reason} Fix: {item.fix}")
    if done.ready and not json:
        message(f"needs no build: {', '.join(done.ready)}")
    rows = [
        [
            row.candidate,
            f"{row.engine} {row.engine_version}",
            row.precision,
            str(row.batch),
            row.placement or "GPU",
            "was there" if row.cached else number(row.build_s, 1),
            number(row.size_mib, 1),
        ]
        for row in done.engines
    ]
    return done, [table("", BUILT, rows)]


BUILT = ["candidate", "engine", "precision", "batch#", "runs on", "built in s#", "MiB#"]
