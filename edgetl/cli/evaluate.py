"""`edgetl evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
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
from edgetl.data.found import skipped_line
from edgetl.spec import SkippedFile


@verb
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder or a bundle.")],
    data: Annotated[
        Path,
        typer.Argument(help="Photos as finetune takes them; their test split if they have one."),
    ],
    engine: Annotated[EngineChoice, typer.Option(help="Engine of a bundle's candidate.")] = "auto",
    precision: Annotated[PrecisionChoice, typer.Option(help="Its precision.")] = "auto",
    candidate: Annotated[str, typer.Option(help="A candidate by its name instead.")] = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Score a run or a bundle on labelled photos: accuracy, macro-F1, per class, confusion."""
    skipped: list[SkippedFile] = []
    scores = edgetl.evaluate(
        model, data, engine=engine, precision=precision, candidate=candidate, skipped=skipped
    )
    for item in skipped:
        say(skipped_line(item))
    if json:
        emit({**msgspec.structs.asdict(scores), "skipped_files": skipped})
        return
    rows = [
        [c.label, f"{c.precision:.4f}", f"{c.recall:.4f}", f"{c.f1:.4f}", str(c.n)]
        for c in scores.per_class
        if c.n
    ]
    show(table("", ["class", "precision#", "recall#", "F1#", "photos#"], rows))
    cells = [
        [label, *(str(v) for v in row)]
        for label, row in zip(scores.labels, scores.confusion, strict=True)
        if sum(row)
    ]
    if len(scores.labels) <= 20:
        show(table("truth \\ predicted", ["", *(f"{name}#" for name in scores.labels)], cells))
    show(f"accuracy {scores.accuracy:.4f}, macro-F1 {scores.macro_f1:.4f}, {scores.n} photos")
