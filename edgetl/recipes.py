"""Export recipes: export/NAME.toml, and how the packaged TOML folders are found and read."""

from __future__ import annotations

import functools
import importlib
import re
import sys
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
    problem = fix = ""
    integers = recipe.form not in FLOATING
    if not re.fullmatch(r"[a-z0-9](-?[a-z0-9])*", recipe.name) or len(recipe.name) > 60:
        problem = f"the name '{recipe.name}' cannot be part of a file's name"
        fix = "use up to 60 of a…z, 0…9 and single - between them."
    elif recipe.engine not in FORMS[recipe.form]:
        problem = f"{recipe.engine} has no form '{recipe.form}'"
        fix = f"use one of {', '.join(k for k, v in FORMS.items() if recipe.engine in v)}."
    elif integers != (recipe.precision == "int8"):
        problem = f"form '{recipe.form}' is not {recipe.precision}"
        fix = 'set precision = "int8" with forms that hold integers, and with no other.'
    elif integers and recipe.calibration_images < 1:
        problem, fix = "nothing calibrates it", "set calibration_images, to 256, say."
    elif (recipe.form == "ort-qdq") != bool(recipe.activation):
        problem = f"form '{recipe.form}' with activation '{recipe.activation}'"
        fix = "set activation to quint8 or qint8 with form ort-qdq, and with no other."
    elif recipe.form == "nncf" and "entropy" in recipe.calibration:
        problem, fix = "NNCF does not calibrate by entropy", "use minmax or percentile."
    elif not 0 <= recipe.min_agreement <= 1:
        problem, fix = f"min_agreement is {recipe.min_agreement}", "give a share, 0…1."
    if problem:
        raise UsageError(f"{where}: {problem}.", fix=fix)


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
