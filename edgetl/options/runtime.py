"""Options of the verbs that take bundles: load, predict, evaluate, bench, build, compare."""

from __future__ import annotations

from typing import Annotated, Literal

from edgetl.engines import ENGINES
from edgetl.errors import UsageError
from edgetl.options.base import Option, Options

AUTO: Literal["auto"] = "auto"
Engine = Annotated[str, Option("Only this engine.", known=ENGINES)]
Precision = Annotated[Literal["auto", "fp32", "fp16", "bf16", "int8"], Option("Only this one.")]
Threads = Annotated[int, Option("0: every core.", low=0)]
Batch = Annotated[int, Option("Images a run.", low=1, high=1024)]


def names(_: str, text: str) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


class LoadOptions(Options, frozen=True, kw_only=True):
    """Which candidate of a bundle runs, and how."""

    engine: Engine = "auto"
    precision: Precision = "auto"
    candidate: Annotated[str, Option("A candidate by its name instead.")] = "auto"
    threads: Threads = 0

    def check(self) -> None:
        if self.candidate != AUTO and not self.engine == self.precision == AUTO:
            raise UsageError(
                f"Candidate {self.candidate} has an engine and a precision of its own.",
                fix="leave --engine and --precision away, or --candidate.",
            )


class PredictOptions(LoadOptions, frozen=True, kw_only=True):
    """Options of `edgetl predict`."""

    top: Annotated[int, Option("Classes to show.", low=1)] = 3


class EvaluateOptions(LoadOptions, frozen=True, kw_only=True):
    """Options of `edgetl evaluate`; those of a bundle's candidate are none of a run's."""

    labels: Annotated[
        str | None, Option("CSV of what is true, as finetune takes it.", metavar="<path>")
    ] = None


class BenchOptions(Options, frozen=True, kw_only=True):
    """Options of `edgetl bench`."""

    engine: Engine = "auto"
    precision: Precision = "auto"
    threads: Threads = 0
    batch: Batch = 1
    duration: Annotated[
        float, Option("Seconds for each candidate.", low=0.05, high=3600, unit=" seconds")
    ] = 3.0


class BuildOptions(Options, frozen=True, kw_only=True):
    """Options of `edgetl build`."""

    engine: Engine = "auto"
    precision: Precision = "auto"
    batch: Batch = 1


class CompareOptions(Options, frozen=True, kw_only=True):
    """Options of `edgetl compare`."""

    engines: Annotated[
        tuple[str, ...],
        Option(
            "Compare each bundle's fastest of these, as ENGINE,ENGINE.",
            metavar="<names>",
            parse=names,
        ),
    ] = ()
    candidates: Annotated[
        tuple[str, ...],
        Option(
            "Compare these of each bundle, as ort-fp32,ov-int8.", metavar="<names>", parse=names
        ),
    ] = ()
    labels: Annotated[
        str | None,
        Option("CSV of what is true of the images, as finetune takes it.", metavar="<path>"),
    ] = None
    top: Annotated[int, Option("Images to show, worst first.")] = 10
    threads: Threads = 0

    def check(self) -> None:
        if self.engines and self.candidates:
            raise UsageError(
                "Engines and candidates were both given.",
                fix="name engines, or candidates, not both.",
            )
        if self.top < 0:
            raise UsageError(f"top is {self.top}.", fix="ask for 0 or more images.")
