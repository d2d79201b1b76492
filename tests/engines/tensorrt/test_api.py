"""Every name that edgetl uses of TensorRT, against a real TensorRT where one is named.

EDGETL_TRT_PYTHON names a Python interpreter that can import tensorrt, numpy and msgspec; it needs
no GPU. The checker itself is tested without one.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import edgetl

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "tensorrt_api.py"


@pytest.fixture(scope="module")
def checker() -> Any:
    if not SCRIPT.is_file():
        pytest.skip("the benchmarks are not beside the tests")
    spec = importlib.util.spec_from_file_location("tensorrt_api", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def python() -> str:
    named = os.environ.get("EDGETL_TRT_PYTHON", "")
    if not named:
        pytest.skip("EDGETL_TRT_PYTHON names no interpreter with tensorrt")
    return named


def test_uses_are_found_with_their_arguments(checker: Any, tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(
        "def f(trt, builder, wanted):\n"
        "    creation = trt.NetworkDefinitionCreationFlag\n"
        "    if hasattr(creation, 'STRONGLY_TYPED'):\n"
        "        use(creation.STRONGLY_TYPED, getattr(builder, 'fast', True))\n"
        "    config = builder.create_builder_config()\n"
        "    config.set_flag(trt.BuilderFlag.FP16, on=True)\n"
        "    config.DLA_core = wanted.dla\n"
    )
    uses = checker.Uses(source)
    found = {use["path"]: (use["count"], use["keywords"]) for use in uses.found}
    assert found == {
        "NetworkDefinitionCreationFlag": (None, []),
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED": (None, []),
        "Builder.create_builder_config": (0, []),
        "IBuilderConfig.set_flag": (1, ["on"]),
        "BuilderFlag": (None, []),
        "BuilderFlag.FP16": (None, []),
        "IBuilderConfig.DLA_core": (None, []),
    }
    assert uses.asked == {"NetworkDefinitionCreationFlag.STRONGLY_TYPED", "Builder.fast"}


def test_the_engine_uses_what_it_must(checker: Any) -> None:
    found, asked = checker.used()
    calls = {use["path"]: use["count"] for use in found if use["count"] is not None}
    assert calls["IExecutionContext.execute_async_v3"] == 1
    assert calls["IOptimizationProfile.set_shape"] == 4
    assert calls["IBuilderConfig.set_timing_cache"] == 2
    assert "NetworkDefinitionCreationFlag.STRONGLY_TYPED" in asked
    assert len({use["path"] for use in found}) > 50


def probe(checker: Any, tmp_path: Path, uses: list[dict[str, Any]]) -> Any:
    """What the probe says of a tensorrt that is written here."""
    (tmp_path / "tensorrt.py").write_text(
        "__version__ = '8.5.2'\n"
        "class Builder:\n"
        "    def build(self): pass\n"
        "    build.__doc__ = 'build(self: t.Builder, a: Dict[str, int], b: int = 0) -> int'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", checker.PROBE],
        input=checker.json.dumps(uses),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    return checker.json.loads(done.stdout)


@pytest.mark.parametrize(
    ("use", "verdict"),
    [
        (("Builder.build", 1, []), "fit"),
        (("Builder.build", 2, []), "fit"),
        (("Builder.build", 1, ["b"]), "fit"),
        (("Builder.build", 0, []), "misfit"),
        (("Builder.build", 3, []), "misfit"),
        (("Builder.build", 1, ["c"]), "misfit"),
        (("Builder.make", None, []), "absent"),
    ],
)
def test_the_probe_tells_what_does_not_fit(
    checker: Any, tmp_path: Path, use: tuple[str, int | None, list[str]], verdict: str
) -> None:
    path, count, keywords = use
    said = probe(checker, tmp_path, [{"path": path, "count": count, "keywords": keywords}])
    assert said["tensorrt"] == "8.5.2"
    assert {kind: said[kind] for kind in ("fit", "misfit", "absent")} == {
        kind: [path] if kind == verdict else [] for kind in ("fit", "misfit", "absent")
    }


def test_every_name_exists_in_a_real_tensorrt(checker: Any, python: str) -> None:
    row = checker.check(python)
    assert row["missing"] == []
    assert row["misfit"] == []
    assert len(row["calls"]) > 30


REFUSALS = """
import tensorrt as trt
from edgetl.engines import Options, tensorrt
from edgetl.engines.tensorrt import cuda
from edgetl.engines.tensorrt import build as trt_build
from edgetl.engines.tensorrt import log as trt_log
from edgetl.errors import EngineError
if not cuda.silence():
    raise SystemExit("a GPU answers here")
wanted = Options(precision="int8", session={"typing": tensorrt.mistyped("weak") and "strong"
                                            or "weak"})
print(tensorrt.missing(wanted.session))
try:
    trt_build.build(trt, b"", trt_build.settings(wanted, trt.__version__), 1)
except EngineError as error:
    print(error)
log = trt_log.log_of(trt)
assert isinstance(log, trt.ILogger)
"""


def test_a_real_tensorrt_without_a_gpu_is_refused_in_its_words(checker: Any, python: str) -> None:
    home = Path(edgetl.__file__).parent.parent
    extra = {"PYTHONPATH": str(home), "LD_LIBRARY_PATH": checker.libraries(python)}
    done = subprocess.run(
        [python, "-c", REFUSALS],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | extra,
    )
    if "a GPU answers here" in done.stderr:
        pytest.skip("a GPU answers here")
    assert done.returncode == 0, done.stderr
    missing, built = done.stdout.splitlines()
    assert missing.startswith("No CUDA device answers here (")
    assert "cannot start its builder: " in built
    assert "CUDA initialization failure" in built
