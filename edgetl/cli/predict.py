"""`edgetl predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgetl
from edgetl.cli.common import Debug, Json, emit, message, show, verb
from edgetl.data.walk import images_in
from edgetl.files import atomic_file, check_room
from edgetl.options import PredictOptions
from edgetl.tasks.base import Result, Task


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
        p for image in images for p in (images_in(image, message) if image.is_dir() else [image])
    ]
    if draw:
        check_room(draw, fix="let --draw name a folder where you may write.")
    places = _drawings(paths)
    results: list[Result] = []
    with edgetl.load(bundle, options=options) as model:
        if not json:
            described = model.describe()
            message(f"{model.candidate.name} on {described.engine} {described.version}")
        for path, place in zip(paths, places, strict=True):
            result = model.predict(path, top=options.top, keep_going=True)[0]
            results.append(result)
            if draw and result.error is None:
                drawn = model.task.draw(model.manifest.input.photo(path), result.predictions)
                with atomic_file(draw / place) as stream:
                    drawn.save(stream, "PNG")
            if not json:
                _print(result, model.task)
    if draw:
        message(f"wrote {sum(result.error is None for result in results)} drawings to {draw}")
    if json:
        emit(results)
    failed = sum(result.error is not None for result in results)
    if failed:
        message(f"error: {failed} of {len(results)} images have no prediction.")
        raise typer.Exit(1)


def _drawings(paths: list[Path]) -> list[str]:
    """A PNG's name for each photo: as the photo's, and numbered where another has that name."""
    names: list[str] = []
    for path in paths:
        name, number = f"{path.stem}.png", 1
        while name in names:
            number += 1
            name = f"{path.stem}-{number}.png"
        names.append(name)
    return names


def _print(result: Result, task: Task) -> None:
    if result.error is not None:
        message(f"error: {result.error}")
        return
    shown = "  ".join(task.text(p) for p in result.predictions)
    show(f"{result.image}  {shown}")
