"""A bundle, opened and ready to predict."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from edgetl.bundle import Bundle, open_bundle
from edgetl.engines import Description, Images, Logits, Session
from edgetl.errors import ImageError, UsageError
from edgetl.metrics import softmax
from edgetl.preprocess import Source, pixels
from edgetl.runtime.choose import AUTO, named
from edgetl.runtime.trust import open_best, open_named
from edgetl.spec import Candidate, Prediction, Result


class Model(contextlib.AbstractContextManager["Model"]):
    """One candidate of a bundle in one engine; use it from one thread at a time."""

    def __init__(self, bundle: Bundle, candidate: Candidate, session: Session) -> None:
        self.bundle, self.manifest, self.candidate = bundle, bundle.manifest, candidate
        self.labels = bundle.manifest.labels
        self._session = session

    def logits(self, images: Images) -> Logits:
        """Raw logits float32 `(N, classes)` of preprocessed images uint8 `(N, size, size, 3)`."""
        return self._session.run(images)

    def probabilities(self, images: Images) -> Logits:
        """Calibrated probabilities float32 `(N, classes)` of preprocessed images."""
        return softmax(self._session.run(images), self.candidate.temperature)

    def predict(
        self, images: Source | Sequence[Source], *, top: int = 3, keep_going: bool = False
    ) -> list[Result]:
        """The `top` classes of each image: paths, bytes, Pillow images or arrays `(H, W, 3)` RGB.

        Raises ImageError for an image that cannot be read; with `keep_going` its row says so
        instead.
        """
        if top < 1:
            raise UsageError(f"top is {top}.", fix="ask for 1 or more classes.")
        single = isinstance(images, (str, bytes, os.PathLike, Image.Image, np.ndarray))
        sources: Sequence[Any] = [images] if single else images  # type: ignore[assignment]
        return [self._predict(source, top, keep_going) for source in sources]

    def _predict(self, source: Source, top: int, keep_going: bool) -> Result:
        name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
        try:
            image = pixels(source, self.manifest.preprocess)
        except ImageError as error:
            if not keep_going:
                raise
            return Result(
                image=name, predictions=(), candidate=self.candidate.recipe, error=str(error)
            )
        chance = self.probabilities(image[np.newaxis])[0]
        best = np.argsort(-chance, kind="stable")[:top]
        return Result(
            image=name,
            predictions=tuple(
                Prediction(label=self.labels[i], probability=float(chance[i])) for i in best
            ),
            candidate=self.candidate.recipe,
        )

    def describe(self) -> Description:
        """Engine, version, provider and precision in use."""
        return self._session.describe()

    def close(self) -> None:
        """Free the engine's model and the file."""
        self._session.close()
        self.bundle.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    bundle: str | os.PathLike[str],
    *,
    engine: str = AUTO,
    precision: str = AUTO,
    candidate: str = AUTO,
    threads: int = 0,
) -> Model:
    """Open a bundle with its fastest candidate here; an explicit engine or precision is kept to.

    `candidate` names one, as `edgetl inspect` lists them, in place of engine and precision.
    One whose self-test fails on this machine is passed by, or runs if nothing else was asked for;
    either is logged as a warning. `threads` 0 means every core. Raises BundleError,
    EngineMissingError or EngineError.
    """
    opened = open_bundle(bundle)
    try:
        if candidate != AUTO:
            if (engine, precision) != (AUTO, AUTO):
                raise UsageError(
                    f"Candidate {candidate} has an engine and a precision of its own.",
                    fix="leave --engine and --precision away, or --candidate.",
                )
            asked = named(opened, candidate)
            return Model(opened, asked, open_named(opened, asked, threads=threads))
        return Model(opened, *open_best(opened, engine, precision, threads=threads))
    except BaseException:
        opened.close()
        raise
