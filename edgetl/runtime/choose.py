"""Which candidate of a bundle runs here."""

from __future__ import annotations

import re

from edgetl.bundle import Bundle, Candidate
from edgetl.engines import Missing, check_settings, find_engine, missing
from edgetl.errors import EngineError, EngineMissingError, shell
from edgetl.machine import this_machine
from edgetl.registry import look_up
from edgetl.runtime.local import local_timings

AUTO = "auto"
TIE = 1.02  # medians this near are taken as equal: another run would order them otherwise


def shipped(bundle: Bundle) -> list[Candidate]:
    """The candidates that passed and are in the file.

    EngineError when any of them sets an option that it may not: such a bundle is not to be trusted.
    """
    found = [c for c in bundle.manifest.candidates if c.rejected is None and c.artifacts]
    for candidate in found:
        check_settings(candidate.engine, candidate.session)
    return found


def named(bundle: Bundle, name: str) -> Candidate:
    """A shipped candidate by its name; UnknownNameError, or EngineError when it was refused."""
    rejected = listed(bundle, name).rejected
    if rejected is not None:
        raise EngineError(
            f"Candidate {name} of {bundle.path} was refused: {rejected}.",
            fix=f"choose another one: `{shell('edgetl', 'inspect', bundle.path)}` lists them.",
        )
    return next(c for c in shipped(bundle) if c.name == name)


def listed(bundle: Bundle, name: str) -> Candidate:
    """A candidate by its name, shipped or refused; UnknownNameError where there is none."""
    known = {c.name: c for c in bundle.manifest.candidates}
    return look_up(name, known, "candidate", listing=shell("edgetl", "inspect", bundle.path))


def unfit(candidate: Candidate) -> Missing | None:
    """Why a candidate cannot run on this machine, or None."""
    here = this_machine().arch
    if candidate.arch and here not in candidate.arch:
        meant = " or ".join(candidate.arch)
        return Missing(f"It is meant for {meant}, and this machine is {here}.", "run it there")
    least = _numbers(candidate.min_engine)
    reason = missing(candidate.engine, candidate.session)
    if reason is None and least and _numbers(find_engine(candidate.engine).version()) < least:
        version = find_engine(candidate.engine).version()
        reason = Missing(
            f"It needs {candidate.engine} {candidate.min_engine}, and {version} is here.",
            f"install a newer {candidate.engine}",
        )
    return reason


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def matching(bundle: Bundle, engine: str = AUTO, precision: str = AUTO) -> list[Candidate]:
    """Shipped candidates of an engine and precision; EngineError when there is none."""
    found = [
        c
        for c in shipped(bundle)
        if engine in (AUTO, c.engine) and precision in (AUTO, c.precision)
    ]
    if found:
        return found
    refused = [
        f"{c.name} was refused: {c.rejected}"
        for c in bundle.manifest.candidates
        if c.rejected and engine in (AUTO, c.engine) and precision in (AUTO, c.precision)
    ]
    have = ", ".join(f"{c.engine} {c.precision}" for c in shipped(bundle))
    raise EngineError(
        f"{bundle.path} has no candidate for engine {engine}, precision {precision}; it has {have}."
        + (f" {'; '.join(refused)}." if refused else ""),
        fix="choose one of these, or export with --engine and --precision.",
    )


def ranked(bundle: Bundle, engine: str = AUTO, precision: str = AUTO) -> list[Candidate]:
    """The matching candidates that can run here, best first.

    By this machine's own measurements if there are any, else those of the export when it ran on
    this machine, else the profile's order. EngineMissingError when there is none.
    """
    found = matching(bundle, engine, precision)
    reasons = {c.name: unfit(c) for c in found}
    here = [c for c in found if reasons[c.name] is None]
    if not here:
        first = next(reason for reason in reasons.values() if reason)
        raise EngineMissingError(first.message, fix=first.fix)
    fingerprint = this_machine().fingerprint
    p50_ms = {
        c.name: c.p50_ms for c in here if c.measured_on == fingerprint and c.p50_ms is not None
    }
    p50_ms |= {name: t.p50_ms for name, t in local_timings(bundle.sha256, here).items()}
    order: list[Candidate] = []
    while here:
        order.append(_best(bundle, here, p50_ms))
        here.remove(order[-1])
    return order


def _best(bundle: Bundle, here: list[Candidate], p50_ms: dict[str, float]) -> Candidate:
    manifest = bundle.manifest
    order = manifest.orders.get(this_machine().arch, manifest.order)
    first = min(here, key=lambda c: order.index(c.name) if c.name in order else len(order))
    # What was not measured, but should be better by the profile, is not passed over for what was.
    if first.name in p50_ms:
        return fastest([(c, p50_ms[c.name]) for c in here if c.name in p50_ms])
    return first


def fastest(timed: list[tuple[Candidate, float]]) -> Candidate:
    """The candidate of the lowest median in ms; among equal ones, the nearest to FP32."""
    limit = TIE * min(p50_ms for _, p50_ms in timed)
    tied = [(c, p50_ms) for c, p50_ms in timed if p50_ms <= limit]
    return min(tied, key=lambda item: (item[0].divergence or 0.0, item[1]))[0]
