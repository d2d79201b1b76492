"""Which recipes an export tries, from its target, engine and precision."""

from __future__ import annotations

from edgetl.devices import find_device
from edgetl.errors import UsageError
from edgetl.machine import this_machine
from edgetl.recipes import find_recipe
from edgetl.runtime.choose import AUTO
from edgetl.spec import Device, Recipe

BASELINE = "ort-fp32"  # in every bundle: any machine can run it


def plan(target: str, engine: str = AUTO, precision: str = AUTO) -> tuple[Device, list[Recipe]]:
    """The device and its recipes, best first, as far as they match; the baseline is always last.

    Raises UnknownNameError for the target and UsageError when nothing matches.
    """
    device = find_device(target)
    recipes = [find_recipe(name) for name in device.recipes]
    if device.kind == "cpu":
        arch = this_machine().arch
        recipes = [recipe for recipe in recipes if not recipe.arch or arch in recipe.arch]
    matching = [
        recipe
        for recipe in recipes
        if engine in (AUTO, recipe.engine) and precision in (AUTO, recipe.precision)
    ]
    if not matching:
        offered = ", ".join(sorted({f"{r.engine} {r.precision}" for r in recipes}))
        raise UsageError(
            f"Target {target} has no recipe for engine {engine}, precision {precision}.",
            fix=f"choose among {offered}.",
        )
    if BASELINE not in [recipe.name for recipe in matching]:
        matching.append(find_recipe(BASELINE))
    return device, matching
