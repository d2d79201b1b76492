"""The two seams between edgetl and inference engines."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgetl.errors import EngineError, EngineMissingError
from edgetl.spec import EngineName, Record

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]


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


class Session(Protocol):
    """A loaded model."""

    def run(self, images: Images, out: Logits | None = None) -> Logits:
        """Logits float32 `(N, classes)` of images uint8 `(N, H, W, 3)`, into `out` if given."""
        ...

    def describe(self) -> Description:
        """Engine, version, provider and precision in use, as the engine itself reports them."""
        ...

    def close(self) -> None:
        """Free the model; further runs raise EngineError."""
        ...


class Engine(Protocol):
    """A module of this package."""

    name: EngineName

    def missing(self, session: dict[str, str] | None = None) -> str | None:
        """Why the engine, or a candidate with these session options, cannot run here, and the fix.

        None when it can.
        """
        ...

    def version(self) -> str:
        """The engine's version."""
        ...

    def open(self, files: tuple[bytes, ...], options: Options) -> Session:
        """Load a model from its artifacts; EngineError when a request cannot be honoured."""
        ...


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


def delivered(logits: Logits, out: Logits | None) -> Logits:
    """The logits, in `out` if given; EngineError when they do not fit exactly."""
    if out is None:
        return logits
    if out.shape != logits.shape or out.dtype != np.float32:
        raise EngineError(
            f"out must be float32 {logits.shape}, not {out.dtype} {out.shape}.",
            fix="leave `out` away, or make it of that shape.",
        )
    out[...] = logits
    return out


def closed() -> EngineError:
    """The error for every use of a closed session."""
    return EngineError("The session is closed.", fix="load the bundle again.")


def unloadable(title: str, package: str, error: ImportError) -> EngineMissingError:
    """The error for an engine that is installed but cannot be imported."""
    return EngineMissingError(
        f"{title} is installed but cannot be imported: {first_line(error)}",
        fix=f"reinstall the package {package}.",
    )


def first_line(error: Exception) -> str:
    """The first line of an engine's own words."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
