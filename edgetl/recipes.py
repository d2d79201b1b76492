"""Export recipes: export/NAME.toml, and how the packaged TOML folders are found and read."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from edgetl.errors import UnknownNameError, UsageError
from edgetl.spec import Recipe

T = TypeVar("T")
FORMS = {  # of each engine; all but the first three hold integers
    "float": {"onnxruntime", "openvino"},
    "trt-weak": {"tensorrt"},
    "trt-strong": {"tensorrt"},
    "ort-qdq": {"onnxruntime"},
    "nncf": {"openvino"},
    "trt-qdq-weak": {"tensorrt"},
    "trt-qdq-strong": {"tensorrt"},
}
FLOATING = ("float", "trt-weak", "trt-strong")


def parse_toml(data: bytes, kind: type[T], *, where: str) -> T:
    """Read TOML into `kind`; UsageError names the offending path."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return msgspec.convert(tomllib.loads(data.decode()), kind)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{where}: {error}", fix="correct that line of the file.") from error


def check_recipe(recipe: Recipe, *, where: str) -> None:
    """UsageError, naming `where`, for a recipe whose fields contradict each other."""
    for problem, fix in _contradictions(recipe):
        raise UsageError(f"{where}: {problem}.", fix=fix)


def _contradictions(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What is wrong, and the fix."""
    form, integers = recipe.form, recipe.form not in FLOATING
    if not re.fullmatch(r"[a-z0-9](-?[a-z0-9])*", recipe.name) or len(recipe.name) > 60:
        yield (
            f"the name '{recipe.name}' cannot be part of a file's name",
            "use up to 60 of a…z, 0…9 and single - between them.",
        )
    if recipe.engine not in FORMS[form]:
        forms = ", ".join(k for k, v in FORMS.items() if recipe.engine in v)
        yield f"{recipe.engine} has no form '{form}'", f"use one of {forms}."
    precisions = _precisions(recipe)
    if recipe.precision not in precisions:
        yield (
            f"form '{form}' for {recipe.engine} is not {recipe.precision}",
            f"set precision to {' or '.join(precisions)}.",
        )
    if integers and recipe.calibration_images < 1:
        yield "nothing calibrates it", "set calibration_images, to 256, say."
    if (form == "ort-qdq") != bool(recipe.activation):
        yield (
            f"form '{form}' with activation '{recipe.activation}'",
            "set activation to quint8 or qint8 with form ort-qdq, and with no other.",
        )
    if form == "nncf" and "entropy" in recipe.calibration:
        yield "NNCF does not calibrate by entropy", "use minmax or percentile."
    if not integers and (recipe.calibration or recipe.exclude or recipe.fold_normalisation):
        yield (
            f"form '{form}' quantizes nothing",
            "leave calibration, exclude and fold_normalisation away.",
        )
    yield from _session_contradictions(recipe)


def _precisions(recipe: Recipe) -> tuple[str, ...]:
    """What a form can be on an engine."""
    if recipe.form == "float":
        return ("fp32", "bf16", "fp16") if recipe.engine == "openvino" else ("fp32",)
    return ("fp16",) if recipe.form in FLOATING else ("int8",)


def _session_contradictions(recipe: Recipe) -> Iterator[tuple[str, str]]:
    session = recipe.session
    if recipe.engine == "openvino" and "INFERENCE_PRECISION_HINT" not in session:
        yield (
            "the session does not say in which precision OpenVINO runs what is not quantized",
            'set session = { INFERENCE_PRECISION_HINT = "f32" }, bf16 or f16.',
        )
    if recipe.engine == "tensorrt":
        typing = "strong" if recipe.form.endswith("strong") else "weak"
        if session.get("typing") != typing:
            yield f"form '{recipe.form}' is typed otherwise", f'set typing = "{typing}" in session.'
        if recipe.precision == "int8" and "dla" in session:
            yield "explicit Q/DQ does not run on DLA", "use an FP16 form for it."


def packaged(folder: str) -> list[tuple[str, bytes]]:
    """(stem, bytes) of every TOML in the package's `export` or `devices` folder, sorted.

    An installed package has them as `edgetl._recipes` and `edgetl._devices`; a source tree beside
    the code.
    """
    package = {"export": "edgetl._recipes", "devices": "edgetl._devices"}[folder]
    beside = Path(__file__).resolve().parent.parent / folder
    if (beside / "README.md").is_file() and (beside.parent / "pyproject.toml").is_file():
        home = beside
    else:
        home = Path(str(importlib.import_module(package).__file__)).parent
    paths = sorted(home.glob("*.toml"), key=lambda path: path.stem)
    return [(path.stem, path.read_bytes()) for path in paths]


@functools.lru_cache(maxsize=1)
def all_recipes() -> dict[str, Recipe]:
    """Every packaged recipe by name."""
    return {
        stem: parse_toml(data, Recipe, where=f"export/{stem}.toml")
        for stem, data in packaged("export")
    }


def find_recipe(name: str) -> Recipe:
    """Look a recipe up; UnknownNameError suggests the nearest names."""
    recipes = all_recipes()
    if name not in recipes:
        raise UnknownNameError("recipe", name, recipes, listing="edgetl devices TARGET")
    return recipes[name]
