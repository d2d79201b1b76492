"""The two seams between edgetl and inference engines."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edgetl.errors import EngineError, EngineMissingError
from edgetl.spec import Record

Images = npt.NDArray[np.uint8]
Outputs = dict[str, npt.NDArray[np.float32]]  # arrays (N, …) by the output's name
T = TypeVar("T")

SIZES = 4  # batch sizes that a session keeps compiled


class Description(Record, frozen=True, kw_only=True):
    """What a session really runs on."""

    engine: str
    version: str
    provider: str
    precision: str
    threads: int


class Options(Record, frozen=True, kw_only=True):
    """How a session is opened; `session` holds the recipe's own options."""

    precision: str
    threads: int = 0  # 0: every core this process may use
    session: dict[str, str] = {}


class Missing(NamedTuple):
    """Why something cannot run on this machine, and what helps."""

    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.message} Fix: {self.fix}"


class Ahead(Record, frozen=True, kw_only=True):
    """What a builder put into the cache, or found there."""

    cached: bool  # it lay there before
    build_s: float
    size_mib: float
    placement: str  # what runs on an accelerator of its own, if anything


class Builder(NamedTuple):
    """The step of an engine that compiles files for one machine, which may take minutes, ahead."""

    prepare: Callable[[tuple[bytes, ...], Options, int], Ahead]  # for a batch size, into the cache
    pending: Callable[[tuple[bytes, ...], Options, int], str | None]  # a line on what is not there


class Setting(NamedTuple):
    """A session option that a candidate may set."""

    values: str  # regular expression that the whole value matches
    words: str  # the same in words


class Session(Protocol):
    """A loaded model; `run` may be called from any number of threads at once."""

    def run(self, images: Images) -> Outputs:
        """Every output, float32 `(N, …)`, of images uint8 `(N, H, W, 3)`; the caller's own."""

    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what `run` returns for one image, without N."""

    def describe(self) -> Description:
        """Engine, version, provider and precision in use, as the engine itself reports them."""

    def close(self) -> None:
        """Free the model, after runs that have begun; further runs raise EngineError."""


class Engine(Protocol):
    """A module of this package, or what a plug-in's entry point `edgetl.engines` names."""

    name: str
    SETTABLE: dict[str, Setting]  # what a candidate may set; everything else is refused
    builder: Builder | None  # None: files run as they are

    def missing(self, session: dict[str, str] | None = None) -> Missing | None:
        """Why the engine, or a candidate with these session options, cannot run here, or None."""

    def version(self) -> str:
        """The engine's version."""

    def open(self, files: tuple[bytes, ...], options: Options) -> Session:
        """Load a model from its artifacts; EngineError when a request cannot be honoured."""


def check_settings(engine: str, settable: dict[str, Setting], session: dict[str, str]) -> None:
    """EngineError for an option, or a value of one, that a candidate may not set.

    A bundle may be a stranger's, and engines have options that write files, read weights from
    elsewhere or load libraries. So only what is known to be harmless is passed on.
    """
    if unknown := sorted(session.keys() - settable):
        named = ", ".join(repr(key[:80]) for key in unknown[:3])
        raise EngineError(
            f"A candidate of {engine} may not set the session option {named}"
            + (f" and {len(unknown) - 3} more." if len(unknown) > 3 else "."),
            fix=f"it may set {', '.join(settable) or 'none'}; correct the recipe and export again.",
        )
    for key, value in session.items():
        if not re.fullmatch(settable[key].values, value):
            raise EngineError(
                f"A candidate of {engine} cannot have {key} = {value[:80]!r}.",
                fix=f"choose {settable[key].words}; correct the recipe and export again.",
            )


class Recent(Generic[T]):
    """Values by batch size: that of 1, and of the `SIZES - 1` others that were used last.

    Guard it by a lock.
    """

    def __init__(self) -> None:
        self._kept: dict[int, T] = {}  # the longest unused first

    def get(self, batch: int) -> T | None:
        """The value, which counts as used now, or None."""
        value = self._kept.pop(batch, None)
        if value is not None:
            self._kept[batch] = value
        return value

    def put(self, batch: int, value: T) -> T | None:
        """Keep a value; returns the one that had to make room, if any."""
        self._kept[batch] = value
        if len(self._kept) <= SIZES:
            return None
        return self._kept.pop(next(size for size in self._kept if size != 1))

    def clear(self) -> list[T]:
        """Forget all values, and return them."""
        values = list(self._kept.values())
        self._kept.clear()
        return values


def accepted(images: Images, wanted: tuple[int, ...]) -> Images:
    """The images as one block of memory; EngineError unless uint8 `(N, *wanted)` and N ≥ 1.

    Engines differ in what they refuse by themselves: OpenVINO casts other types silently.
    """
    shape, kind = getattr(images, "shape", ()), getattr(images, "dtype", type(images).__name__)
    if kind != np.uint8 or not shape or shape[0] < 1 or shape[1:] != wanted:
        sides = ", ".join(map(str, wanted))
        raise EngineError(
            f"The model reads uint8 images of shape (N, {sides}), not {kind} {shape}.",
            fix="prepare images by the bundle's own preprocessing.",
        )
    return np.ascontiguousarray(images)


def still_open(held: T | None) -> T:
    """What a session holds until it is closed; EngineError once it is."""
    if held is None:
        raise EngineError("The session is closed.", fix="load the bundle again.")
    return held


def imported(title: str, package: str) -> Any:
    """An engine's package; EngineMissingError where it is installed but cannot be imported."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise EngineMissingError(
            f"{title} is installed but cannot be imported: {first_line(error)}",
            fix=f"reinstall the package {package}.",
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an engine's own words."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
