"""Which recipes an export tries, from its targets, engine and precision."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgetl.engines import check_settings, missing
from edgetl.errors import EngineError, UsageError
from edgetl.exporter.backends import BASELINE, backend_of, check_recipe
from edgetl.machine import this_machine
from edgetl.recipes import all_recipes, find_device, find_recipe, parse_toml
from edgetl.runtime.choose import AUTO
from edgetl.spec import Device, Recipe

TAKEN = "fp32|inputs|pixels|.*-qat|.*-mixed[0-9]*"  # members of bundles, and names made of recipes


class Plan(NamedTuple):
    """What an export is for, and what it tries, best first; the baseline is always in it."""

    devices: tuple[Device, ...]
    recipes: tuple[Recipe, ...]

    @property
    def measured(self) -> frozenset[str]:
        """Recipes of targets that are this machine: their speed is measured at once.

        A user's own recipe may be meant for the other targets: then it must be able to run here.
        """
        here = [device for device in self.devices if device.kind == "cpu"]
        if not here:
            return frozenset()
        found = [recipe for recipe in self.recipes if recipe.name not in all_recipes()]
        if len(here) < len(self.devices):
            found = [r for r in found if _fits(r) and not missing(r.engine, r.session)]
        found += [recipe for device in here for recipe in _of(device)]
        return frozenset(recipe.name for recipe in found) | {BASELINE}


def plan(
    targets: str,
    engine: str = AUTO,
    precision: str = AUTO,
    *,
    dla: bool = False,
    extra: Sequence[Path] = (),
) -> Plan:
    """The devices that `targets` names, separated by commas, and the recipes that match.

    `dla` adds the recipes of a Jetson's deep learning accelerator, `extra` those of TOML files.
    Raises UnknownNameError for a target, UsageError for a file or when nothing matches.
    """
    names = [name.strip() for name in targets.split(",")]
    if len(set(names)) < len(names):
        raise UsageError(f"--target {targets} names a device twice.", fix="name each one once.")
    devices = tuple(find_device(name) for name in names)
    recipes = [recipe for device in devices for recipe in _of(device)]
    wanted = devices if dla else ()
    more = [find_recipe(name) for device in wanted for name in device.dla_recipes]
    if dla and not more:
        raise UsageError(
            f"No deep learning accelerator is known of {targets}.",
            fix="leave --dla away, or choose a target with one: `edgetl devices` lists them.",
        )
    read = [_read(path) for path in extra]
    if len({recipe.name for recipe in read}) < len(read):
        raise UsageError("Two --recipe files have one name.", fix="give each one its own.")
    unique = {recipe.name: recipe for recipe in (*recipes, *more, *read)}
    matching = [
        recipe
        for recipe in unique.values()
        if engine in (AUTO, recipe.engine) and precision in (AUTO, recipe.precision)
    ]
    tried = {recipe.name for recipe in matching}
    lost = [recipe.name for recipe in (*read, *more) if recipe.name not in tried]
    if lost and matching:
        raise UsageError(
            f"--engine {engine}, --precision {precision} leave out {', '.join(lost)}, which was "
            "asked for.",
            fix="leave --engine and --precision away, or --recipe and --dla.",
        )
    if not matching:
        offered = ", ".join(sorted({f"{r.engine} {r.precision}" for r in unique.values()}))
        raise UsageError(
            f"Target {targets} has no recipe for engine {engine}, precision {precision}.",
            fix=f"choose among {offered}.",
        )
    if BASELINE not in [recipe.name for recipe in matching]:
        matching.append(find_recipe(BASELINE))
    return Plan(devices, tuple(sorted(matching, key=lambda recipe: backend_of(recipe).rank)))


def _of(device: Device) -> list[Recipe]:
    recipes = map(find_recipe, device.recipes)
    return [recipe for recipe in recipes if device.kind != "cpu" or _fits(recipe)]


def _fits(recipe: Recipe) -> bool:
    """Whether this machine's processor is one that the recipe's files are meant for."""
    return not recipe.arch or this_machine().arch in recipe.arch


def _read(path: Path) -> Recipe:
    """A recipe from a user's TOML file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"Cannot read --recipe {path}: {error.strerror}.", fix="check the path."
        ) from error
    recipe = parse_toml(data, Recipe, where=str(path))
    check_recipe(recipe, where=str(path))
    try:
        check_settings(recipe.engine, recipe.session)
    except EngineError as error:
        raise UsageError(f"{path}: {error.message}", fix=error.fix) from error
    if re.fullmatch(TAKEN, recipe.name):
        raise UsageError(
            f"{path} is named '{recipe.name}', as a part of every bundle or a candidate of "
            "--qat or --search may be.",
            fix="give it a name of its own.",
        )
    if recipe.name in all_recipes():
        raise UsageError(
            f"{path} is named '{recipe.name}', as a recipe of edgetl is.",
            fix="give it a name of its own.",
        )
    return recipe
