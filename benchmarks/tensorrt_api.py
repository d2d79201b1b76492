"""Check every name that edgetl uses of TensorRT against a real TensorRT, without a GPU.

    python -m benchmarks.tensorrt_api --python VENV/bin/python [--python VENV/bin/python]

Reads the files of engines/tensorrt/ by syntax tree: attributes of the module,
of its enumerations and of its objects, with how many arguments each call passes and by what names.
Each interpreter then looks these up in the `tensorrt` that it has: names must exist, and calls must
fit the signatures that the bindings state. Names that the code itself asks for before use
(`hasattr`, `getattr` with a default) may be absent and are listed. Nothing is built or run.
Writes results/tensorrt_api.jsonl, a row an interpreter: give all of them at once.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENGINES = Path(__file__).resolve().parent.parent / "edgetl" / "engines" / "tensorrt"
SOURCES = ("__init__.py", "build.py", "log.py", "run.py")
MODULES = {"trt", "self.trt", "self._trt", "self._maker.trt"}
OBJECTS = {  # what stands in these files for an object of TensorRT's
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "flaw": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "image": "ITensor",
    "layer": "ILayer",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "self._runtime": "Runtime",
    "self._engine": "ICudaEngine",
    "engine": "ICudaEngine",
    "self._context": "IExecutionContext",
}
# Looked up by variable names in the code, after asking: {regime: names that must be there}.
WEAK = ("BuilderFlag.FP16", "BuilderFlag.INT8")
EXTERNAL = ("TacticSource.CUBLAS", "TacticSource.CUBLAS_LT", "TacticSource.CUDNN")
PREVIEW = "PreviewFeature.DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"

PROBE = r"""
import json, re, sys, warnings
warnings.simplefilter("ignore")
import tensorrt

def parts(text):
    depth, start, found = 0, 0, []
    for place, letter in enumerate(text + ","):
        depth += (letter in "[({") - (letter in "])}")
        if letter == "," and depth == 0:
            if text[start:place].strip():
                found.append(text[start:place].strip())
            start = place + 1
    return found

def fits(function, name, count, keywords):
    lines = [re.sub(r"^\d+\. ", "", l) for l in (function.__doc__ or "").splitlines()]
    stated = [l for l in lines if l.startswith(name + "(") and "->" in l and "*args" not in l]
    for line in stated:
        inside = line[len(name) + 1:line.rindex(")", 0, line.rindex("->"))]
        wanted = [p for p in parts(inside) if not p.startswith("self:")]
        names = [p.split(":")[0].strip() for p in wanted]
        needed = sum("=" not in p for p in wanted)
        if needed <= count + len(keywords) <= len(wanted) and set(keywords) <= set(names):
            return True
    return False if stated else None

result = {"tensorrt": tensorrt.__version__, "absent": [], "misfit": [], "unstated": [], "fit": []}
for use in json.load(sys.stdin):
    holder, name = tensorrt, ""
    try:
        for name in use["path"].split("."):
            holder = getattr(holder, name)
    except AttributeError:
        result["absent"].append(use["path"])
        continue
    if use["count"] is not None:
        if isinstance(holder, type):
            holder, name = holder.__init__, "__init__"
        good = fits(holder, name, use["count"], use["keywords"])
        result["fit" if good else "unstated" if good is None else "misfit"].append(use["path"])
print(json.dumps(result))
"""


class Uses(ast.NodeVisitor):
    """The uses of one file: {path in tensorrt: (arguments or None, keywords, where)}."""

    def __init__(self, source: Path) -> None:
        self._file, self._aliases = source.name, dict[str, str]()
        self.found: list[dict[str, Any]] = []
        self.asked: set[str] = set()
        self._calls: dict[int, ast.Call] = {}
        tree = ast.parse(source.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                path = self._path(node.value)
                if path and path[:1].isupper() and isinstance(node.value, ast.Attribute):
                    self._aliases[node.targets[0].id] = path
            if isinstance(node, ast.Call):
                self._calls[id(node.func)] = node
        self.visit(tree)

    def _path(self, node: ast.AST) -> str:
        """What an expression is in tensorrt, such as "BuilderFlag.FP16"; empty when nothing."""
        text = ast.unparse(node) if isinstance(node, (ast.Attribute, ast.Name)) else ""
        if text in OBJECTS:
            return OBJECTS[text]
        if text in self._aliases:
            return self._aliases[text]
        if isinstance(node, ast.Attribute):
            if ast.unparse(node.value) in MODULES:
                return node.attr
            before = self._path(node.value)
            return f"{before}.{node.attr}" if before else ""
        return ""

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Note an attribute of TensorRT's."""
        path = self._path(node)
        if path and ast.unparse(node) not in OBJECTS:
            call = self._calls.get(id(node))
            base = path.endswith(".__init__")  # called on the class: `self` is among the arguments
            self.found.append(
                {
                    "path": path,
                    "count": None if call is None else len(call.args) - base,
                    "keywords": [] if call is None else [k.arg for k in call.keywords],
                    "where": f"{self._file}:{node.lineno}",
                }
            )
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Note a name that the code asks for before it uses it."""
        if isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr"):
            name, holder = node.args[1], self._path(node.args[0])
            known = holder or ast.unparse(node.args[0]) in MODULES
            if known and isinstance(name, ast.Constant) and isinstance(name.value, str):
                self.asked.add(f"{holder}.{name.value}".lstrip("."))
        self.generic_visit(node)


def used() -> tuple[list[dict[str, Any]], set[str]]:
    """Every use in the engine's files, and the names that they ask for first."""
    found: list[dict[str, Any]] = []
    asked: set[str] = set()
    for name in SOURCES:
        uses = Uses(ENGINES / name)
        found += uses.found
        asked |= uses.asked
    # What TensorRT calls in our logger, and what it is called with.
    found.append({"path": "ILogger.log", "count": 2, "keywords": [], "where": "log.py"})
    return found, asked


def expected(version: str) -> Iterator[str]:
    """Names that are looked up by variables, and must be there in this version."""
    major = int(version.split(".", maxsplit=1)[0])
    if major < 11:
        yield from WEAK
        yield from EXTERNAL
    if major == 8:
        yield PREVIEW


def check(python: str) -> dict[str, Any]:
    """One row: what an interpreter's TensorRT says to every use."""
    found, asked = used()
    by_variable = [*WEAK, *EXTERNAL, PREVIEW]
    extra: list[dict[str, Any]] = [
        {"path": path, "count": None, "keywords": []} for path in [*by_variable, *asked]
    ]
    done = subprocess.run(
        [python, "-c", PROBE],
        input=json.dumps([*found, *extra]),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LD_LIBRARY_PATH": libraries(python)},
    )
    if done.returncode:
        raise SystemExit(f"{python} cannot import tensorrt: {done.stderr.strip()[-400:]}")
    said = json.loads(done.stdout)
    allowed = (asked | set(by_variable)) - set(expected(said["tensorrt"]))
    missing = sorted({path for path in said["absent"] if path not in allowed})
    return {
        "tensorrt": said["tensorrt"],
        "checked": sorted({use["path"] for use in [*found, *extra]}),
        "calls": sorted(set(said["fit"])),
        "missing": missing,
        "misfit": sorted(set(said["misfit"])),
        "calls_without_stated_signature": sorted(set(said["unstated"])),
        "absent_and_asked_for_first": sorted(set(said["absent"]) - set(missing)),
    }


def libraries(python: str) -> str:
    """The folders of pip's NVIDIA libraries beside an interpreter, which do not find themselves."""
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    folders = [*sorted(Path(site).glob("nvidia/*/lib")), Path(site) / "tensorrt"]
    return os.pathsep.join([*map(str, folders), os.environ.get("LD_LIBRARY_PATH", "")])


def main() -> None:
    """Check each interpreter; exit 1 when a name is missing or a call does not fit."""
    from benchmarks.common import write_rows

    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--python", action="append", required=True)
    rows = [check(python) for python in options.parse_args().python]
    for row in rows:
        print(
            f"TensorRT {row['tensorrt']}: {len(row['checked'])} names, {len(row['calls'])} calls; "
            f"missing {row['missing'] or 'none'}; misfit {row['misfit'] or 'none'}"
        )
    bad = any(row["missing"] or row["misfit"] for row in rows)
    write_rows("tensorrt_api", rows)
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
