"""Measure the candidates of a bundle on this machine, in turns."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from typing import IO, Any

import msgspec
import numpy as np

import edgetl
from edgetl.bundle import Bundle, open_bundle
from edgetl.errors import EngineError, EngineMissingError, UsageError
from edgetl.files import decode_json, encode_json
from edgetl.machine import available_cores, power_mode, this_machine
from edgetl.runtime.choose import AUTO, matching, unfit
from edgetl.runtime.local import remember_p50_ms
from edgetl.runtime.model import check_threads
from edgetl.runtime.prepare import announce
from edgetl.runtime.worker import WARMUP, Job, Ready, Slice
from edgetl.spec import Candidate, Measurement, Record

TURNS = 8


class Unmeasured(Record, frozen=True, kw_only=True):
    """A candidate that could not be measured here, and why."""

    recipe: str
    engine: str
    precision: str
    reason: str
    fix: str


class Bench(Record, frozen=True, kw_only=True):
    """Rows of one bench, fastest first, and what could not run."""

    rows: tuple[Measurement, ...]
    skipped: tuple[Unmeasured, ...]


def bench(
    bundle: str | os.PathLike[str],
    *,
    engine: str = AUTO,
    precision: str = AUTO,
    threads: int = 0,
    batch: int = 1,
    duration: float = 3.0,
    progress: Callable[[str], None] = lambda _: None,
) -> Bench:
    """Time every matching candidate for `duration` seconds each, in interleaved turns.

    Each runs in a process of its own, which is stopped while others take their turn. Medians of all
    candidates at batch 1 with all cores are remembered and decide what `load` takes here; those of
    one engine or precision alone are not, as they were not taken in turns with the others. Raises
    EngineError when nothing can be measured.
    """
    if batch < 1 or batch > 1024:
        raise UsageError(f"--batch {batch} is not possible.", fix="give 1…1024.")
    if not 0.05 <= duration <= 3600:
        raise UsageError(f"--duration {duration} is not possible.", fix="give 0.05…3600 seconds.")
    check_threads(threads)
    with open_bundle(bundle) as opened:
        found = matching(opened, engine, precision)
        rows, skipped = measure(
            opened, found, threads=threads, batch=batch, duration=duration, progress=progress
        )
        if not rows:
            reasons = "; ".join(f"{item.recipe}: {item.reason}" for item in skipped)
            fixes = dict.fromkeys(item.fix for item in skipped)
            raise EngineMissingError(
                f"No candidate of {opened.path} can run here: {reasons}", fix="; ".join(fixes)
            )
        if batch == 1 and threads in (0, available_cores()) and engine == precision == AUTO:
            remember_p50_ms(opened.sha256, {row.recipe: row.p50_ms for row in rows})
    return Bench(rows=tuple(rows), skipped=tuple(skipped))


def measure(
    bundle: Bundle,
    candidates: list[Candidate],
    *,
    threads: int,
    batch: int,
    duration: float,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[list[Measurement], list[Unmeasured]]:
    """Measure candidates of an opened bundle in turns; rows come fastest first."""
    skipped: list[Unmeasured] = []
    with contextlib.ExitStack() as stack:
        workers: list[Worker] = []
        for candidate in candidates:
            progress(f"loading {candidate.recipe}")
            try:
                _insist(candidate)
                announce(bundle, candidate, batch)
                job = Job(
                    bundle=str(bundle.path), recipe=candidate.recipe, threads=threads, batch=batch
                )
                workers.append(stack.enter_context(Worker(candidate, job)))
            except EngineError as error:
                skipped.append(_unmeasured(candidate, error))
        for turn in range(TURNS):
            progress(f"turn {turn + 1} of {TURNS}")
            for worker in list(workers):
                try:
                    worker.take_turn(int(duration * 1e9 / TURNS))
                except EngineError as error:  # it died; the others go on
                    workers.remove(worker)
                    skipped.append(_unmeasured(worker.candidate, error))
        rows = [worker.row(bundle, batch) for worker in workers]
    return sorted(rows, key=lambda row: row.p50_ms), skipped


def _unmeasured(candidate: Candidate, error: EngineError) -> Unmeasured:
    return Unmeasured(
        recipe=candidate.recipe,
        engine=candidate.engine,
        precision=candidate.precision,
        reason=error.message,
        fix=error.fix,
    )


def _insist(candidate: Candidate) -> None:
    """EngineMissingError when the candidate cannot run on this machine."""
    reason = unfit(candidate)
    if reason is not None:
        what, _, fix = reason.partition(" Fix: ")
        raise EngineMissingError(what, fix=fix)


class Worker(contextlib.AbstractContextManager["Worker"]):
    """A worker process with one candidate loaded; stopped except during its turns."""

    def __init__(self, candidate: Candidate, job: Job) -> None:
        self.candidate = candidate
        self.samples: list[int] = []
        self.peak_rss_mib = 0.0
        # A file, as nobody would empty a pipe while the engine fills it.
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        # Not `-m`, which would let a numpy.py in the working folder take the place of the real one.
        program = f"import sys; sys.path[:] = {sys.path!r}; import edgetl.runtime.worker as w"
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{program}; w.main()", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        try:
            self.ready: Ready = self._ask(encode_json(job).decode(), Ready)
            if self.ready.error:
                raise EngineError(self.ready.error, fix=self.ready.fix)
        except BaseException:
            self.__exit__()
            raise
        self._signal("SIGSTOP")

    def _signal(self, name: str) -> None:
        number = getattr(signal, name, None)  # absent on Windows, where workers merely idle
        if number is not None:
            self._process.send_signal(number)

    def _ask(self, line: str, kind: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            return decode_json(self._process.stdout.readline().encode(), kind)
        except (BrokenPipeError, msgspec.DecodeError) as error:
            raise EngineError(
                f"The process that measured {self.candidate.recipe} died: {self._last_words()}.",
                fix="free memory, or measure fewer candidates by --engine and --precision.",
            ) from error

    def _last_words(self) -> str:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it lives, but does not keep to the protocol
            self._process.kill()
            code = self._process.wait()
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip().splitlines()[-1:]
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return ", ".join([name, *said])

    def take_turn(self, nanoseconds: int) -> None:
        """Run for a while and keep the samples."""
        self._signal("SIGCONT")
        done: Slice = self._ask(str(nanoseconds), Slice)
        self._signal("SIGSTOP")
        self.samples += done.samples_ns
        self.peak_rss_mib = done.peak_rss_mib

    def row(self, bundle: Bundle, batch: int) -> Measurement:
        """The measurement so far."""
        described = self.ready.description
        assert described is not None
        p50, p90, p99 = np.percentile(np.array(self.samples), [50, 90, 99]) / 1e6
        return Measurement(
            recipe=self.candidate.recipe,
            engine=described.engine,
            engine_version=described.version,
            precision=described.precision,
            provider=described.provider,
            batch=batch,
            threads=described.threads,
            warmup=WARMUP,
            samples_ns=tuple(self.samples),
            p50_ms=round(float(p50), 4),
            p90_ms=round(float(p90), 4),
            p99_ms=round(float(p99), 4),
            throughput=round(batch * len(self.samples) / (sum(self.samples) / 1e9), 2),
            peak_rss_mib=round(self.peak_rss_mib, 1),
            load_ms=round(self.ready.load_ms, 1),
            machine=this_machine().fingerprint,
            power_mode=power_mode(),
            bundle_sha256=bundle.sha256,
            edgetl=edgetl.__version__,
            utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()
