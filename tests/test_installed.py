"""The built wheel in bare virtual environments: what a device gets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

WHEEL = os.environ.get("EDGETL_WHEEL", "")
VERBS = (
    "finetune", "train", "export", "evaluate", "predict", "bench", "build", "compare", "inspect",
    "unpack", "devices", "backbones", "doctor",
)  # fmt: skip

pytestmark = pytest.mark.skipif(not WHEEL, reason="EDGETL_WHEEL names no built wheel: make test")

PROBE = """
import json, sys, time
import numpy, PIL.Image
start = time.perf_counter()
import edgetl.runtime
seconds = time.perf_counter() - start
import edgetl, edgetl.engines, edgetl.bundle, edgetl.evaluation
heavy = {"torch", "onnxruntime", "openvino", "matplotlib", "nncf", "sklearn"} & set(sys.modules)
print(json.dumps({"seconds": seconds, "heavy": sorted(heavy), "file": edgetl.__file__}))
"""


def make_environment(folder: Path, python: str, *packages: str) -> Path:
    """A fresh virtual environment with the wheel and `packages`; returns its interpreter."""
    if python == sys.executable:
        venv.create(folder, with_pip=True, clear=True)
    else:
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    interpreter = folder / "bin" / "python"
    install = [str(interpreter), "-m", "pip", "install", "--quiet", WHEEL, *packages]
    subprocess.run(install, check=True, capture_output=True)
    return interpreter


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base install alone."""
    return make_environment(tmp_path_factory.mktemp("bare"), sys.executable)


def run(interpreter: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run that interpreter with nothing inherited that could point back to the source."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "EDGETL"))}
    return subprocess.run(
        [str(interpreter), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=clean,
        check=False,
    )


def test_wheel_holds_the_toml_folders() -> None:
    """Profiles, recipes, templates and the typing marker ship."""
    names = set(zipfile.ZipFile(WHEEL).namelist())
    assert {
        "edgetl/_devices/cpu.toml",
        "edgetl/_devices/__init__.py",
        "edgetl/_recipes/ort-fp32.toml",
        "edgetl/_recipes/__init__.py",
        "edgetl/report/run.html",
        "edgetl/report/report.css",
        "edgetl/py.typed",
    } <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]


def test_base_install_imports_without_torch(bare: Path, tmp_path: Path) -> None:
    """The runtime's modules load no framework and no engine."""
    done = run(bare, "-c", PROBE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["heavy"] == []
    assert "site-packages" in found["file"]


@pytest.mark.parametrize("verb", VERBS)
def test_base_install_helps(bare: Path, tmp_path: Path, verb: str) -> None:
    """Every --help works in a bare environment."""
    done = run(bare, "-m", "edgetl", verb, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_base_install_names_the_extra(bare: Path, tmp_path: Path) -> None:
    """What is missing is one line with the pip command, not a traceback."""
    (tmp_path / "photos").mkdir()
    for words in (
        ["finetune", "photos", "--out", "run"],
        ["export", "run", "--target", "cpu", "--out", "x.edgetl"],
        ["backbones"],
    ):
        done = run(bare, "-m", "edgetl", *words, cwd=tmp_path)
        assert done.returncode == 1, words
        assert "pip install 'edgetl[" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_devices_and_doctor_in_the_base_install(bare: Path, tmp_path: Path) -> None:
    """Profiles are found in the installed package; doctor names missing engines with their fix."""
    devices = run(bare, "-m", "edgetl", "devices", "--json", cwd=tmp_path)
    assert "jetson-orin-nano" in {device["name"] for device in json.loads(devices.stdout)}
    doctor = run(bare, "-m", "edgetl", "doctor", "--json", cwd=tmp_path)
    parts = {part["name"]: part for part in json.loads(doctor.stdout)["parts"]}
    assert parts["onnxruntime"]["version"] is None
    assert "pip install 'edgetl[onnxruntime]'" in parts["onnxruntime"]["fix"]


def interpreters() -> list[str]:
    """This Python, and those of the runtime's range that are on the PATH."""
    names = [f"python3.{minor}" for minor in (10, 11, 12, 13) if minor != sys.version_info.minor]
    return [sys.executable, *names]


@pytest.mark.slow
@pytest.mark.parametrize("python", interpreters())
def test_predict_with_one_engine(
    python: str, tmp_path: Path, tiny_bundle: Path, shapes: Path
) -> None:
    """The base install and one engine are enough to predict and to verify."""
    found = shutil.which(python)
    if (
        not found
        or subprocess.run([found, "--version"], capture_output=True, check=False).returncode
    ):
        pytest.skip(f"{python} is not on this machine")
    interpreter = make_environment(tmp_path / "venv", found, "onnxruntime")
    photo = next(shapes.rglob("*.jpg"), None) or next(shapes.rglob("*.png"))
    for words in (
        ["predict", str(tiny_bundle), str(photo)],
        ["inspect", str(tiny_bundle), "--verify"],
    ):
        done = run(interpreter, "-m", "edgetl", *words, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    names = run(interpreter, "-m", "pip", "list", "--format=freeze", cwd=tmp_path).stdout
    assert "torch" not in names
    verified = json.loads(done.stdout)
    assert verified["verified"] is True
    ran = [check["name"] for check in verified["checks"] if check["passed"]]
    assert {"preprocessing", "ort-fp32"} <= set(ran)
