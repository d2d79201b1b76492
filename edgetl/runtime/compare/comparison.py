"""What a comparison of candidates says, and how it is worked out from their logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edgetl.data.found import Found
from edgetl.inputs.base import Geometry, Input
from edgetl.metrics import Interval
from edgetl.spec import Record
from edgetl.tasks.base import Outputs, Prediction, Task, finite, take

Table = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

NOT_FINITE = "NaN or infinity"  # stands for the class where there is none
CHANGES = 20


class Side(Record, frozen=True, kw_only=True):
    """One candidate that was compared, and how it did where the truth is known."""

    name: str  # the candidate, with its bundle's name where there are several bundles
    bundle: str
    bundle_sha256: str
    candidate: str = msgspec.field(name="recipe")  # the key has always been called so
    engine: str
    engine_version: str
    provider: str
    precision: str
    temperature: float
    preprocess: Input
    accuracy: float | None = None
    bad: int = 0  # images whose logits are NaN or infinite


class Change(Record, frozen=True, kw_only=True):
    """What the first candidate calls `first`, the other calls `other`, on `n` images."""

    first: str
    other: str
    n: int


class Pair(Record, frozen=True, kw_only=True):
    """How the other candidate differs from the first; KL is in nats, from the first's view.

    Logits are raw, probabilities calibrated by each candidate's own temperature. Differences are
    over images and classes, of images whose logits are all finite.
    """

    other: str
    agreement: float  # share of images with the same top-1
    logit_max: float | None
    logit_mean: float | None
    probability_max: float | None
    probability_mean: float | None
    kl_max: float | None
    kl_mean: float | None
    drop: float | None = None  # of accuracy, from the first to the other
    drop_interval: tuple[float, float] | None = None  # paired, 95 %
    changes: tuple[Change, ...] = ()  # most frequent first


class ComparedImage(Record, frozen=True, kw_only=True):
    """One image; `answers` has the first prediction of each side, in their order."""

    image: str
    truth: str | None
    answers: tuple[Any, ...]  # the task's own predictions
    words: tuple[str, ...]  # each side's whole answer, such as all classes that are present
    agree: bool
    kl: float | None  # the largest against the first, in nats; None where logits are not finite
    probability: float | None  # the largest difference against the first


class Unread(Record, frozen=True, kw_only=True):
    """An image that was left out, and why."""

    image: str
    error: str


class Comparison(Record, frozen=True, kw_only=True):
    """Outcome of `compare`: the first side is what the others are compared with."""

    labels: tuple[str, ...]  # in the first bundle's order
    metric: str  # what the sides' `accuracy` is: the title of the task's primary metric
    n: int  # images compared
    known: int  # of them, those whose folder, or a table, states what is true
    sides: tuple[Side, ...]
    pairs: tuple[Pair, ...]
    images: tuple[ComparedImage, ...]  # worst first
    unread: tuple[Unread, ...] = ()
    notes: tuple[str, ...] = ()


class Answers(NamedTuple):
    """What one side says of all images: its task, its candidate's settings, outputs, geometries."""

    task: Task
    settings: Any
    outputs: Outputs
    geometries: Sequence[Geometry]


class Scores:
    """What the sides answer, compared with the first; `truth` has a label or None by image."""

    def __init__(self, sides: list[Answers], truth: list[str | None]) -> None:
        self.task, self.truth, self.geometries = sides[0].task, truth, sides[0].geometries
        self.finite: Flags = np.stack([finite(side.outputs) for side in sides])
        whole = [
            {name: np.where(_wide(good, v), v, 0) for name, v in side.outputs.items()}
            for side, good in zip(sides, self.finite, strict=True)
        ]
        self.tops = [
            [
                side.task.decode(take(o, [i]), side.settings, geometry, top=1)
                for i, geometry in enumerate(side.geometries)
            ]
            for side, o in zip(sides, whole, strict=True)
        ]
        self.answers = [s.task.answers(o, s.settings) for s, o in zip(sides, whole, strict=True)]
        self.outputs = [self.task.aligned(o, s.task) for s, o in zip(sides, whole, strict=True)]
        self.known: Flags = np.array([label is not None for label in truth])
        self.shown = dict(enumerate(truth))  # in the task's own words, where it has such
        if named := self.task.named(self._targets(self.known)):
            self.shown |= dict(zip(np.flatnonzero(self.known).tolist(), named, strict=True))
        both = list(zip(sides, self.outputs, strict=True))
        chance = [self.task.confidences(o, side.settings) for side, o in both]
        first = np.zeros(0) if chance[0] is None else chance[0]
        shown = [self.task.calibrated(o, side.settings) for side, o in both]
        self.kl: Table = np.stack([self.task.distance(shown[0], one) for one in shown]).clip(0)
        self.both: Flags = self.finite & self.finite[0]
        fitted = [self.task.settled(side.settings, side.task) for side in sides]
        pairs = zip(self.outputs, fitted, strict=True)
        same = np.stack(
            [self.task.agreement(self.outputs[0], o, (fitted[0], own)) for o, own in pairs]
        )
        self.same: Flags = np.logical_and(same, self.both)
        self.apart = [None if c is None else np.abs(c - first) for c in chance]

    def _targets(self, rows: Flags) -> Any:
        """What is true of images whose truth is known."""
        samples = [Found(path="", label=label) for label in np.array(self.truth)[rows]]
        return self.task.targets(
            samples, [self.geometries[i] for i in np.flatnonzero(rows).tolist()]
        )

    def accuracy(self, side: int) -> float | None:
        """The primary metric over images of known truth; NaN is never right."""
        rows = self.known & self.finite[side]
        if not self.known.any():
            return None
        found = self.task.evaluate(take(self.outputs[side], rows), self._targets(rows))
        return found.primary * float(rows.sum() / self.known.sum())

    def _drop(self, side: int) -> tuple[float | None, Interval | None]:
        before, after = self.accuracy(0), self.accuracy(side)
        if before is None or after is None:
            return None, None
        if not self.both[side, self.known].all():
            return before - after, None
        mine, other = (take(self.outputs[i], self.known) for i in (side, 0))
        score = self.task.compare(mine, other, self._targets(self.known))
        first = score[self.task.metrics[0].name]
        return first.drop, first.interval

    def pair(self, side: int, name: str) -> Pair:
        """How `side` differs from the first."""
        ok = self.both[side]
        raw = [
            np.abs(self.outputs[side][k][ok] - v[ok]).ravel() for k, v in self.outputs[0].items()
        ]
        logit, kl = np.concatenate(raw), self.kl[side, ok]
        chance = self.apart[side]
        apart = np.zeros(0) if chance is None else chance[ok]
        drop, interval = self._drop(side)
        pairs = zip(self.answers[0], self.answers[side], ok & ~self.same[side], strict=True)
        moved = Counter((a, b) for a, b, changed in pairs if changed)
        ranked = sorted(moved.items(), key=lambda item: (-item[1], item[0]))
        return Pair(
            other=name,
            agreement=float(self.same[side].mean()),
            logit_max=_max(logit),
            logit_mean=_mean(logit),
            probability_max=_max(apart),
            probability_mean=_mean(apart),
            kl_max=_max(kl),
            kl_mean=_mean(kl),
            drop=drop,
            drop_interval=interval,
            changes=tuple(Change(first=a, other=b, n=n) for (a, b), n in ranked[:CHANGES]),
        )

    def image(self, index: int, path: str) -> ComparedImage:
        """The answers on one image."""
        whole = bool(self.finite[:, index].all())
        apart = [float(each[index].max()) for each in self.apart if each is not None]
        return ComparedImage(
            image=path,
            truth=self.shown.get(index),
            answers=tuple(
                found[index][0]
                if good[index] and found[index]
                else Prediction(label=NOT_FINITE, probability=0.0)
                for found, good in zip(self.tops, self.finite, strict=True)
            ),
            words=tuple(
                said[index] if good[index] else NOT_FINITE
                for said, good in zip(self.answers, self.finite, strict=True)
            ),
            agree=bool(self.same[:, index].all()),
            kl=float(self.kl[:, index].max()) if whole else None,
            probability=max(apart) if whole and apart else None,
        )

    def worst(self) -> list[int]:
        """Images in order: those with other answers first, then by the largest KL divergence."""
        kl = np.where(self.finite.all(axis=0), self.kl.max(axis=0), np.inf)
        return [int(i) for i in np.lexsort((-kl, self.same.all(axis=0)))]


def _wide(flags: Flags, values: npt.NDArray[np.float32]) -> Flags:
    """Flags `(N,)` that can be laid over `(N, …)`."""
    return flags.reshape(-1, *[1] * (values.ndim - 1))


def _max(values: Table) -> float | None:
    return float(values.max()) if values.size else None


def _mean(values: Table) -> float | None:
    return float(values.mean()) if values.size else None
