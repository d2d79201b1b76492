"""Build ahead what the first `bench` or `predict` would build: engines that fit only this machine.

Of edgetl's own engines only one has such a step, and needs a GPU for it: that was not executed so
far; every refusal was.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

import msgspec

from edgetl.bundle import Bundle, Candidate, open_bundle
from edgetl.engines import ENGINES, Builder, Options, find_engine, ready_engine
from edgetl.errors import EngineError, EngineMissingError, StorageError, shell
from edgetl.options import BuildOptions, takes
from edgetl.runtime.choose import matching
from edgetl.runtime.session import check_batch
from edgetl.spec import Record

LOG = logging.getLogger("edgetl")


class BuiltEngine(Record, frozen=True, kw_only=True):
    """One engine that lies in the cache now."""

    candidate: str = msgspec.field(name="recipe")  # the key has always been called so
    engine: str
    engine_version: str
    precision: str
    batch: int
    cached: bool  # it lay there before
    build_s: float
    size_mib: float
    placement: str  # what runs on a DLA, if anything


class NotBuilt(Record, frozen=True, kw_only=True):
    """A candidate that this machine cannot build, and why."""

    candidate: str = msgspec.field(name="recipe")  # the key has always been called so
    reason: str
    fix: str


class Built(Record, frozen=True, kw_only=True):
    """What one `build` did, in the bundle's order."""

    engines: tuple[BuiltEngine, ...]
    skipped: tuple[NotBuilt, ...]
    ready: tuple[str, ...]  # candidates that run as they are


@takes(BuildOptions)
def build(
    bundle: str | os.PathLike[str],
    *,
    progress: Callable[[str], None] = lambda _: None,
    options: BuildOptions | None = None,
    **changes: Any,
) -> Built:
    """Build the engines of every matching candidate for `batch` images a run.

    Raises EngineError when no candidate needs it or none could be built (EngineMissingError when
    TensorRT or its GPU is not here), and StorageError when an engine cannot be kept.
    """
    asked = BuildOptions.of(options, changes)
    with open_bundle(bundle) as opened:
        check_batch(opened, asked.batch)
        found = matching(opened, asked.engine, asked.precision)
        wanted = [c for c in found if builds(c)]
        ready = tuple(c.name for c in found if not builds(c))
        if not wanted:
            raise EngineError(
                f"Nothing to build in {opened.path}: {', '.join(ready)} run as they are.",
                fix=f"run `{shell('edgetl', 'bench', opened.path)}`.",
            )
        done: list[BuiltEngine] = []
        failed: dict[str, EngineError] = {}
        for candidate in wanted:
            progress(f"preparing {candidate.name}")
            try:
                done.append(_built(opened, candidate, asked.batch))
            except EngineError as error:
                failed[candidate.name] = error
        if not done:
            raise _none_built(opened, failed)
    skipped = tuple(
        NotBuilt(candidate=name, reason=error.message, fix=error.fix)
        for name, error in failed.items()
    )
    return Built(engines=tuple(done), skipped=skipped, ready=ready)


def _none_built(bundle: Bundle, failed: dict[str, EngineError]) -> EngineError:
    absent = all(isinstance(error, EngineMissingError) for error in failed.values())
    reasons = dict.fromkeys(error.message for error in failed.values())
    fixes = dict.fromkeys(error.fix for error in failed.values() if error.fix)
    return (EngineMissingError if absent else EngineError)(
        f"This machine cannot build {', '.join(failed)} of {bundle.path}: {'; '.join(reasons)}",
        fix="; ".join(fixes),
    )


def builds(candidate: Candidate) -> bool:
    """Whether a candidate's engine, where it is known, has a build step."""
    return candidate.engine in ENGINES and find_engine(candidate.engine).builder is not None


def announce(bundle: Bundle, candidate: Candidate, batch: int) -> bool:
    """Log one warning line, and return True, when opening this candidate builds an engine first.

    For callers that open it where the engine's own line is not seen, such as in a worker process.
    Raises EngineMissingError or EngineError.
    """
    if builds(candidate):
        builder, files, options = _given(bundle, candidate)
        with contextlib.suppress(StorageError):  # of the cache: opening the candidate says it
            if (line := builder.pending(files, options, batch)) is not None:
                LOG.warning("%s", line)
                return True
    return False


def _built(bundle: Bundle, candidate: Candidate, batch: int) -> BuiltEngine:
    builder, files, options = _given(bundle, candidate)
    ahead = builder.prepare(files, options, batch)
    return BuiltEngine(
        candidate=candidate.name,
        engine=candidate.engine,
        engine_version=find_engine(candidate.engine).version(),
        precision=candidate.precision,
        batch=batch,
        cached=ahead.cached,
        build_s=ahead.build_s,
        size_mib=ahead.size_mib,
        placement=ahead.placement,
    )


def _given(bundle: Bundle, candidate: Candidate) -> tuple[Builder, tuple[bytes, ...], Options]:
    """What a candidate that `builds` is built by, and from."""
    builder = ready_engine(candidate.engine, candidate.session).builder
    assert builder is not None
    files = tuple(bundle.read(path) for path in candidate.artifacts)
    return builder, files, Options(precision=candidate.precision, session=candidate.session)
