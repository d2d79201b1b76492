"""What plug-ins may add is named in its own file and in one table, and nowhere else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgetl
from edgetl.engines import ENGINES
from edgetl.exporter.backends import BACKENDS
from edgetl.tasks.base import TASKS

HOME = Path(edgetl.__file__).parent
FORMS = {form for name in BACKENDS.own for form in BACKENDS.find(name).forms} - {"float"}
OPTIONS = {key for name in ENGINES.own for key in ENGINES.find(name).SETTABLE}
TITLES = {"ONNX Runtime", "OpenVINO", "TensorRT", "NNCF"}
NAMES = {*ENGINES.own, *FORMS, *TITLES}
# Files of one engine, and folders of them: what is not a backend's own serves several.
QUANTIZERS = ("nncf", "openvino_passes", "ort")
OWN = (
    *("engines/", "exporter/backends/", "exporter/tensorrt/"),
    *(f"exporter/quantize/{name}.py" for name in QUANTIZERS),
)
ALLOWED = {
    # names of packages: what an extra brings, and what reports to its makers
    "runtime/doctor.py": {"nncf", "export to OpenVINO int8"},
    "telemetry.py": {"openvino_telemetry"},
    # ONNX Runtime computes ranges and shapes on the host, whatever the target's engine is
    "exporter/quantize/calibration.py": {"ONNX Runtime cannot run the model for calibration: "},
    "exporter/onnx/importing/run.py": {"ONNX Runtime cannot load "},
}
MODULES = sorted(
    path
    for path in (p.relative_to(HOME).as_posix() for p in HOME.rglob("*.py"))
    if not path.startswith(OWN)
)


def strings(tree: ast.Module) -> Iterator[str]:
    """Constants that are text, but for docstrings."""
    told = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            told |= {id(first.value)} if isinstance(first, ast.Expr) else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value


def imports(tree: ast.Module) -> set[str]:
    """Dotted names of all that is imported, `from x import y` as x.y."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", [m for m in MODULES if "tasks/" not in m])
def test_no_task_is_known_by_name(module: str) -> None:
    tree = ast.parse((HOME / module).read_text("utf-8"))
    assert not {*TASKS.own} & {word for s in strings(tree) for word in re.findall(r"\w+", s)}
    homes = tuple(f"tasks.{name}" for name in TASKS.own)
    assert not {name for name in imports(tree) if any(home in name for home in homes)}


@pytest.mark.parametrize("module", MODULES)
def test_no_engine_is_known_by_name(module: str) -> None:
    tree = ast.parse((HOME / module).read_text("utf-8"))
    named = {s for s in strings(tree) if s in OPTIONS or any(name in s for name in NAMES)}
    assert named <= ALLOWED.get(module, set())
    homes = {*ENGINES.own, *(f"quantize.{name}" for name in QUANTIZERS)}
    taken = {name for name in imports(tree) if name.startswith("edgetl.")}
    assert not {name for name in taken if any(f".{home}" in name for home in homes)}
