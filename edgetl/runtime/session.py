"""One candidate of a bundle, opened in its engine."""

from __future__ import annotations

from edgetl.bundle import Bundle, Candidate
from edgetl.engines import Images, Options, Outputs, Session, ready_engine
from edgetl.errors import EngineError, UsageError
from edgetl.machine import available_cores
from edgetl.tasks.base import join


def open_session(bundle: Bundle, candidate: Candidate, *, threads: int = 0) -> Session:
    """Open one candidate in its engine; EngineMissingError or EngineError when that cannot be."""
    check_threads(threads)
    engine = ready_engine(candidate.engine, candidate.session)
    files = tuple(bundle.read(path) for path in candidate.artifacts)
    options = Options(precision=candidate.precision, threads=threads, session=candidate.session)
    session = engine.open(files, options)
    wanted = {output.name: output.shape for output in bundle.manifest.outputs}
    if (found := session.outputs()) != wanted:
        session.close()
        raise EngineError(
            f"{candidate.name} of {bundle.path} returns {found}, not {wanted} as it states.",
            fix="export the bundle again.",
        )
    return OneByOne(session) if bundle.manifest.single_image else session


class OneByOne:
    """The session of a network that takes one image a run, for any number of them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.describe, self.close = session.describe, session.close
        self.outputs = session.outputs

    def run(self, images: Images) -> Outputs:
        """Every output, float32 `(N, …)`, by N runs."""
        blocks = [images[i : i + 1] for i in range(len(images))] or [images]
        return join([self._session.run(block) for block in blocks])


def check_batch(bundle: Bundle, batch: int) -> None:
    """UsageError for several images a run where the network takes one."""
    if bundle.manifest.single_image and batch > 1:
        raise UsageError(
            f"--batch {batch} is not possible: the network in {bundle.path} takes one image a run.",
            fix="leave --batch away, or export an ONNX file with a free (dynamic) batch axis.",
        )


def check_threads(threads: int) -> None:
    """UsageError for a number of threads that this machine should not be asked for."""
    most = 4 * available_cores()
    if not 0 <= threads <= most:
        raise UsageError(
            f"--threads {threads} is not possible.",
            fix=f"give 0, which means every core ({available_cores()} here), or 1…{most}.",
        )
