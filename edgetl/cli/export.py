"""`edgetl export`."""

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
    number,
    say,
    show,
    table,
    verb,
)
from edgetl.devices import find_device
from edgetl.spec import Candidate


@verb
def export(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    target: Annotated[str, typer.Option(help="See `edgetl devices`; cpu is this machine.")],
    out: Annotated[Path, typer.Option(help="The bundle to write: NAME.edgetl.")],
    precision: Annotated[PrecisionChoice, typer.Option(help="Try only this one.")] = "auto",
    engine: Annotated[EngineChoice, typer.Option(help="Try only this one.")] = "auto",
    max_drop: Annotated[
        float, typer.Option(help="Accuracy that a candidate may lose, as a fraction.")
    ] = 0.01,
    data: Annotated[
        Path | None, typer.Option(help="Where the photos are now, if they were moved.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Build, check and measure every candidate for a target; ship what passes the gate."""
    last: list[Candidate] = []

    def keep(candidates: list[Candidate]) -> None:
        last[:] = candidates

    done = None
    try:
        done = edgetl.export(
            run,
            target=target,
            out=out,
            precision=precision,
            engine=engine,
            max_drop=max_drop,
            data=data,
            progress=say,
            report=keep,
        )
    finally:
        if last and not json:
            show(table("", COLUMNS, [_row(c, done.chosen if done else "") for c in last]))
    if json:
        emit(done)
        return
    if not find_device(target).runtime:
        say(f"{target} is below what the runtime supports: unpack the bundle and use its ONNX")
    state = (
        "provisional: choose by `edgetl bench` on the device" if done.provisional else "measured"
    )
    say(f"{done.bundle}: {done.chosen} is chosen ({state})")


COLUMNS = [
    "recipe",
    "engine",
    "precision",
    "accuracy#",
    "reference#",
    "drop#",
    "95 % interval#",
    "n#",
    "agreement#",
    "p50 ms#",
    "verdict",
]


def _row(candidate: Candidate, chosen: str) -> list[str]:
    low, high = candidate.drop_interval or (None, None)
    interval = "–" if low is None else f"{number(low)}…{number(high)}"
    verdict = candidate.rejected or ("chosen" if candidate.recipe == chosen else "passed")
    if candidate.undecidable and not candidate.rejected:
        verdict += "; undecidable by accuracy"
    if candidate.engine == "tensorrt" and candidate.checked_with:
        verdict += f"; scored by {candidate.checked_with}"
    return [
        candidate.recipe,
        candidate.engine,
        candidate.precision,
        number(candidate.accuracy),
        number(candidate.reference_accuracy),
        number(candidate.drop),
        interval,
        str(candidate.n),
        number(candidate.agreement),
        number(candidate.p50_ms, 3),
        ("refused: " if candidate.rejected else "") + verdict,
    ]
