"""`edgetl bench` as a user runs it, and stops it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]
KEYS = {
    "engine",
    "engine_version",
    "precision",
    "batch",
    "threads",
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "throughput",
    "peak_rss_mib",
    "samples_ns",
}


def test_json_has_every_row(cli: Cli, tiny_bundle: Path) -> None:
    options = ("--engine", "onnxruntime", "--threads", "1", "--batch", "2", "--duration", "0.05")
    done = cli("bench", tiny_bundle, *options, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)["rows"]
    assert {row["precision"] for row in rows} == {"fp32", "int8"}
    for row in rows:
        assert row.keys() >= KEYS
        assert (row["engine"], row["batch"], row["threads"]) == ("onnxruntime", 2, 1)
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]


def test_the_table_names_the_machine(cli: Cli, tiny_bundle: Path) -> None:
    done = cli("bench", tiny_bundle, "--precision", "int8", "--duration", "0.05")
    assert done.returncode == 0
    assert done.stdout.startswith("on ")
    assert "ort-int8" in done.stdout
    assert "ort-fp32" not in done.stdout


def test_a_target_without_an_engine_here(cli: Cli, jetson_bundle: Path) -> None:
    from edgetl.engines import tensorrt

    if tensorrt.missing() is None:
        pytest.skip("TensorRT runs here")
    done = cli("bench", jetson_bundle, "--engine", "tensorrt", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "EngineMissingError"
    assert "No candidate of " in error["message"]
    assert "TensorRT" in error["message"] or "CUDA" in error["message"]
    assert error["fix"]
    assert done.stderr == f"edgetl: error: {error['message']} Fix: {error['fix']}\n"


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [("--duration", "0", 1), ("--threads", "999999", 1), ("--batch", "0", 2)],
)
def test_impossible_options(
    cli: Cli, tiny_bundle: Path, option: str, value: str, code: int
) -> None:
    done = cli("bench", tiny_bundle, option, value)
    assert (done.returncode, done.stdout) == (code, "")
    assert option in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def running(tiny_bundle: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A long bench in its turns, and the pids of its workers."""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("only Linux lists the children of a process")
    process = subprocess.Popen(
        [sys.executable, "-m", "edgetl", "bench", str(tiny_bundle), "--duration", "120"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tiny_bundle.parent,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers: list[int] = []
    for _ in range(600):
        workers = [int(pid) for pid in children.read_text().split()]
        stopped = [pid for pid in workers if state(pid) == "T"]
        if len(workers) >= 3 and len(stopped) >= len(workers) - 1:
            break
        time.sleep(0.05)
    yield process, workers
    process.kill()
    process.communicate()


def state(pid: int) -> str:
    """One letter by the kernel: T is stopped; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def all_gone(workers: list[int]) -> bool:
    for _ in range(100):
        if all(state(pid) in ("", "Z") for pid in workers):
            return True
        time.sleep(0.05)
    return False


def test_ctrl_c_is_130(running: tuple[subprocess.Popen[str], list[int]]) -> None:
    process, workers = running
    assert workers
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=30)
    assert (process.returncode, out, said) == (130, "", "edgetl: interrupted\n")
    assert all_gone(workers)


def test_no_worker_stays_when_bench_is_killed(
    running: tuple[subprocess.Popen[str], list[int]],
) -> None:
    """They are stopped between turns, so that they could not notice by themselves."""
    process, workers = running
    assert workers
    process.kill()
    process.communicate(timeout=30)
    assert all_gone(workers)
