"""`edgetl build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgetl
from edgetl.cli.common import (
    Debug,
    Json,
    emit,
    message,
    number,
    show,
    table,
    verb,
)
from edgetl.options import BuildOptions
from edgetl.progress import status_line


@verb
def build(
    bundle: Annotated[Path, typer.Argument(help="A bundle that `edgetl export` wrote.")],
    options: BuildOptions,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Build a bundle's engines for this machine now, instead of at the first bench or predict."""
    with status_line(show=not json) as progress:
        done = edgetl.build(bundle, options=options, progress=progress)
    for item in done.skipped:
        message(f"not built: {item.candidate}: {item.reason} Fix: {item.fix}")
    if json:
        emit(done)
        return
    if done.ready:
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
    show(table("", COLUMNS, rows))


COLUMNS = ["recipe", "engine", "precision", "batch#", "runs on", "built in s#", "MiB#"]
