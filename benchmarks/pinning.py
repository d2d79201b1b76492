"""OpenVINO with its threads pinned to cores and not: one process alone, and two at a time.

    python -m benchmarks.pinning BUNDLE [--candidates NAME …]

BUNDLE is one that `benchmarks.main_job` left. Each candidate is run as it ships, with
ENABLE_CPU_PINNING off, and with it on, by one thread and by as many as there are cores. Four
processes are loaded, two of either kind, and turns are interleaved: one pinned, one not, two
pinned, two not. Writes results/pinning.jsonl with the time of every run.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.common import parser, write_rows
from edgetl.bundle import open_bundle
from edgetl.engines import openvino
from edgetl.machine import available_cores
from edgetl.runtime.session import open_session

CANDIDATES = ("ov-fp32", "ov-int8-symmetric")
TURNS, TURN_S, WARMUP = 6, 0.4, 50


def serve(bundle: str, recipe: str, threads: int, pinned: bool) -> None:
    """Time runs for as many seconds as each line on stdin says; a line of JSON for each."""
    if pinned:
        shipped = openvino.properties
        openvino.properties = lambda *given: shipped(*given) | {openvino.PINNING: True}
    with open_bundle(bundle) as opened:
        candidate = next(c for c in opened.manifest.candidates if c.name == recipe)
        session: Any = open_session(opened, candidate, threads=threads)
        shape = opened.manifest.input.shape
    assert session._first.model.get_property(openvino.PINNING) is pinned
    image = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
    for _ in range(WARMUP):
        session.run(image)
    print("ready", flush=True)
    for line in sys.stdin:
        samples: list[int] = []
        end = time.perf_counter() + float(line)
        while time.perf_counter() < end:
            begin = time.perf_counter_ns()
            session.run(image)
            samples.append((time.perf_counter_ns() - begin) // 1000)
        print(msgspec.json.encode(samples).decode(), flush=True)


class Process(contextlib.AbstractContextManager["Process"]):
    """One loaded candidate in a process of its own."""

    def __init__(self, *given: object) -> None:
        program = f"from benchmarks.pinning import serve; serve(*{given!r})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.answer()

    def start(self) -> None:
        """Begin a turn."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{TURN_S}\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """Wait for the end of a turn, or of loading."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process died: see above")
        return line

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def rows_of(bundle: Path, recipe: str, threads: int) -> list[dict[str, Any]]:
    """Samples in µs of one candidate, alone and by two, pinned and not, in turns."""
    samples: dict[tuple[bool, int], list[int]] = {}
    load = round(os.getloadavg()[0], 2)
    with contextlib.ExitStack() as stack:
        both = {
            pinned: [
                stack.enter_context(Process(str(bundle), recipe, threads, pinned)) for _ in range(2)
            ]
            for pinned in (True, False)
        }
        for _ in range(TURNS):
            for count in (1, 2):
                for pinned, processes in both.items():
                    for process in processes[:count]:
                        process.start()
                    for process in processes[:count]:
                        found = msgspec.json.decode(process.answer(), type=list[int])
                        samples.setdefault((pinned, count), []).extend(found)
    return [
        {
            "candidate": recipe,
            "threads": threads,
            "pinned": pinned,
            "processes": count,
            "load_before": load,
            "p50_ms": statistics.median(found) / 1000,
            "runs_per_s_each": len(found) / (TURNS * TURN_S * count),
            "samples_us": found,
        }
        for (pinned, count), found in samples.items()
    ]


def main() -> None:
    """Run and write."""
    options = parser(__doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("--candidates", nargs="+", default=CANDIDATES)
    given = options.parse_args()
    rows = [
        row
        for recipe in given.candidates
        for threads in sorted({1, available_cores()})
        for row in rows_of(given.bundle.resolve(), recipe, threads)
    ]
    for row in rows:
        print({key: value for key, value in row.items() if key != "samples_us"})
    print(write_rows("pinning", rows))


if __name__ == "__main__":
    main()
