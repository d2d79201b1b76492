"""What an export tries beyond whole recipes: trained integers, and mixed placements."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

from edgetl.bundle.manifest import Candidate, FrontPoint
from edgetl.errors import TraceError, missing_extra
from edgetl.exporter.backends import backend_of
from edgetl.exporter.candidates import WHOLE, Built, build, renamed, why
from edgetl.exporter.context import BuildContext
from edgetl.exporter.gate import distance_limit
from edgetl.exporter.job import ExportJob, Say
from edgetl.exporter.quantize.calibration import Rounding
from edgetl.exporter.search.search import NEVER, Search, finalists, pareto
from edgetl.progress import progress_bar
from edgetl.runtime.choose import fastest
from edgetl.spec import Recipe

TRAINED = "qat"  # the variant from quantization-aware training


def search_pays(job: ExportJob) -> bool:
    """Whether INT8 is not both the fastest and within the gate here."""
    integers = [c for c in job.candidates.values() if c.precision == "int8" and not c.provisional]
    timed = [c for c in job.passed if c.p50_ms is not None]
    if not integers or not timed:
        return False
    return min(timed, key=lambda c: c.p50_ms or 0.0).precision != "int8"


def training_pays(job: ExportJob) -> bool:
    """Whether an INT8 candidate is further from FP32 than the gate allows."""
    return any(
        c.precision == "int8"
        and c.gate_divergence is not None
        and c.gate_divergence > distance_limit(job.source.task, "int8", job.max_drop)
        for c in job.candidates.values()
    )


def add_trained(job: ExportJob) -> list[str]:
    """Candidates of every INT8 recipe from quantization-aware training; returns what to tell."""
    integers = [recipe for recipe in job.plan.recipes if recipe.precision == "int8"]
    trained, note = trained_context(job.context, integers, job.say)
    if trained is not None:
        job.trained = trained
        for recipe in integers:
            name = f"{recipe.name}-{TRAINED}"
            make = partial(_variant, recipe, name, trained, WHOLE, trained=True)
            job.attempt(recipe, make, trained, variant=TRAINED, name=name)
    return [note]


def trained_context(
    context: BuildContext, recipes: Sequence[Recipe], say: Say
) -> tuple[BuildContext | None, str]:
    """The network after training for the recipes' integers, or None where it gained nothing.

    Also returns one line that says what was gained. EngineMissingError without PyTorch.
    """
    try:
        from edgetl.exporter.quantize.qat.train import train_integers
    except ModuleNotFoundError as error:
        raise missing_extra("export", "--qat") from error
    # weights that bear the coarsest rounding bear the finer ones too
    roundings: list[Rounding] = [backend_of(recipe).rounding(recipe) for recipe in recipes] or [
        "asymmetric"
    ]
    rounding = max(roundings, key=get_args(Rounding).index)
    try:
        trained = train_integers(context, rounding=rounding, progress=say)
    except TraceError as error:  # an operator that it does not know: the others stand
        return None, f"QAT: {why(error)}"
    if not trained.ranges:
        return None, trained.note
    return context.with_trained(trained.canonical, trained.ranges), trained.note


def add_placements(job: ExportJob, budget_s: float) -> list[str]:
    """Search mixed placements of INT8 here, and add the best ones; returns what to tell."""
    bases = _searched(job)
    if not bases:
        return ["nothing to search: no INT8 candidate runs on this machine"]
    deadline = time.monotonic() + budget_s
    notes = []
    for base in bases:
        note, stopped = _search(job, base, deadline)
        notes.append(note)
        if stopped:
            break
    return notes


def _search(job: ExportJob, base: Candidate, deadline: float) -> tuple[str, bool]:
    """Search one candidate's placements; what to tell, and whether Ctrl-C or time ended it."""
    context = job.trained if base.variant == TRAINED and job.trained else job.context
    recipe = job.built[base.name].recipe
    start = time.monotonic()
    left = max(1, int(deadline - start))
    with progress_bar(f"searching {base.name}", left, unit="s", show=job.bar) as advance:
        shown = 0

        def say(text: str) -> None:
            nonlocal shown
            done = int(time.monotonic() - start)
            advance(done - shown)
            shown = done
            if not (job.bar and sys.stderr.isatty()):  # a line would break the bar
                job.say(f"search: {text}")

        search = Search(recipe, context, deadline, say)
        trials = search.run()
    chosen = finalists(trials, backend_of(recipe).hint(recipe))
    for number, trial in enumerate(chosen, 1):
        name = f"{base.name}-mixed{number if len(chosen) > 1 else ''}"
        hinted = backend_of(recipe).with_hint(recipe, trial.hint)
        placed = partial(
            _variant,
            hinted,
            name,
            context,
            search.kept(trial.parts),
            kept_float=trial.parts,
            trained=bool(context.trained),
        )
        job.attempt(hinted, placed, context, variant="mixed", name=name)
    job.front += [
        FrontPoint(
            of=base.name,
            kept_float=trial.parts,
            hint=trial.hint,
            ratio=trial.ratio,
            divergence=trial.divergence,
        )
        for trial in pareto(trials)
        if trial.ratio < NEVER
    ]
    ended = f"; {search.stopped} ended it" if search.stopped else ""
    return (
        f"search: {len(trials)} placements of {base.name} in "
        f"{time.monotonic() - start:.0f} s, {len(chosen)} built in full{ended}",
        bool(search.stopped),
    )


def _searched(job: ExportJob) -> list[Candidate]:
    """The INT8 candidates to start from: the fastest, and other engines' that the gate refused."""
    found = [
        c
        for c in job.candidates.values()
        if c.precision == "int8" and not c.provisional and c.name in job.built
    ]
    measured = [(c, c.p50_ms) for c in found if c.p50_ms is not None]
    timed = [fastest(measured)] if measured else []
    nearest = sorted((c for c in found if c.rejected), key=lambda c: c.gate_divergence or 0.0)
    engines = {c.engine for c in timed}
    rescued = {c.engine: c for c in reversed(nearest) if c.engine not in engines}
    return [*timed, *rescued.values()]


def _variant(
    recipe: Recipe,
    name: str,
    context: BuildContext,
    keep_float: frozenset[str],
    **quantization: Any,
) -> Built:
    """A recipe's files under a name of their own, with changes of what is said of them."""
    return renamed(build(recipe, context, keep_float), name, **quantization)
