"""`edgetl build`."""

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
def build(
    bundle: Annotated[Path, typer.Argument(help="A bundle that `edgetl export` wrote.")],
    engine: Annotated[EngineChoice, typer.Option(help="Build only for this one.")] = "auto",
    precision: Annotated[PrecisionChoice, typer.Option(help="Build only this one.")] = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Images a run.")] = 1,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Build a bundle's engines for this machine now, instead of at the first bench or predict."""
    with status_line(show=not json) as progress:
        done = edgetl.prepare(
            bundle, engine=engine, precision=precision, batch=batch, progress=progress
        )
    for item in done.skipped:
        say(f"not built: {item.candidate}: {item.reason} Fix: {item.fix}")
    if json:
        emit(done)
        return
    if done.ready:
        say(f"needs no build: {', '.join(done.ready)}")
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
    show(table("", COLUMNS, rows))


COLUMNS = ["recipe", "engine", "precision", "batch#", "runs on", "built in s#", "MiB#"]
