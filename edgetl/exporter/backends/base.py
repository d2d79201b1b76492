"""What every engine's backend says: its forms, how they are built, and what scores them here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

from edgetl.engines import Options, Session, find_engine, ready_engine
from edgetl.errors import UsageError
from edgetl.exporter.context import BuildContext
from edgetl.exporter.quantize.calibration import Rounding
from edgetl.registry import Registry
from edgetl.spec import Calibrator, Recipe

CANONICAL = "models/fp32.onnx"  # the member that float forms of several engines share

Files = dict[str, bytes]  # by member path, in the order that the engine wants them


class Proxy(NamedTuple):
    """What scores a candidate on this machine: its own engine, or one in its place."""

    engine: str
    precision: str
    session: dict[str, str]

    def ready(self) -> None:
        """EngineMissingError where it cannot run here."""
        ready_engine(self.engine, self.session)

    def open(self, files: tuple[bytes, ...]) -> Session:
        """EngineMissingError or EngineError when that cannot be."""
        engine = ready_engine(self.engine, self.session)
        return engine.open(files, Options(precision=self.precision, session=self.session))

    @property
    def version(self) -> str:
        """Engine and version, as candidates store it."""
        return f"{self.engine} {find_engine(self.engine).version()}"


class Backend:
    """Base of all backends; what raises NotImplementedError has to be defined."""

    name: ClassVar[str]  # of the engine
    # Forms of recipes, each with the precisions it may have.
    forms: ClassVar[Mapping[str, tuple[str, ...]]]
    integers: ClassVar[frozenset[str]] = frozenset()  # of the forms: those that hold integers
    rank: ClassVar[int] = 1  # lower ones are tried, and preferred unmeasured, before others

    def contradictions(self, recipe: Recipe) -> Iterator[tuple[str, str]]:
        """What is wrong with a recipe for this engine beyond its form, and the fix."""
        return iter(())

    def build(
        self,
        recipe: Recipe,
        context: BuildContext,
        method: Calibrator,
        keep_float: frozenset[str],
    ) -> Files:
        """The artifact files; integers by one calibration method, but for nodes in `keep_float`.

        Raises EngineError or TraceError.
        """
        raise NotImplementedError

    def proxy(self, recipe: Recipe) -> Proxy:
        """What scores the recipe here; by default the engine itself."""
        return Proxy(self.name, recipe.precision, recipe.session)

    def proxy_files(self, recipe: Recipe, files: Files) -> tuple[bytes, ...]:
        """What the proxy runs; by default the files themselves."""
        return tuple(files.values())

    def rounding(self, recipe: Recipe) -> Rounding:
        """How the engine rounds activations of an INT8 recipe."""
        return "asymmetric"

    def hints(self, recipe: Recipe) -> tuple[str, ...]:
        """Precisions in which this machine can run what is not quantized; "" for no choice."""
        return ("",)

    def hint(self, recipe: Recipe) -> str:
        """The one that the recipe has."""
        return ""

    def with_hint(self, recipe: Recipe, hint: str) -> Recipe:
        """The recipe with another one."""
        return recipe

    def runs_fp16(self, recipe: Recipe) -> bool:
        """Whether something of it is computed in FP16 on its device."""
        return recipe.precision == "fp16"


BASELINE = "ort-fp32"  # the recipe in every bundle: any machine can run it
BACKENDS: Registry[Backend] = Registry(
    "backend",
    "edgetl.backends",
    {
        "onnxruntime": "edgetl.exporter.backends.onnxruntime:backend",
        "openvino": "edgetl.exporter.backends.openvino:backend",
        "tensorrt": "edgetl.exporter.backends.tensorrt:backend",
    },
    Backend,
)


def backend_of(recipe: Recipe) -> Backend:
    """The backend of a recipe's engine; UnknownNameError when there is none."""
    return BACKENDS.find(recipe.engine)


def check_recipe(recipe: Recipe, *, where: str) -> None:
    """UsageError, naming `where`, for a recipe whose fields contradict each other."""
    for problem, fix in _contradictions(recipe):
        raise UsageError(f"{where}: {problem}.", fix=fix)


def _contradictions(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What is wrong, and the fix."""
    if not re.fullmatch(r"[a-z0-9](-?[a-z0-9])*", recipe.name) or len(recipe.name) > 60:
        yield (
            f"the name '{recipe.name}' cannot be part of a file's name",
            "use up to 60 of a…z, 0…9 and single - between them.",
        )
    if recipe.engine not in BACKENDS:
        yield (
            f"there is no engine '{recipe.engine}'",
            f"use one of {', '.join(BACKENDS.names())}.",
        )
        return
    backend, form = backend_of(recipe), recipe.form
    if form not in backend.forms:
        yield f"{recipe.engine} has no form '{form}'", f"use one of {', '.join(backend.forms)}."
        return
    if recipe.precision not in backend.forms[form]:
        yield (
            f"form '{form}' for {recipe.engine} is not {recipe.precision}",
            f"set precision to {' or '.join(backend.forms[form])}.",
        )
    integers = form in backend.integers
    if integers and recipe.calibration_images < 1:
        yield "nothing calibrates it", "set calibration_images, to 256, say."
    if not integers and (recipe.calibration or recipe.exclude or recipe.fold_normalisation):
        yield (
            f"form '{form}' quantizes nothing",
            "leave calibration, exclude and fold_normalisation away.",
        )
    yield from backend.contradictions(recipe)
