"""The two seams between edgetl and inference engines."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

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
