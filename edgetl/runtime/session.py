"""One candidate of a bundle, opened in its engine."""

from __future__ import annotations

from edgetl.bundle import Bundle
from edgetl.engines import Options, Session, ready_engine
from edgetl.errors import UsageError
from edgetl.machine import available_cores
from edgetl.spec import Candidate


def open_session(bundle: Bundle, candidate: Candidate, *, threads: int = 0) -> Session:
    """Open one candidate in its engine; EngineMissingError or EngineError when that cannot be."""
    check_threads(threads)
    engine = ready_engine(candidate.engine, candidate.session)
    files = tuple(bundle.read(path) for path in candidate.artifacts)
    options = Options(precision=candidate.precision, threads=threads, session=candidate.session)
    return engine.open(files, options)


def check_threads(threads: int) -> None:
    """UsageError for a number of threads that this machine should not be asked for."""
    most = 4 * available_cores()
    if not 0 <= threads <= most:
        raise UsageError(
            f"--threads {threads} is not possible.",
            fix=f"give 0, which means every core ({available_cores()} here), or 1…{most}.",
        )
