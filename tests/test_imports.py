"""What a device imports is light, and importing changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import edgetl

HEAVY = ("torch", "torchvision", "openvino", "onnxruntime", "onnx", "nncf", "matplotlib", "sklearn")
LIGHT = "edgetl, edgetl.bundle, edgetl.engines, edgetl.evaluation, edgetl.runtime"
VERBS = (
    "finetune",
    "train",
    "export",
    "evaluate",
    "predict",
    "bench",
    "build",
    "compare",
    "inspect",
    "unpack",
    "devices",
    "backbones",
    "doctor",
)


def run(program: str, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_is_light_and_changes_nothing(tmp_path: Path) -> None:
    """Neither environment, threads, logging, warnings, signals nor files."""
    program = f"""
import json, logging, os, signal, sys, threading, warnings
import numpy, PIL.Image
def state():
    return {{
        "environment": dict(os.environ),
        "threads": threading.active_count(),
        "tasks": len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0,
        "handlers": repr(logging.root.handlers), "level": logging.root.level,
        "disabled": logging.root.manager.disable,
        "warnings": repr(warnings.filters),
        "signal": repr(signal.getsignal(signal.SIGINT)),
        "files": sorted(os.listdir(".")),
        "telemetry": "openvino_telemetry" in sys.modules,
    }}
before = state()
import {LIGHT}
import edgetl.engines.onnxruntime, edgetl.engines.openvino, edgetl.engines.tensorrt
import edgetl.runtime.bench.measure, edgetl.runtime.selftest, edgetl.runtime.doctor
assert state() == before, (before, state())
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    assert json.loads(run(program, cwd=tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_importing_takes_150_ms_at_most(tmp_path: Path) -> None:
    """Beyond numpy and Pillow; the best of a few tries, as others may use the machine."""
    program = """
import time
import numpy, PIL.Image
start = time.perf_counter()
import edgetl.runtime
print(1e3 * (time.perf_counter() - start))
"""
    assert min(float(run(program, cwd=tmp_path)) for _ in range(4)) <= 150


def test_every_help_is_light(tmp_path: Path) -> None:
    program = f"""
import contextlib, io, json, sys
from edgetl.cli.app import app
heavy = {{}}
for words in {[[], *([verb] for verb in VERBS)]!r}:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        app([*words, "--help"], prog_name="edgetl")
    assert "Usage: edgetl" in said.getvalue(), words
    heavy[" ".join(words)] = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps(heavy))
"""
    heavy = json.loads(run(program, cwd=tmp_path))
    assert heavy == {words: [] for words in ("", *VERBS)}


def test_the_command_knows_its_version_and_verbs(tmp_path: Path) -> None:
    for option, wanted in (("--version", [edgetl.__version__]), ("--help", VERBS)):
        done = subprocess.run(
            [sys.executable, "-m", "edgetl", option],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert set(wanted) <= set(done.stdout.split())


def test_all_is_exact_and_sorted() -> None:
    assert edgetl.__all__ == sorted(edgetl.__all__)
    assert edgetl.__all__ == [
        "Model",
        "__version__",
        "bench",
        "build",
        "compare",
        "evaluate",
        "export",
        "finetune",
        "load",
    ]
    assert dir(edgetl) == edgetl.__all__
    with pytest.raises(AttributeError, match="no attribute 'bogus'"):
        edgetl.bogus  # noqa: B018


def test_every_name_is_there() -> None:
    for name in edgetl.__all__:
        assert getattr(edgetl, name)


def test_what_needs_torch_says_so_without_it(tmp_path: Path) -> None:
    program = """
import sys
for name in ("torch", "torchvision", "onnx"):
    sys.modules[name] = None
import edgetl
from edgetl.errors import EngineMissingError
for verb, extra in (("finetune", "train"), ("export", "export")):
    try:
        getattr(edgetl, verb)
    except EngineMissingError as error:
        assert error.fix == f"pip install 'edgetl[{extra}]'", error.fix
    else:
        raise SystemExit(verb)
assert edgetl.load and edgetl.bench and edgetl.evaluate
"""
    run(program, cwd=tmp_path)
