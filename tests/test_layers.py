"""The shape of the code: imports go downwards, torch stays on the host, files stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edgetl

HOME = Path(edgetl.__file__).parent
FLOORS = (
    {"errors"},
    {"registry"},
    {"spec"},
    {"files"},
    {"machine", "telemetry", "progress"},
    {"engines"},
    {"recipes"},
    {"metrics"},
    {"inputs"},
    {"data"},
    {"tasks"},
    {"options"},
    {"bundle"},
    {"runs"},
    {"runtime"},
    {"report"},
    {"train"},
    {"exporter"},
    {"evaluation"},
    {"cli"},
)
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
TORCH = {"torch", "torchvision", "safetensors.torch"}
HOST = {
    "exporter/onnx/trace.py",
    "exporter/quantize/qat/train.py",
    "exporter/quantize/qat/module.py",
    "exporter/quantize/qat/operators.py",
}
MODULES = sorted(path.relative_to(HOME).as_posix() for path in HOME.rglob("*.py"))
LINES, FUNCTION = 320, 50


def tree(module: str) -> ast.Module:
    return ast.parse((HOME / module).read_text("utf-8"))


def part(module: str) -> str:
    return module.split("/", maxsplit=1)[0].removesuffix(".py")


def imported(module: str) -> set[str]:
    """Dotted names that a module imports anywhere, `from x import y` as both x and x.y."""
    names: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    return names


def test_every_module_has_a_floor() -> None:
    exempt = {"__init__", "__main__", "_devices", "_recipes"}  # the last two: TOML in the wheel
    assert {part(module) for module in MODULES} - exempt == set(FLOOR)


@pytest.mark.parametrize("module", [m for m in MODULES if m not in ("__init__.py", "__main__.py")])
def test_imports_go_downwards(module: str) -> None:
    own = part(module)
    for name in sorted(imported(module)):
        if name.startswith("edgetl."):
            other = name.split(".")[1]
            if other in FLOOR:
                assert FLOOR[other] < FLOOR[own] or other == own, f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_only_the_host_side_imports_torch(module: str) -> None:
    if module.startswith("train/") or module in HOST:
        return
    loaded = {name for name in imported(module) if name in TORCH or name.startswith("torch.")}
    assert not loaded, f"{module} imports {loaded}"


def test_the_torch_rule_sees_torch() -> None:
    users = {m for m in MODULES if imported(m) & TORCH}
    assert users >= HOST | {"train/augment.py"}


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_stay_small(module: str) -> None:
    lines = (HOME / module).read_text("utf-8").count("\n")
    assert lines <= LINES, f"{module}: {lines} lines"
    for node in ast.walk(tree(module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # Options and docstrings do not count: they are as long as what they say.
            first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
            length = (node.end_lineno or 0) - first.lineno + 1
            assert length <= FUNCTION, f"{module}: {node.name} has {length} lines"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(tree(module)), module
