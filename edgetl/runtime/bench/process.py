"""A worker process (worker.py), seen from the process that measures: every wait has a limit."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import IO, TypeVar

import msgspec

from edgetl.bundle import Candidate
from edgetl.errors import EngineError
from edgetl.files import decode_json, encode_json
from edgetl.runtime.bench.worker import MeasureRequest, Ready, Slice
from edgetl.spec import Record

T = TypeVar("T")
WARMUP = 10  # runs that do not count
GONE_S = 5.0  # how long a process may take to end


class Limits(Record, frozen=True, kw_only=True):
    """How long a worker may be silent, in seconds; what hangs is given up, and the others go on."""

    load_s: float = 120  # to load and run once, and a second more for each image of the batch
    build_s: float = 3600  # the same, where an engine has to be built first
    turn_s: float = 30  # beyond its turn, and beyond three times what loading took


class Worker(contextlib.AbstractContextManager["Worker"]):
    """A worker process with one candidate loaded; stopped except during its turns."""

    def __init__(
        self, candidate: Candidate, job: MeasureRequest, *, load_s: float, turn_s: float
    ) -> None:
        """EngineError when it cannot load, dies, or takes longer than `load_s`."""
        self.candidate = candidate
        self._turn_s = turn_s
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()  # "" at the end
        self._said: deque[str] = deque(maxlen=1)
        # Not `-m`, which would let a numpy.py in the working folder take the place of the real one.
        program = f"import sys; sys.path[:] = {sys.path!r}; import edgetl.runtime.bench.worker as w"
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{program}; w.main()", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        self._readers = [
            _reading(self._process.stdout, self._lines.put, end=""),
            _reading(self._process.stderr, self._hear),
        ]
        try:
            self.ready: Ready = self._ask(encode_json(job).decode(), Ready, load_s)
            if self.ready.error:
                raise EngineError(self.ready.error, fix=self.ready.fix)
            for _ in range(WARMUP - 1):
                self._run(0)
        except BaseException:
            self.__exit__()
            raise
        self._process.send_signal(signal.SIGSTOP)

    def take_turn(self, nanoseconds: int) -> Slice:
        """Run for a while, once at least; EngineError when it dies or hangs."""
        self._process.send_signal(signal.SIGCONT)
        done = self._run(nanoseconds)
        self._process.send_signal(signal.SIGSTOP)
        return done

    def _run(self, nanoseconds: int) -> Slice:
        limit_s = self._turn_s + nanoseconds / 1e9 + 3 * self.ready.load_ms / 1e3
        return self._ask(str(nanoseconds), Slice, limit_s)

    def _ask(self, line: str, kind: type[T], limit_s: float) -> T:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            return decode_json(self._lines.get(timeout=limit_s).encode(), kind)
        except queue.Empty:
            raise EngineError(
                f"The process that measured {self.candidate.name} gave no answer for "
                f"{limit_s:.3g} s and was stopped.",
                fix="measure again when the machine is idle; or leave it out by --engine and "
                "--precision.",
            ) from None
        except (BrokenPipeError, msgspec.DecodeError) as error:
            raise EngineError(
                f"The process that measured {self.candidate.name} died: {self._last_words()}.",
                fix="free memory, or measure fewer candidates by --engine and --precision.",
            ) from error

    def _hear(self, line: str) -> None:
        if line.strip():
            self._said.append(line.strip())

    def _last_words(self) -> str:
        try:
            code = self._process.wait(timeout=GONE_S)
        except subprocess.TimeoutExpired:  # it lives, but does not keep to the protocol
            return ", ".join(["it does not keep to the protocol", *self._said])
        self._readers[1].join(GONE_S)
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return ", ".join([name, *self._said])

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # of one that waits for a device
            self._process.wait(timeout=GONE_S)
        for reader in self._readers:  # which close their pipes
            reader.join(GONE_S)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()


def _reading(
    stream: IO[str] | None, take: Callable[[str], None], end: str | None = None
) -> threading.Thread:
    """A thread that hands over each line of a pipe: nothing else can wait for one with a limit."""
    assert stream is not None

    def read() -> None:
        with stream:
            for line in stream:
                take(line)
        if end is not None:
            take(end)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread
