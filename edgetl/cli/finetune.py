"""`edgetl finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import edgetl
from edgetl.cli.common import Debug, Json, emit, message, show, table, verb
from edgetl.cli.rows import evaluation_row, stage_row
from edgetl.errors import shell
from edgetl.options import FinetuneOptions
from edgetl.runs.record import RunRecord


@verb
def finetune(
    data: Annotated[
        Path,
        typer.Argument(
            help="Photos: SPLIT/<class>/* or <class>/*. SPLIT is train, training; validation, "
            "validate, valid, val, dev, eval, evaluation; test, testing; in any case, also as "
            "train_set or 'Test Images'. Classes are in the order of text (1, 10, 2)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The run folder to write.")],
    options: FinetuneOptions,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is in --out.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a classifier on a folder of photos: probe, then fine-tune, and ship the better."""
    record = edgetl.finetune(
        data, out=out, resume=resume, overwrite=overwrite, progress=not json, options=options
    )
    if json:
        emit(_document(out, record))
    else:
        _print(out, record)


def _document(out: Path, record: RunRecord) -> dict[str, Any]:
    return {
        "run": str(out),
        "seconds": record.seconds,
        "metrics": {
            "validation": evaluation_row(record.validation),
            "test": evaluation_row(record.test),
        },
        "strategy": record.strategy,
        "weights_origin": record.weights_origin,
        "skipped_files": record.data.skipped_files,
        "warnings": [*record.data.warnings, *record.weights_origin.notes, *record.warnings],
        "stages": [stage_row(stage) for stage in record.stages],
        "backbone": record.config.backbone,
        "labels": record.task.labels,
        "timings_s": record.timings_s,
    }


def _print(out: Path, record: RunRecord) -> None:
    known = record.validation.metrics if record.validation else {}
    metrics = [m for m in record.task.metrics if m.name in known]
    rows = [
        [name, *(f"{scores.metrics[m.name]:.4f}" for m in metrics), str(scores.n)]
        for name, scores in (("validation", record.validation), ("test", record.test))
        if scores is not None
    ]
    columns = ["split", *(f"{m.title}#" for m in metrics), "photos#"]
    show(table(f"{record.config.backbone}, {record.strategy}", columns, rows))
    if record.test is None:
        message("there is no test split, so there are no test metrics")
    message(f"weights it started from: {record.weights_origin.source}")
    message(f"{out} finished in {record.seconds:.1f} s; open {out / 'report.html'}")
    bundle = Path(f"{out.name or 'model'}.edgetl")
    message(f"next: {shell('edgetl', 'export', out, '--target', 'cpu', '--out', bundle)}")
