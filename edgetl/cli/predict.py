"""`edgetl predict` and `edgetl evaluate`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

import edgetl
from edgetl.cli.common import Debug, Json, emit, message, number, show, table, verb
from edgetl.cli.rows import evaluation_row
from edgetl.data.found import skipped_line
from edgetl.data.samples import real_path
from edgetl.data.walk import images_in
from edgetl.errors import ImageError, UsageError
from edgetl.files import atomic_file, check_room
from edgetl.options import EvaluateOptions, PredictOptions
from edgetl.spec import SkippedFile
from edgetl.tasks.base import TASKS, Result, Task


@verb
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle that `edgetl export` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    options: PredictOptions,
    draw: Annotated[
        Path | None,
        typer.Option(help="Write each photo with its predictions drawn on it to this folder."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Classify images; one that cannot be read has an error in its row, and the exit code is 1."""
    paths = [
        p
        for image in map(real_path, images)
        for p in (images_in(image, message) if image.is_dir() else [image])
    ]
    if draw:
        check_room(draw, fix="let --draw name a folder where you may write.")
    places = _drawings(paths)
    given = {path.resolve() for path in paths}
    if draw and (same := next((p for p in places if (draw / p).resolve() in given), None)):
        raise UsageError(
            f"--draw {draw} would write over the photo {same}.", fix="name another folder."
        )
    drawn = 0
    results: list[Result] = []
    with edgetl.load(bundle, options=options) as model:
        if not json:
            described = model.describe()
            message(f"{model.candidate.name} on {described.engine} {described.version}")
        for path, place in zip(paths, places, strict=True):
            result = model.predict(path, top=options.top, keep_going=True)[0]
            results.append(result)
            if draw and result.error is None:
                try:
                    photo = model.manifest.input.photo(path)
                except ImageError as error:  # such as a photo that is too large to be drawn whole
                    message(f"{path} is not drawn: {error.message}")
                else:
                    with atomic_file(draw / place) as stream:
                        model.task.draw(photo, result.predictions).save(stream, "PNG")
                    drawn += 1
            if not json:
                _print(result, model.task)
    if draw:
        message(f"wrote {drawn} drawings to {draw}")
    if json:
        emit(results)
    failed = sum(result.error is not None for result in results)
    if failed:
        message(f"error: {failed} of {len(results)} images have no prediction.")
        raise typer.Exit(1)


def _drawings(paths: list[Path]) -> list[str]:
    """A PNG's name for each photo: as the photo's, and numbered where another has that name."""
    names: dict[str, None] = {}  # in order
    used = Counter[str]()
    for path in paths:
        name = f"{path.stem}.png"
        while name in names:
            used[path.stem] += 1
            name = f"{path.stem}-{used[path.stem] + 1}.png"
        names[name] = None
    return list(names)


def _print(result: Result, task: Task) -> None:
    if result.error is not None:
        message(f"error: {result.error}")
        return
    shown = "  ".join(task.text(p) for p in result.predictions)
    show(f"{result.image}  {shown}")


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
