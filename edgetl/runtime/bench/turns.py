"""Candidates in turns, each in a worker process: who is open when, and what was measured.

All are open at once where memory is plentiful, stopped except during their turns. Else as many as
fit are, one group after the other, in several rounds; so the smallest board holds one at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from edgetl.bundle import Bundle, Candidate
from edgetl.errors import EngineError, EngineMissingError
from edgetl.machine import available_memory_mib
from edgetl.runtime.bench.process import Limits, Worker
from edgetl.runtime.bench.worker import MeasureRequest, Ready
from edgetl.runtime.build import announce
from edgetl.runtime.choose import unfit

TURNS = 8
ROUNDS = 4  # in which groups are opened again, where not all fit at once
SHARE = 0.5  # of the memory that is available now, for all workers together


class Run:
    """What is known of one candidate so far."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.ready: Ready | None = None  # when it was loaded first
        self.samples_ns: list[int] = []
        self.peak_rss_mib = 0.0
        self.error: EngineError | None = None


class Turns:
    """One measurement of candidates of an opened bundle."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int,
        batch: int,
        duration: float,
        memory_mib: float | None = None,
        limits: Limits | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`duration` in seconds for each; `memory_mib` for all workers, else half of what is free.

        A candidate that needs more runs alone.
        """
        self._bundle, self._threads, self._batch = bundle, threads, batch
        self._slice_ns = int(duration * 1e9 / TURNS)
        self._memory_mib = SHARE * available_memory_mib() if memory_mib is None else memory_mib
        self._limits = limits or Limits()
        self._say = progress

    def take(self, candidates: Sequence[Candidate]) -> list[Run]:
        """Measure each in turns; those that cannot be loaded, die or hang have an `error`."""
        runs = [Run(candidate) for candidate in candidates]
        done = 0
        while done < TURNS:
            turns = TURNS // ROUNDS
            waiting = [run for run in runs if run.error is None]
            everyone = len(waiting)
            while waiting:
                with contextlib.ExitStack() as stack:
                    largest = max(run.peak_rss_mib for run in runs)
                    workers = self._open(waiting, largest, stack)
                    if everyone and not waiting:  # all are open, and may stay so
                        turns = TURNS - done
                    everyone = 0
                    self._turns(workers, done, turns)
            done += turns
        return runs

    def _open(
        self, waiting: list[Run], largest: float, stack: contextlib.ExitStack
    ) -> list[tuple[Run, Worker]]:
        """Open those that wait while memory allows another as large as any so far; one at least."""
        opened: list[tuple[Run, Worker]] = []
        used = 0.0
        while waiting and (not opened or used + largest <= self._memory_mib):
            run = waiting.pop(0)
            try:
                opened.append((run, stack.enter_context(self._start(run))))
            except EngineError as error:
                run.error = error
                continue
            used += run.peak_rss_mib
            largest = max(largest, run.peak_rss_mib)
        return opened

    def _start(self, run: Run) -> Worker:
        candidate = run.candidate
        self._say(f"loading {candidate.name}")
        reason = unfit(candidate)
        if reason is not None:
            raise EngineMissingError(reason.message, fix=reason.fix)
        builds = announce(self._bundle, candidate, self._batch)
        job = MeasureRequest(
            bundle=str(self._bundle.path),
            sha256=self._bundle.sha256,
            candidate=candidate.name,
            threads=self._threads,
            batch=self._batch,
        )
        load_s = self._limits.build_s if builds else self._limits.load_s + self._batch
        worker = Worker(candidate, job, load_s=load_s, turn_s=self._limits.turn_s)
        run.ready = run.ready or worker.ready
        run.peak_rss_mib = max(run.peak_rss_mib, worker.ready.peak_rss_mib)
        return worker

    def _turns(self, workers: list[tuple[Run, Worker]], done: int, turns: int) -> None:
        for turn in range(done, done + turns):
            self._say(f"turn {turn + 1} of {TURNS}")
            for run, worker in workers:
                if run.error is None:
                    try:
                        found = worker.take_turn(self._slice_ns)
                    except EngineError as error:  # it died or hangs; the others go on
                        run.error = error
                        worker.__exit__()
                        continue
                    run.samples_ns += found.samples_ns
                    run.peak_rss_mib = max(run.peak_rss_mib, found.peak_rss_mib)
