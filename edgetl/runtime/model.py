"""A bundle, opened and ready to predict."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, cast

import numpy as np

from edgetl.bundle import Bundle, Candidate, open_bundle
from edgetl.engines import Description, Images, Outputs, Session
from edgetl.errors import EdgetlError, EngineError, ImageError, UsageError, shell
from edgetl.inputs.formats import ImageSource, is_source
from edgetl.options import LoadOptions, takes
from edgetl.runtime.choose import AUTO, named
from edgetl.runtime.trust import open_best, open_named
from edgetl.tasks.base import Result, finite


class Model(contextlib.AbstractContextManager["Model"]):
    """One candidate of a bundle in one engine; any number of threads may use it at once."""

    def __init__(self, bundle: Bundle, candidate: Candidate, session: Session) -> None:
        self.bundle, self.manifest, self.candidate = bundle, bundle.manifest, candidate
        self.task, self.input = bundle.manifest.task, bundle.manifest.input
        self.labels = self.task.labels
        self._session = session

    def run(self, images: Images) -> Outputs:
        """Raw outputs, float32 `(N, …)`, of preprocessed images uint8 `(N, H, W, 3)`.

        Raises EngineError when the engine answers NaN or infinity to any of them.
        """
        outputs = self._session.run(images)
        if error := self._unusable(outputs):
            raise error
        return outputs

    def probabilities(self, images: Images) -> Any:
        """Calibrated probabilities `(N, K)` of preprocessed images; None if the task has none."""
        return self.task.confidences(self.run(images), self.candidate.settings)

    def _unusable(self, outputs: Outputs, image: str = "") -> EngineError | None:
        """The error for outputs that are no numbers, or None; `image` names the only one."""
        good = finite(outputs)
        bad = int((~good).sum())
        if not bad:
            return None
        described = self._session.describe()
        return EngineError(
            f"{self.candidate.name} answers NaN or infinity to "
            f"{image or f'{bad} of {len(good)} images'}, on {described.engine} "
            f"{described.version}.",
            fix=f"take another candidate: `{shell('edgetl', 'inspect', self.bundle.path)} "
            "--verify` says which are right on this machine.",
        )

    def predict(
        self, images: ImageSource | Iterable[ImageSource], *, top: int = 3, keep_going: bool = False
    ) -> list[Result]:
        """What the task makes of each image: up to `top` predictions, the likeliest first.

        An image is a path, the bytes of a file, a file opened for reading bytes, a Pillow image or
        an array `(H, W, 3)` of RGB. Raises ImageError for one that cannot be read, EngineError for
        one to which the engine answers NaN; with `keep_going` its row says so instead.
        """
        if top < 1:
            raise UsageError(f"top is {top}.", fix="ask for 1 or more.")
        if is_source(images):
            return [self._predict(images, top, keep_going)]
        if isinstance(images, Mapping) or not isinstance(images, Iterable):
            raise UsageError(
                f"images is a {type(images).__name__}.",
                fix="give a path, bytes, an open file, a Pillow image or an array, or a list of "
                "these.",
            )
        return [
            self._predict(each, top, keep_going) for each in cast(Iterable[ImageSource], images)
        ]

    def _predict(self, source: ImageSource, top: int, keep_going: bool) -> Result:
        name = os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else ""
        error: EdgetlError | None = None
        found: tuple[Any, ...] = ()
        try:
            read = self.input.read(source)
            outputs = self._session.run(read.pixels[np.newaxis])
            error = self._unusable(outputs, name)
            if error is None:
                found = self.task.decode(outputs, self.candidate.settings, read.geometry, top=top)
        except ImageError as unreadable:
            error = unreadable
        if error is not None and not keep_going:
            raise error
        return Result(
            image=name,
            predictions=found,
            candidate=self.candidate.name,
            error=None if error is None else str(error),
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

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "A loaded model cannot be pickled, copied or sent to another process.",
            fix="send the bundle's path, and load it there.",
        )


@takes(LoadOptions)
def load(
    bundle: str | os.PathLike[str], *, options: LoadOptions | None = None, **changes: Any
) -> Model:
    """Open a bundle with its fastest candidate here; an explicit engine or precision is kept to.

    `candidate` names one, as `edgetl inspect` lists them, in place of engine and precision.
    One whose self-test fails on this machine is passed by, or runs if nothing else was asked for;
    either is logged as a warning. `threads` 0 means every core. Raises BundleError,
    EngineMissingError or EngineError.
    """
    asked = LoadOptions.of(options, changes)
    opened = open_bundle(bundle)
    try:
        if asked.candidate != AUTO:
            one = named(opened, asked.candidate)
            return Model(opened, one, open_named(opened, one, threads=asked.threads))
        best = open_best(opened, asked.engine, asked.precision, threads=asked.threads)
        return Model(opened, *best)
    except BaseException:
        opened.close()
        raise
