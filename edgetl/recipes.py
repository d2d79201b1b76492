"""Export recipes, export/NAME.toml, and device profiles, devices/NAME.toml."""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from edgetl.errors import UsageError
from edgetl.registry import look_up
from edgetl.spec import Device, Recipe

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
        raise UsageError(f"{where}: {error}.", fix="correct that line of the file.") from error


def packaged(folder: str, kind: type[T]) -> dict[str, T]:
    """Every TOML in the package's `export` or `devices` folder by its stem, sorted.

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
    return {p.stem: parse_toml(p.read_bytes(), kind, where=f"{folder}/{p.name}") for p in paths}


@functools.lru_cache(maxsize=1)
def all_recipes() -> dict[str, Recipe]:
    """Every packaged recipe by name."""
    return packaged("export", Recipe)


def find_recipe(name: str) -> Recipe:
    """Look a recipe up; UnknownNameError suggests the nearest names."""
    return look_up(name, all_recipes(), "recipe", listing="edgetl devices TARGET")


@functools.lru_cache(maxsize=1)
def all_devices() -> dict[str, Device]:
    """Every device profile by name."""
    return packaged("devices", Device)


def find_device(name: str) -> Device:
    """Look a target up; UnknownNameError suggests the nearest names."""
    return look_up(name, all_devices(), "target", listing="edgetl devices")
