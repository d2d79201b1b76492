"""`edgetl predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgetl
from edgetl.cli.common import Debug, Json, emit, message, show, verb
from edgetl.data.walk import images_in
from edgetl.options import PredictOptions
from edgetl.tasks.base import Result, Task


@verb
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle that `edgetl export` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    options: PredictOptions,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Classify images; one that cannot be read has an error in its row, and the exit code is 1."""
    paths = [
        p for image in images for p in (images_in(image, message) if image.is_dir() else [image])
    ]
    results: list[Result] = []
    with edgetl.load(bundle, options=options) as model:
        if not json:
            described = model.describe()
            message(f"{model.candidate.name} on {described.engine} {described.version}")
        for path in paths:
            result = model.predict(path, top=options.top, keep_going=True)[0]
            results.append(result)
            if not json:
                _print(result, model.task)
    if json:
        emit(results)
    failed = sum(result.error is not None for result in results)
    if failed:
        message(f"error: {failed} of {len(results)} images have no prediction.")
        raise typer.Exit(1)


def _print(result: Result, task: Task) -> None:
    if result.error is not None:
        message(f"error: {result.error}")
        return
    shown = "  ".join(map(task.text, result.predictions))
    show(f"{result.image}  {shown}")
