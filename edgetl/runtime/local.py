"""What this machine found out about a bundle, kept in the cache: decides which candidate runs here.

Medians and self-tests are kept for the version of the engine that they were taken with. One file
for each bundle and machine, as a home folder may be shared by several.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path

import msgspec

import edgetl
from edgetl.bundle import Candidate
from edgetl.engines import find_engine
from edgetl.errors import EngineMissingError, StorageError, UnknownNameError
from edgetl.files import CACHE, cache_folder, write_json
from edgetl.machine import this_machine
from edgetl.spec import Measurement, Record

MOST_P99, MOST_P90 = 4.0, 1.5  # × p50: on idle machines both stay below
SAME = 0.9  # a measurement of nine tenths of another's time counts as no shorter


class Timing(Record, frozen=True, kw_only=True):
    """One candidate's median, and how far to trust it."""

    engine_version: str
    p50_ms: float
    seconds: float  # that its runs took together
    noise: float  # p99 / p50
    unstable: bool  # by `instability`


class Verdict(Record, frozen=True, kw_only=True):
    """What one candidate's self-test found."""

    engine_version: str
    edgetl: str
    passed: bool
    detail: str


class Local(Record, frozen=True, kw_only=True):
    """Everything known of one bundle on one machine, by candidate."""

    fingerprint: str
    timings: dict[str, Timing] = {}
    verdicts: dict[str, Verdict] = {}


def known(bundle_sha256: str) -> Local:
    """What is kept for this machine; empty when there is nothing or no cache."""
    nothing = Local(fingerprint=this_machine().fingerprint)
    try:
        found = msgspec.json.decode(local_path(bundle_sha256).read_bytes(), type=Local)
    except (OSError, StorageError, msgspec.DecodeError):
        return nothing
    return found if found.fingerprint == nothing.fingerprint else nothing


def local_timings(bundle_sha256: str, candidates: Iterable[Candidate]) -> dict[str, Timing]:
    """By candidate what `bench` found here, with the engines as they are now."""
    timings = known(bundle_sha256).timings
    return {
        c.name: timings[c.name]
        for c in candidates
        if c.name in timings and timings[c.name].engine_version == engine_version(c.engine)
    }


def local_verdict(bundle_sha256: str, candidate: Candidate) -> Verdict | None:
    """What the self-test found here with this engine and edgetl, or None."""
    found = known(bundle_sha256).verdicts.get(candidate.name)
    if found is None or found.edgetl != edgetl.__version__:
        return None
    return found if found.engine_version == engine_version(candidate.engine) else None


def instability(p50_ms: float, p90_ms: float, p99_ms: float) -> str:
    """Why a median is not to be relied on, or "": something else kept the processor busy."""
    if p99_ms > MOST_P99 * p50_ms:
        return f"p99 is {p99_ms / p50_ms:.3g} × p50"
    return f"p90 is {p90_ms / p50_ms:.3g} × p50" if p90_ms > MOST_P90 * p50_ms else ""


def timing(row: Measurement) -> Timing:
    """A row as it is kept."""
    return Timing(
        engine_version=engine_version(row.engine),
        p50_ms=row.p50_ms,
        seconds=sum(row.samples_ns) / 1e9,
        noise=row.p99_ms / row.p50_ms,
        unstable=bool(instability(row.p50_ms, row.p90_ms, row.p99_ms)),
    )


def merged(old: dict[str, Timing], new: dict[str, Timing]) -> tuple[dict[str, Timing], str]:
    """What to keep of an earlier bench and a new one, and why the earlier one stays, if it does.

    They stay or go together, as only medians taken in turns compare well. A shorter bench, or an
    unstable one that is noisier, replaces none, but adds candidates that were not measured before.
    """
    old = {
        name: t
        for name, t in old.items()
        if name not in new or t.engine_version == new[name].engine_version
    }
    both = sorted(old.keys() & new.keys())
    if not both:
        return old | new, ""
    was, now = (min(t[name].seconds for name in both) for t in (old, new))
    if now < SAME * was:
        return new | old, f"it took {now:.3g} s a candidate, and the earlier one {was:.3g} s"
    was, now = (max(t[name].noise for name in both) for t in (old, new))
    if now > was and any(new[name].unstable for name in both):
        return new | old, f"its p99 is up to {now:.3g} × p50, and the earlier one's {was:.3g} ×"
    return new, ""


def remember(
    bundle_sha256: str,
    *,
    timings: dict[str, Timing] | None = None,
    verdicts: dict[str, Verdict] | None = None,
) -> None:
    """Replace the timings and add verdicts; StorageError when that cannot be written."""
    before = known(bundle_sha256)
    after = Local(
        fingerprint=before.fingerprint,
        timings=before.timings if timings is None else timings,
        verdicts=before.verdicts | (verdicts or {}),
    )
    if after != before:
        path = local_path(bundle_sha256)
        try:
            write_json(path, after)
        except StorageError as error:
            raise StorageError(error.message, fix=CACHE) from error


def local_path(bundle_sha256: str) -> Path:
    """The file; StorageError where there is no cache."""
    machine = this_machine().fingerprint.rpartition("#")[2]
    return cache_folder() / "measurements" / f"{bundle_sha256}-{machine}.json"


@functools.lru_cache
def engine_version(engine: str) -> str:
    """The installed version, or ""; by the package's metadata, as importing takes long."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        return importlib.metadata.version(engine)
    # a variant's package has another name, and a plug-in may be gone
    with contextlib.suppress(EngineMissingError, UnknownNameError):
        return find_engine(engine).version()
    return ""
