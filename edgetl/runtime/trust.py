"""The candidate that runs here: the best one whose self-test holds on this machine.

A processor may compute a candidate's files otherwise than the one that exported them: INT8 kernels
of x86 processors without VNNI overflow, for one. So a candidate is tested before its first use
on a machine, and what was found is kept beside the machine's measurements.
"""

from __future__ import annotations

import contextlib
import logging

import edgetl
from edgetl.bundle import Bundle, Candidate
from edgetl.engines import Session
from edgetl.errors import EngineError, StorageError, shell
from edgetl.machine import this_machine
from edgetl.runtime.choose import AUTO, ranked
from edgetl.runtime.local import Verdict, engine_version, local_verdict, remember
from edgetl.runtime.selftest import Check, check_session
from edgetl.runtime.session import open_session

LOG = logging.getLogger("edgetl")


def open_best(
    bundle: Bundle, engine: str = AUTO, precision: str = AUTO, *, threads: int = 0
) -> tuple[Candidate, Session]:
    """Open the best matching candidate whose self-test holds here; a warning names those passed by.

    Where it holds for none, an engine or precision that was asked for runs all the same, with a
    warning; else EngineError.
    """
    failed: dict[str, str] = {}
    order = ranked(bundle, engine, precision)
    for candidate in order:
        verdict = local_verdict(bundle.sha256, candidate)
        if verdict is None or verdict.passed:
            session = open_session(bundle, candidate, threads=threads)
            verdict = verdict or _tested(bundle, candidate, session)
            if verdict.passed:
                _warn(failed, f"{candidate.name} runs instead")
                return candidate, session
            session.close()
        failed[candidate.name] = verdict.detail
    if engine == precision == AUTO:
        raise EngineError(
            f"No candidate of {bundle.path} computes here what it did where it was exported: "
            f"{_told(failed)}.",
            fix=f"see `{shell('edgetl', 'inspect', '--verify', bundle.path)}`, and export it "
            "again on such a machine; or name one that may run all the same, by --candidate.",
        )
    _warn(failed, f"{order[0].name} runs all the same, as it was asked for")
    return order[0], open_session(bundle, order[0], threads=threads)


def best_candidate(bundle: Bundle, engine: str = AUTO, precision: str = AUTO) -> Candidate:
    """As `open_best`, for who opens it later."""
    candidate, session = open_best(bundle, engine, precision)
    session.close()
    return candidate


def open_named(bundle: Bundle, candidate: Candidate, *, threads: int = 0) -> Session:
    """Open a candidate that was asked for by name; a warning says when its self-test fails here."""
    session = open_session(bundle, candidate, threads=threads)
    verdict = local_verdict(bundle.sha256, candidate) or _tested(bundle, candidate, session)
    if not verdict.passed:
        _warn({candidate.name: verdict.detail}, "it runs all the same, as it was asked for")
    return session


def judged(candidate: Candidate, check: Check) -> Verdict:
    """A check as it is kept for this machine."""
    return Verdict(
        engine_version=engine_version(candidate.engine),
        edgetl=edgetl.__version__,
        passed=bool(check.passed),
        detail=check.detail,
    )


def _tested(bundle: Bundle, candidate: Candidate, session: Session) -> Verdict:
    verdict = judged(candidate, check_session(bundle, candidate, session))
    with contextlib.suppress(StorageError):  # the next start tests it again, no more
        remember(bundle.sha256, verdicts={candidate.name: verdict})
    return verdict


def _warn(failed: dict[str, str], instead: str) -> None:
    if failed:
        LOG.warning(
            "the self-test fails on this machine (%s): %s; %s",
            this_machine().fingerprint.partition(" #")[0],
            _told(failed),
            instead,
        )


def _told(failed: dict[str, str]) -> str:
    return "; ".join(f"{name}: {detail}" for name, detail in failed.items())
