"""`edgetl finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import edgetl
from edgetl.cli.common import Debug, Json, emit, say, show, table, verb
from edgetl.cli.rows import evaluation_row, stage_row
from edgetl.errors import UsageError, shell
from edgetl.recipes import parse_toml
from edgetl.runs.record import RunRecord
from edgetl.spec import Fit, Strategy, Strict, TorchDevice


class FileOptions(Strict, frozen=True, kw_only=True):
    """What --config FILE.toml may hold; the names are those of the options."""

    backbone: str | None = None
    weights: str | None = None
    strategy: Strategy | None = None
    epochs: int | None = None
    size: int | None = None
    fit: Fit | None = None
    flip: bool | None = None
    seed: int | None = None
    device: TorchDevice | None = None
    labels: str | None = None
    depth: int | None = None
    task: str | None = None


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
    backbone: Annotated[
        str | None, typer.Option(help="See `edgetl backbones`. [default: mobilenet_v2]")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="imagenet, none, or a file. [default: imagenet]")
    ] = None,
    strategy: Annotated[
        Strategy | None,
        typer.Option(help="auto: the better of probe and finetune. [default: auto]"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="[default: by the number of photos]")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels a side. [default: 224]")] = None,
    fit: Annotated[
        Fit | None, typer.Option(help="How a photo fits the square. [default: crop]")
    ] = None,
    no_flip: Annotated[
        bool, typer.Option("--no-flip", help="Never mirror training photos.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="[default: 0]")] = None,
    device: Annotated[
        TorchDevice | None, typer.Option(help="torch's device. [default: auto]")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV: path, label and, if you like, split and group.")
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(help="Bits of grey samples in 16-bit and wider files, 8…16. [default: 16]"),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="classification, multilabel, or a plug-in's. [default: classification]"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is in --out.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="TOML with these options; the command line goes first.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a classifier on a folder of photos: probe, then fine-tune, and ship the better."""
    given: dict[str, Any] = {
        "backbone": backbone,
        "weights": weights,
        "strategy": strategy,
        "epochs": epochs,
        "size": size,
        "fit": fit,
        "flip": False if no_flip else None,
        "seed": seed,
        "device": device,
        "labels": labels,
        "depth": depth,
        "task": task,
    }
    options = _from_file(config) | {k: v for k, v in given.items() if v is not None}
    record = edgetl.finetune(
        data, out=out, resume=resume, overwrite=overwrite, progress=not json, **options
    )
    if json:
        emit(_document(out, record))
    else:
        _print(out, record)


def _from_file(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        text = config.read_bytes()
    except OSError as error:
        raise UsageError(
            f"Cannot read --config {config}: {error.strerror}.", fix="give a TOML file."
        ) from error
    read = parse_toml(text, FileOptions, where=str(config))
    return {k: v for k in read.__struct_fields__ if (v := getattr(read, k)) is not None}


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
        say("there is no test split, so there are no test metrics")
    say(f"{out} finished in {record.seconds:.1f} s; open {out / 'report.html'}")
    bundle = Path(f"{out.name or 'model'}.edgetl")
    say(f"next: {shell('edgetl', 'export', out, '--target', 'cpu', '--out', bundle)}")
