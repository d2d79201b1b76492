"""`edgetl bench` as a user runs it, and stops it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from edgetl.machine import available_cores

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
    "bundle_sha256",
    "unstable",
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


def test_what_disturbs_a_measurement_is_named(cli: Cli, tiny_bundle: Path) -> None:
    """Processes on every core, which take turns with what is measured: sooner or later it shows."""
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(2 * available_cores())
    ]
    try:
        for _ in range(10):
            done = cli("bench", tiny_bundle, "--engine", "onnxruntime", "--duration", "0.4")
            assert done.returncode == 0
            if found := re.search(r"unstable: p9[09] is [0-9.]+ × p50", done.stdout):
                break
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert found


HOMELESS = """
import os, pwd, sys, tempfile
def nobody(_): raise KeyError("no entry in passwd")
pwd.getpwuid = nobody
os.environ.clear()
tempfile._candidate_tempdir_list = lambda: ["/nonexistent"]
from edgetl.cli import main
sys.exit(main())
"""


def test_without_home_cache_or_temporary_folder(tiny_bundle: Path, tmp_path: Path) -> None:
    """It is measured and predicted all the same, and what cannot be kept is said."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", HOMELESS, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    done = run("predict", tiny_bundle, "a.png")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1), done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = run("bench", tiny_bundle, "--duration", "0.05", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["rows"]) >= 2
    assert done.stderr == (
        "edgetl: what was found is not remembered, and will not decide what runs: This user has no "
        "home folder for a cache. Fix: set EDGETL_CACHE to a folder you may write to.\n"
    )
    done = run("doctor")
    assert "set EDGETL_CACHE" in done.stdout
    done = run("finetune", tmp_path, "--out", tmp_path / "run")  # torch needs temporary files
    assert done.returncode == 1
    assert done.stderr.startswith("edgetl: error: Cannot write temporary files: ")
    assert "TMPDIR" in done.stderr
    assert not (tmp_path / "run").exists()


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
    [("--duration", "0", 1), ("--threads", "999999", 1), ("--batch", "0", 1)],
)
def test_impossible_options(
    cli: Cli, tiny_bundle: Path, option: str, value: str, code: int
) -> None:
    done = cli("bench", tiny_bundle, option, value)
    assert (done.returncode, done.stdout) == (code, "")
    assert option in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def running(
    tiny_bundle: Path, interruptible: None
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
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
