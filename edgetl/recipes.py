"""Export recipes: export/NAME.toml, and how the packaged TOML folders are found and read."""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from edgetl.errors import UnknownNameError, UsageError
from edgetl.spec import Recipe

T = TypeVar("T")


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
