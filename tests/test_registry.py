"""Engines and backends from outside: found by their entry points, and harmless where they fail."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgetl
from edgetl.bundle import open_bundle
from edgetl.engines.base import Engine
from edgetl.errors import EdgetlError, EngineMissingError, UnknownNameError, UsageError
from edgetl.registry import Registry
from edgetl.runtime.build import builds
from edgetl.runtime.choose import named, ranked, unfit
from edgetl.runtime.selftest import self_test
from tests.cli.typed import COLOURS
from tests.exporter import small

ENGINE = '''
"""ONNX Runtime under another name, with an option of its own."""
import msgspec
from edgetl.engines import Description, Missing, onnxruntime
from edgetl.engines.base import Setting

name = "echo"
SETTABLE = {"tone": Setting("low|high", "low or high")}
builder = None

def missing(session=None):
    if (session or {}).get("tone") == "high":
        return Missing("The echo is too low here.", "take a lower tone")

def version():
    return "7.1"

def open(files, options):
    return Echo(onnxruntime.open(files, msgspec.structs.replace(options, session={})))

class Echo:
    def __init__(self, inner):
        self.inner, self.run = inner, inner.run
        self.outputs, self.close = inner.outputs, inner.close

    def describe(self):
        return msgspec.structs.replace(self.inner.describe(), engine=name, version=version())
'''
BACKEND = '''
"""Its files: the canonical ONNX, or integers by ONNX Runtime's quantizer."""
import msgspec
from edgetl.exporter.backends import BACKENDS, Backend

class EchoBackend(Backend):
    name = "echo"
    forms = {"echo-float": ("fp32",), "echo-whole": ("int8",)}
    integers = frozenset({"echo-whole"})

    def contradictions(self, recipe):
        if "tone" not in recipe.session:
            yield "the session states no tone", 'set session = { tone = "low" }.'

    def build(self, recipe, context, method, keep_float):
        if recipe.form == "echo-float":
            return {f"models/{recipe.name}.onnx": context.canonical}
        as_ort = msgspec.structs.replace(recipe, form="ort-qdq", activation="quint8")
        return BACKENDS.find("onnxruntime").build(as_ort, context, method, keep_float)

backend = EchoBackend()
'''
RECIPE = """
name = "{name}"
title = "An echo"
engine = "echo"
precision = "fp32"
form = "echo-float"
session = {{ tone = "low" }}
"""
WHOLE = RECIPE.replace("fp32", "int8").replace("-float", "-whole") + "calibration_images = 16\n"


def install(folder: Path, name: str, points: str, **modules: str) -> None:
    """A distribution, as pip would lay it into site-packages."""
    folder.mkdir(exist_ok=True)
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that works, one that cannot be imported, and one that wants another's name."""
    folder = tmp_path_factory.mktemp("plugins") / "site"
    points = (
        "[edgetl.engines]\necho = echo_engine\n[edgetl.backends]\necho = echo_backend:backend\n"
    )
    install(folder, "edgetl-echo", points, echo_engine=ENGINE, echo_backend=BACKEND)
    points = "[edgetl.engines]\nbroken = broken_engine\n"
    install(folder, "edgetl-broken", points, broken_engine="raise OSError('its library is gone')")
    install(folder, "edgetl-thief", "[edgetl.engines]\nonnxruntime = echo_engine\n")
    return folder


Typed = Callable[..., tuple[Any, str]]


@pytest.fixture(scope="module")
def typed(plugins: Path, tmp_path_factory: pytest.TempPathFactory) -> Typed:
    """Type a command where the plug-ins are installed: its JSON, and stderr."""
    cache = tmp_path_factory.mktemp("cache")
    paths = os.pathsep.join([str(plugins), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(*words: Any, code: int = 0) -> tuple[Any, str]:
        done = subprocess.run(
            [sys.executable, "-m", "edgetl", *map(str, words), "--json"],
            env=os.environ | {"PYTHONPATH": paths, "EDGETL_CACHE": str(cache)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout), done.stderr

    return run


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Somebody's ONNX file, and photos for it."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "given.onnx").write_bytes(small.given())
    return folder / "given.onnx", small.folder(folder / "photos", 24)


@pytest.fixture(scope="module")
def exported(
    typed: Typed, given: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any, str]:
    """A bundle of the plug-in's candidates and the baseline, what was printed, and stderr."""
    folder = tmp_path_factory.mktemp("exported")
    recipes: list[Any] = []
    for name, text in (("echo-fp32", RECIPE), ("echo-int8", WHOLE)):
        path = folder / f"{name}.toml"
        path.write_text(text.format(name=name))
        recipes += ["--recipe", path]
    bundle = folder / "x.edgetl"
    words = ("--target", "cpu", "--engine", "echo", "--qat", "never", "--search", "always")
    more = ("--budget", "2s", "--max-drop", "0.9", "--out", bundle)
    printed, said = typed(
        "export", given[0], "--calib", given[1], *COLOURS, *words, *recipes, *more
    )
    return bundle, printed, said


def test_a_plugin_is_built_gated_searched_measured_and_chosen(
    exported: tuple[Path, Any, str],
) -> None:
    bundle, printed, said = exported
    with open_bundle(bundle) as opened:
        found = {c.name: c for c in opened.manifest.candidates}
        assert found.keys() >= {"ort-fp32", "echo-fp32", "echo-int8"}
        echo = named(opened, "echo-fp32")
        assert opened.manifest.chosen.startswith("echo")
    assert (echo.engine, echo.session, echo.checked_with) == ("echo", {"tone": "low"}, "echo 7.1")
    assert echo.p50_ms is not None
    assert found["echo-int8"].quantization is not None
    assert "trial 1, in float" in said
    assert [row["engine"] for row in printed["candidates"]].count("echo") >= 2


def test_a_plugin_predicts(
    typed: Typed, exported: tuple[Path, Any, str], given: tuple[Path, Path]
) -> None:
    photo = next((given[1] / "disc").iterdir())
    rows, _ = typed("predict", exported[0], photo, "--engine", "echo")
    assert json.dumps(rows).count("disc")


def test_the_doctor_names_what_fails_and_the_rest_works(typed: Typed) -> None:
    document, said = typed("doctor")
    left = [line for line in said.splitlines() if "is left out" in line]
    assert sorted(left) == [
        "edgetl: engine 'broken' of edgetl-broken is left out: its library is gone",
        "edgetl: engine 'onnxruntime' of edgetl-thief is left out: the name is taken",
    ]
    parts = {part["name"]: part for part in document["parts"]}
    assert parts["echo"] == {"name": "echo", "version": "7.1", "purpose": "engine", "fix": ""}
    assert "broken" not in parts
    assert parts["onnxruntime"]["version"] != "7.1"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"echo-float": "float"}, "echo has no form 'float'.* use one of echo-float, echo-whole"),
        ({'"fp32"': '"bf16"'}, "form 'echo-float' for echo is not bf16"),
        ({"tone": "colour"}, "states no tone"),
        ({'"low"': '"loud"'}, "cannot have tone = 'loud'.* choose low or high"),
        ({'"echo"': '"ecko"'}, "no engine 'ecko'.* one of onnxruntime, openvino, tensorrt, echo"),
    ],
)
def test_a_recipe_of_a_plugin_is_checked_by_it(
    *,
    changes: dict[str, str],
    said: str,
    typed: Typed,
    given: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    import re

    text = RECIPE.format(name="mine")
    for old, new in changes.items():
        text = text.replace(old, new)
    (tmp_path / "mine.toml").write_text(text)
    words = ("--target", "cpu", "--recipe", tmp_path / "mine.toml", "--out", tmp_path / "x.edgetl")
    document, _ = typed("export", given[0], "--calib", given[1], *words, code=1)
    error = document["error"]
    assert re.search(said, f"{error['message']} {error['fix']}"), error


def test_without_the_plugin_the_other_candidates_run(
    exported: tuple[Path, Any, str], given: tuple[Path, Path]
) -> None:
    """As on a device where it was not installed: this process does not see it."""
    with open_bundle(exported[0]) as bundle:
        echo = named(bundle, "echo-fp32")
        reason = unfit(echo)
        assert reason is not None
        known = "onnxruntime, openvino, tensorrt"
        assert reason.message == f"There is no engine 'echo', only {known}."
        assert [c.name for c in ranked(bundle)] == ["ort-fp32"]
        assert not builds(echo)
        checks = {check.name: check for check in self_test(bundle)}
        assert checks["echo-fp32"].passed is None
        assert checks["ort-fp32"].passed
    with edgetl.load(exported[0]) as model:
        assert model.candidate.name == "ort-fp32"
    with pytest.raises(EngineMissingError, match="There is no engine 'echo'"):
        edgetl.load(exported[0], candidate="echo-fp32")
    with pytest.raises(UsageError, match="--engine echo is not possible") as error:
        edgetl.load(exported[0], engine="echo")
    assert error.value.fix == f"choose among auto, {known}."


# --- the registry itself ------------------------------------------------------------------------


@pytest.fixture
def registry(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    """A new one that sees the plug-ins."""
    monkeypatch.syspath_prepend(str(plugins))
    monkeypatch.delitem(sys.modules, "echo_engine", raising=False)
    own = {"onnxruntime": "edgetl.engines.onnxruntime", "split": "edgetl.data.groups:split_groups"}
    return Registry("engine", "edgetl.engines", own, Engine)


def test_a_registry_imports_what_is_asked_for(registry: Registry[Any]) -> None:
    from edgetl.engines import onnxruntime

    assert registry.find("onnxruntime") is onnxruntime
    assert registry.find("echo").version() == "7.1"
    assert sorted(registry.names()) == sorted([*registry.own, "echo", "broken"])
    assert "echo" in registry
    assert "broken" not in registry
    assert registry.names() == (*registry.own, "echo")
    assert 3 not in registry


def test_a_registry_knows_the_nearest_names(registry: Registry[Any]) -> None:
    with pytest.raises(UnknownNameError, match="Unknown engine 'onxruntime': did you mean onnxr"):
        registry.find("onxruntime")


def test_a_failing_plugin_is_said_once(
    registry: Registry[Any], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        with caplog.at_level(logging.WARNING, "edgetl"), pytest.raises(EdgetlError):
            registry.find("broken")
    assert caplog.text.count("'broken' of edgetl-broken is left out: its library is gone") == 1
    assert caplog.text.count("'onnxruntime' of edgetl-thief is left out") == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("builder = None", ""), "it has no builder"),
        (("def version", "def edition"), "it has no version"),
        (('"echo"', '"ecko"'), "it calls itself 'ecko'"),
    ],
)
def test_a_plugin_that_lacks_something_is_left_out(
    *,
    changed: tuple[str, str],
    said: str,
    registry: Registry[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    points = "[edgetl.engines]\nhalf = half_engine\n"
    text = ENGINE.replace('"echo"', '"half"') if "it has" in said else ENGINE
    install(tmp_path / "half", "edgetl-half", points, half_engine=text.replace(*changed))
    monkeypatch.syspath_prepend(str(tmp_path / "half"))
    monkeypatch.delitem(sys.modules, "half_engine", raising=False)
    with pytest.raises(EdgetlError, match="Unknown engine 'half'"):
        registry.find("half")
    assert f"engine 'half' of edgetl-half is left out: {said}" in caplog.text


def test_of_two_plugins_of_one_name_one_is_left_out(
    registry: Registry[Any],
    plugins: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    install(tmp_path / "more", "edgetl-other", "[edgetl.engines]\necho = echo_engine\n")
    monkeypatch.syspath_prepend(str(tmp_path / "more"))
    assert registry.find("echo")
    assert caplog.text.count("'echo' of edgetl-") == 1
    assert "the name is taken" in caplog.text


def test_loading_a_bundle_reads_no_entry_points(tiny_bundle: Path) -> None:
    """That would read the metadata of every package, and import every plug-in, at each start."""
    program = """
import importlib.metadata, sys
def refuse(**_):
    raise AssertionError("entry points are read")
importlib.metadata.entry_points = refuse
import edgetl, edgetl.cli.app
edgetl.load(sys.argv[1]).close()
edgetl.load(sys.argv[1], engine="onnxruntime").close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tiny_bundle], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
