"""One candidate of a bundle, opened in its engine."""

from __future__ import annotations

import numpy as np

from edgetl.bundle import Bundle
from edgetl.engines import Options, Session, ready_engine
from edgetl.engines.base import Images, Logits, delivered
from edgetl.errors import UsageError
from edgetl.machine import available_cores
from edgetl.spec import Candidate


def open_session(bundle: Bundle, candidate: Candidate, *, threads: int = 0) -> Session:
    """Open one candidate in its engine; EngineMissingError or EngineError when that cannot be."""
    check_threads(threads)
    engine = ready_engine(candidate.engine, candidate.session)
    files = tuple(bundle.read(path) for path in candidate.artifacts)
    options = Options(precision=candidate.precision, threads=threads, session=candidate.session)
    session = engine.open(files, options)
    return OneByOne(session) if bundle.manifest.single_image else session


class OneByOne:
    """The session of a network that takes one image a run, for any number of them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.describe, self.close = session.describe, session.close

    def run(self, images: Images, out: Logits | None = None) -> Logits:
        """Logits float32 `(N, classes)`, by N runs."""
        blocks = [images[i : i + 1] for i in range(len(images))] or [images]
        return delivered(np.concatenate([self._session.run(block) for block in blocks]), out)


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
