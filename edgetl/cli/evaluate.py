"""`edgetl evaluate`."""

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
from edgetl.cli.rows import evaluation_row
from edgetl.data.found import skipped_line
from edgetl.options import EvaluateOptions
from edgetl.spec import SkippedFile
from edgetl.tasks.base import TASKS


@verb
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder or a bundle.")],
    data: Annotated[
        Path,
        typer.Argument(help="Photos as finetune takes them; their test split if they have one."),
    ],
    options: EvaluateOptions,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Score a run or a bundle on labelled photos: accuracy, macro-F1, per class, confusion."""
    skipped: list[SkippedFile] = []
    scores = edgetl.evaluate(model, data, options=options, skipped=skipped)
    for item in skipped:
        message(skipped_line(item))
    if json:
        emit({**(evaluation_row(scores) or {}), "skipped_files": skipped})
        return
    titles = {"precision": "precision#", "recall": "recall#", "f1": "F1#"}
    if any(c.average_precision is not None for c in scores.per_class):
        titles["average_precision"] = "AP#"
    rows = [
        [c.label, *(number(getattr(c, name)) for name in titles), str(c.n)]
        for c in scores.per_class
        if c.n
    ]
    show(table("", ["class", *titles.values(), "photos#"], rows))
    cells = [
        [label, *(str(v) for v in row)]
        for label, row in zip(scores.labels, scores.confusion, strict=False)
        if sum(row)
    ]
    if scores.confusion and len(scores.labels) <= 20:
        show(table("truth \\ predicted", ["", *(f"{name}#" for name in scores.labels)], cells))
    known = (metric for name in TASKS.own for metric in TASKS.find(name).metrics)
    words = {metric.name: metric.title for metric in known}
    shown = ", ".join(f"{words.get(k, k)} {v:.4f}" for k, v in scores.metrics.items())
    show(f"{shown}, {scores.n} photos")
