"""`edgetl predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgetl
from edgetl.cli.common import Debug, EngineChoice, Json, PrecisionChoice, emit, say, show, verb
from edgetl.data.walk import images_in
from edgetl.tasks.base import Result


@verb
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle that `edgetl export` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 3,
    engine: Annotated[EngineChoice, typer.Option(help="Engine of the candidate.")] = "auto",
    precision: Annotated[PrecisionChoice, typer.Option(help="Its precision.")] = "auto",
    candidate: Annotated[str, typer.Option(help="A candidate by its name instead.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="0: every core.")] = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Classify images; one that cannot be read has an error in its row, and the exit code is 1."""
    paths = [p for image in images for p in (images_in(image, say) if image.is_dir() else [image])]
    results: list[Result] = []
    with edgetl.load(
        bundle, engine=engine, precision=precision, candidate=candidate, threads=threads
    ) as model:
        if not json:
            described = model.describe()
            say(f"{model.candidate.name} on {described.engine} {described.version}")
        for path in paths:
            result = model.predict(path, top=top, keep_going=True)[0]
            results.append(result)
            if not json:
                _print(result)
    if json:
        emit(results)
    failed = sum(result.error is not None for result in results)
    if failed:
        say(f"error: {failed} of {len(results)} images have no prediction.")
        raise typer.Exit(1)


def _print(result: Result) -> None:
    if result.error is not None:
        say(f"error: {result.error}")
        return
    shown = "  ".join(f"{p.label} {p.probability:.3f}" for p in result.predictions)
    show(f"{result.image}  {shown}")
