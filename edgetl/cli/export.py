"""`edgetl export`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

import edgetl
from edgetl.bundle.manifest import Candidate, FrontPoint
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
from edgetl.cli.rows import candidate_row
from edgetl.devices import find_device
from edgetl.errors import UsageError
from edgetl.spec import OnnxOptions

if TYPE_CHECKING:
    from edgetl.exporter.export import Export

Text = str | None
When = Literal["auto", "always", "never"]


@verb
def export(
    source: Annotated[Path, typer.Argument(help="A finished run folder, or an ONNX classifier.")],
    target: Annotated[
        str, typer.Option(help="Devices, as cpu,jetson: see `edgetl devices`; cpu is this machine.")
    ],
    out: Annotated[Path, typer.Option(help="The bundle to write: NAME.edgetl.")],
    precision: Annotated[PrecisionChoice, typer.Option(help="Try only this one.")] = "auto",
    engine: Annotated[EngineChoice, typer.Option(help="Try only this one.")] = "auto",
    max_drop: Annotated[
        float, typer.Option(help="Accuracy and macro-F1 that a candidate may lose, as a fraction.")
    ] = 0.01,
    recipe: Annotated[
        list[Path] | None, typer.Option(help="Try this recipe (TOML) too; may be repeated.")
    ] = None,
    qat: Annotated[
        When,
        typer.Option(
            help="Quantization-aware training; auto: when an INT8 candidate is further from FP32 "
            "than the gate allows."
        ),
    ] = "auto",
    search: Annotated[
        When,
        typer.Option(
            help="Search which layers to leave in float; auto: when INT8 is not both the fastest "
            "and within the gate."
        ),
    ] = "auto",
    budget: Annotated[
        str | None,
        typer.Option(help="Longest time for the search: 90s, 10m, 1h. Without it: 10m."),
    ] = None,
    dla: Annotated[
        bool, typer.Option("--dla", help="Try a Jetson's deep learning accelerator too.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="Where a run's photos are now, if they were moved.")
    ] = None,
    calib: Annotated[
        Path | None, typer.Option(help="Photos for an ONNX file: class folders, or loose ones.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="An ONNX file's labels: a file with one a line.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Pixels a side that an ONNX file reads.")] = None,
    fit: Annotated[
        Literal["crop", "pad", "squash"] | None,
        typer.Option(help="How a photo fits an ONNX file's square. [default: crop]"),
    ] = None,
    mean: Annotated[
        Text, typer.Option(help="Mean that an ONNX file's input was normalised by: R,G,B or one.")
    ] = None,
    std: Annotated[Text, typer.Option(help="Its standard deviation: R,G,B or one.")] = None,
    range_: Annotated[
        Literal["1", "255"] | None,
        typer.Option("--range", help="Whether pixels were 0…1 or 0…255 before that. [default: 1]"),
    ] = None,
    layout: Annotated[
        Literal["auto", "nchw", "nhwc"] | None,
        typer.Option(help="Axes of an ONNX file's input. [default: auto]"),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Build, check and measure every candidate for a target; ship what passes the gate."""
    onnx = OnnxOptions(
        calib=None if calib is None else str(calib),
        labels=None if labels is None else str(labels),
        size=size,
        fit=fit,
        mean=_colours("--mean", mean),
        std=_colours("--std", std),
        range_=None if range_ is None else 255 if range_ == "255" else 1,
        layout=layout,
    )
    last: list[Candidate] = []

    def keep(candidates: list[Candidate]) -> None:
        last[:] = candidates

    done = None
    try:
        done = edgetl.export(
            source,
            target=target,
            out=out,
            precision=precision,
            engine=engine,
            max_drop=max_drop,
            data=data,
            onnx=onnx,
            recipes=recipe or [],
            dla=dla,
            qat=qat,
            search=search,
            budget_s=None if budget is None else _seconds(budget),
            progress=say,
            bar=not json,
            report=keep,
        )
    finally:
        if last and not json:
            shown = [_row(c, done.chosen if done else "") for c in last]
            show(table("", [_renamed(last, name) for name in COLUMNS], shown))
    if json:
        rows = [candidate_row(c, done.task) for c in done.candidates]
        emit(msgspec.to_builtins(done) | {"candidates": rows})
        return
    _tell(done, target, qat=qat != "never")


def _tell(done: Export, target: str, *, qat: bool) -> None:
    """What the table of candidates does not say."""
    if done.front:
        title = "fastest to nearest to FP32: placements that no other one beats"
        show(table(title, FRONT, [_placement(p) for p in done.front]))
    for note in done.notes:
        say(note)
    chosen = next(c for c in done.candidates if c.name == done.chosen)
    if chosen.regressions:
        lost = ", ".join(f"{c.label} ({c.lost} of {c.n})" for c in chosen.regressions)
        say(f"{done.chosen} has fewer photos right than the reference in: {lost}")
    for name in target.split(","):
        if not find_device(name.strip()).runtime:
            say(f"{name} is below what the runtime supports: unpack the bundle and use its ONNX")
    say(_verdict(done, qat=qat))


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


def _colours(option: str, text: str | None) -> tuple[float, float, float] | None:
    """Three numbers, or one for all three."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise UsageError(f"{option} {text} is not one number or three.", fix="give R,G,B.")
    return values[0], values[1], values[2]


def _seconds(text: str) -> float:
    """Seconds of a time such as 90s, 10m or 1h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found:
        raise UsageError(f"--budget {text} is not a time.", fix="give one such as 90s, 10m or 1h.")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


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
    "score#",
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
        verdict += "; undecidable by accuracy"
    if candidate.engine == "tensorrt" and candidate.checked_with:
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


def _renamed(candidates: list[Candidate], column: str) -> str:
    """The column of scores is called as the task's primary metric is."""
    first = next((name for c in candidates for name in c.scores), "score")
    return f"{first}#" if column == "score#" else column
