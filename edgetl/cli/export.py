"""`edgetl export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

import edgetl
from edgetl.bundle.manifest import Candidate, FrontPoint
from edgetl.cli.common import (
    Answer,
    Debug,
    Json,
    message,
    number,
    show,
    table,
    verb,
)
from edgetl.cli.rows import candidate_row
from edgetl.options import ExportOptions
from edgetl.recipes import find_device

if TYPE_CHECKING:
    from edgetl.exporter.export import Export


@verb
def export(
    source: Annotated[Path, typer.Argument(help="A finished run folder, or an ONNX classifier.")],
    out: Annotated[Path, typer.Option(help="The bundle to write: NAME.edgetl.")],
    options: ExportOptions,
    json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Build, check and measure every candidate for a target; ship what passes the gate."""
    last: list[Candidate] = []

    def keep(candidates: list[Candidate]) -> None:
        last[:] = candidates

    done = None
    try:
        done = edgetl.export(
            source, out=out, options=options, progress=message, bar=not json, report=keep
        )
    finally:
        if last and not json:
            shown = [_row(c, done.chosen if done else "") for c in last]
            metric = next((name for c in last for name in c.scores), "score")
            columns = [name.replace("METRIC", metric) for name in COLUMNS]
            show(table("", columns, shown))
    if not json:
        _tell(done, options)
    rows = [candidate_row(c, done.task) for c in done.candidates]
    return msgspec.to_builtins(done) | {"candidates": rows}, []


def _tell(done: Export, options: ExportOptions) -> None:
    """What the table of candidates does not say."""
    if done.front:
        title = "fastest to nearest to FP32: placements that no other one beats"
        show(table(title, FRONT, [_placement(p) for p in done.front]))
    for note in done.notes:
        message(note)
    chosen = next(c for c in done.candidates if c.name == done.chosen)
    if chosen.regressions:
        lost = ", ".join(f"{c.label} ({c.lost} of {c.n})" for c in chosen.regressions)
        message(f"{done.chosen} has fewer photos right than the reference in: {lost}")
    for name in options.target.split(","):
        if not find_device(name.strip()).runtime:
            message(
                f"{name} is below what the runtime supports: unpack the bundle and use its ONNX"
            )
    message(_verdict(done, qat=options.qat != "never"))


def _verdict(done: Export, *, qat: bool) -> str:
    """What was chosen, and whether INT8 was worth it."""
    state = (
        "provisional: choose by `edgetl bench` on the device" if done.provisional else "measured"
    )
    text = f"{done.bundle}: {done.chosen} is chosen ({state})"
    rows = {c.name: c for c in done.candidates}
    chosen, integers = rows[done.chosen], [c for c in rows.values() if c.precision == "int8"]
    if chosen.precision == "int8" or not integers:
        return text
    refused = [c for c in integers if c.rejected and c.agreement is not None]
    mend = "" if qat or not refused else "; --qat auto may mend what the gate refused"
    if all(c.rejected for c in integers):
        return f"{text}; keep {chosen.precision}: every INT8 candidate was refused{mend}"
    timed = [c for c in integers if c.p50_ms is not None and not c.rejected]
    if not timed or chosen.p50_ms is None:
        return text
    best = min(timed, key=lambda c: c.p50_ms or 0.0)
    return (
        f"{text}; keep {chosen.precision}: {number(chosen.p50_ms, 3)} ms against "
        f"{number(best.p50_ms, 3)} ms of {best.name}{mend}"
    )


FRONT = ["search of", "kept in float", "rest in", "× whole INT8#", "divergence#"]


def _placement(item: FrontPoint) -> list[str]:
    return [
        item.of,
        ", ".join(item.kept_float) or "nothing",
        item.hint or "–",
        number(item.ratio, 3),
        number(item.divergence),
    ]


COLUMNS = [
    "candidate",
    "engine",
    "precision",
    "METRIC#",
    "drop#",
    "95 % interval#",
    "n#",
    "agreement#",
    "divergence#",
    "p50 ms#",
    "verdict",
]


def _row(candidate: Candidate, chosen: str) -> list[str]:
    score = next(iter(candidate.scores.values()), None)
    low, high = (score.interval if score else None) or (None, None)
    interval = "–" if low is None else f"{number(low)}…{number(high)}"
    verdict = candidate.rejected or ("chosen" if candidate.name == chosen else "passed")
    if candidate.undecidable and not candidate.rejected:
        verdict += f"; undecidable by {next(iter(candidate.scores))}"
    if candidate.checked_with.partition(" ")[0] not in ("", candidate.engine):
        verdict += f"; scored by {candidate.checked_with}"
    return [
        candidate.name,
        candidate.engine,
        candidate.precision,
        number(score.value if score else None),
        number(score.drop if score else None),
        interval,
        str(candidate.n),
        number(candidate.agreement),
        number(candidate.gate_divergence),
        number(candidate.p50_ms, 3),
        ("refused: " if candidate.rejected else "") + verdict,
    ]
