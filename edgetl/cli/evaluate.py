"""`edgetl evaluate`."""

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
    say,
    show,
    table,
    verb,
)
from edgetl.cli.rows import evaluation_row
from edgetl.data.found import skipped_line
from edgetl.spec import SkippedFile


@verb
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder or a bundle.")],
    data: Annotated[
        Path,
        typer.Argument(help="Photos as finetune takes them; their test split if they have one."),
    ],
    labels: Annotated[
        Path | None, typer.Option(help="CSV of what is true, as finetune takes it.")
    ] = None,
    engine: Annotated[EngineChoice, typer.Option(help="Engine of a bundle's candidate.")] = "auto",
    precision: Annotated[PrecisionChoice, typer.Option(help="Its precision.")] = "auto",
    candidate: Annotated[str, typer.Option(help="A candidate by its name instead.")] = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Score a run or a bundle on labelled photos: accuracy, macro-F1, per class, confusion."""
    skipped: list[SkippedFile] = []
    scores = edgetl.evaluate(
        model,
        data,
        labels=labels,
        engine=engine,
        precision=precision,
        candidate=candidate,
        skipped=skipped,
    )
    for item in skipped:
        say(skipped_line(item))
    if json:
        emit({**(evaluation_row(scores) or {}), "skipped_files": skipped})
        return
    rows = [
        [c.label, f"{c.precision:.4f}", f"{c.recall:.4f}", f"{c.f1:.4f}", str(c.n)]
        for c in scores.per_class
        if c.n
    ]
    show(table("", ["class", "precision#", "recall#", "F1#", "photos#"], rows))
    cells = [
        [label, *(str(v) for v in row)]
        for label, row in zip(scores.labels, scores.confusion, strict=False)
        if sum(row)
    ]
    if scores.confusion and len(scores.labels) <= 20:
        show(table("truth \\ predicted", ["", *(f"{name}#" for name in scores.labels)], cells))
    shown = ", ".join(f"{k.replace('_f1', '-F1')} {v:.4f}" for k, v in scores.metrics.items())
    show(f"{shown}, {scores.n} photos")
