"""One candidate in a process of its own, timed on request.

Started by process.py. Speaks JSON lines: the first line in is a MeasureRequest, the first line out
a Ready; then each line in is a number of nanoseconds to run for, and each line out the samples of
that slice. A process of its own gives an honest peak memory, and pausing it between slices lets
candidates be measured in turns.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import IO

import numpy as np

from edgetl.bundle import open_bundle
from edgetl.engines import Description
from edgetl.errors import BundleError, EdgetlError
from edgetl.files import decode_json, encode_json
from edgetl.machine import peak_rss_mib
from edgetl.runtime.selftest import Check, check_session
from edgetl.runtime.session import open_session
from edgetl.spec import Record


class MeasureRequest(Record, frozen=True, kw_only=True):
    """What to measure."""

    bundle: str
    sha256: str  # of the bundle, which might be replaced meanwhile
    candidate: str
    threads: int
    batch: int


class Ready(Record, frozen=True, kw_only=True):
    """The candidate is loaded and has run once, or why not."""

    description: Description | None = None
    load_ms: float = 0.0
    peak_rss_mib: float = 0.0
    check: Check | None = None  # its self-test; None for batches, which would need other shapes
    error: str = ""
    fix: str = ""


class Slice(Record, frozen=True, kw_only=True):
    """Samples of one turn."""

    samples_ns: tuple[int, ...]
    peak_rss_mib: float


def main() -> None:
    """Serve one job over stdin and stdout."""
    _die_with(int(sys.argv[1]))
    out = _own_stdout()
    job = decode_json(sys.stdin.readline().encode(), MeasureRequest)
    try:
        start = time.perf_counter_ns()
        bundle = open_bundle(job.bundle)
        if bundle.sha256 != job.sha256:
            raise BundleError(f"{job.bundle} was replaced meanwhile.", fix="measure it again.")
        candidate = bundle.manifest.candidate(job.candidate)
        session = open_session(bundle, candidate, threads=job.threads)
        # Drawn noise: no engine's speed here depends on the values, and no photo is needed.
        images = np.random.default_rng(0).integers(
            0, 256, (job.batch, *bundle.manifest.input.shape), np.uint8
        )
        session.run(images)
        load_ms = (time.perf_counter_ns() - start) / 1e6
        check = check_session(bundle, candidate, session) if job.batch == 1 else None
    except EdgetlError as error:
        _say(out, Ready(error=error.message, fix=error.fix))
        return
    found = session.describe()
    _say(out, Ready(description=found, load_ms=load_ms, peak_rss_mib=peak_rss_mib(), check=check))
    for line in sys.stdin:
        samples: list[int] = []
        end = time.perf_counter_ns() + int(line)
        while not samples or time.perf_counter_ns() < end:
            begin = time.perf_counter_ns()
            session.run(images)
            samples.append(time.perf_counter_ns() - begin)
        _say(out, Slice(samples_ns=tuple(samples), peak_rss_mib=peak_rss_mib()))


def _die_with(parent: int) -> None:
    """Be killed when the parent ends: stopped, this process would not notice and stay for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it had ended before
            sys.exit(1)


def _own_stdout() -> IO[str]:
    """Stdout for messages alone; whatever an engine prints goes to stderr."""
    own = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(own, "w", encoding="utf-8")


def _say(out: IO[str], message: Record) -> None:
    out.write(encode_json(message).decode() + "\n")
    out.flush()
