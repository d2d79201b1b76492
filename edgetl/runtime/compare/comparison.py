"""What a comparison of candidates says, and how it is worked out from their logits."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from edgetl.metrics import paired_drop
from edgetl.spec import Prediction, Preprocess, Record

Table = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

NOT_FINITE = "NaN or infinity"  # stands for the class where there is none
CHANGES = 20


class Side(Record, frozen=True, kw_only=True):
    """One candidate that was compared, and how it did where the truth is known."""

    name: str  # the recipe, with its bundle's name where there are several bundles
    bundle: str
    bundle_sha256: str
    recipe: str
    engine: str
    engine_version: str
    provider: str
    precision: str
    temperature: float
    preprocess: Preprocess
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
    """One image; `answers` has the top-1 of each side, in their order."""

    image: str
    truth: str | None
    answers: tuple[Prediction, ...]
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
    n: int  # images compared
    known: int  # of them, those whose folder is named after a class
    sides: tuple[Side, ...]
    pairs: tuple[Pair, ...]
    images: tuple[ComparedImage, ...]  # worst first
    unread: tuple[Unread, ...] = ()
    notes: tuple[str, ...] = ()


class Scores:
    """Answers `(sides, images)` to `logits` `(sides, images, classes)`, compared with the first.

    `truth` has a label or None for each image; `temperatures` has one for each side.
    """

    def __init__(
        self,
        logits: npt.ArrayLike,
        temperatures: list[float],
        labels: tuple[str, ...],
        truth: list[str | None],
    ) -> None:
        self.labels, raw = labels, np.asarray(logits, np.float64)
        self.finite: Flags = np.asarray(np.isfinite(raw).all(axis=2))
        self.logits: Table = np.where(self.finite[..., np.newaxis], raw, 0.0)
        log = [log_softmax(*one) for one in zip(self.logits, temperatures, strict=True)]
        self.log_chance, self.chance = np.stack(log), np.exp(np.stack(log))
        self.top1 = self.logits.argmax(axis=2)
        self.truth = truth
        self.known: Flags = np.array([label is not None for label in truth])
        columns = np.array([-1 if label is None else labels.index(label) for label in truth])
        self.right: Flags = np.logical_and(self.top1 == columns, self.finite)
        self.both: Flags = self.finite & self.finite[0]
        self.same: Flags = np.logical_and(self.top1 == self.top1[0], self.both)
        self.kl = (self.chance[0] * (self.log_chance[0] - self.log_chance)).sum(axis=2).clip(0)
        self.apart: Table = np.abs(self.chance - self.chance[0])

    def accuracy(self, side: int) -> float | None:
        """Share of images of known truth that `side` has right."""
        return float(self.right[side, self.known].mean()) if self.known.any() else None

    def pair(self, side: int, name: str) -> Pair:
        """How `side` differs from the first."""
        ok = self.both[side]
        logit = np.abs(self.logits[side, ok] - self.logits[0, ok])
        apart, kl = self.apart[side, ok], self.kl[side, ok]
        drop, interval = None, None
        if self.known.any():
            drop, interval = paired_drop(self.right[0, self.known], self.right[side, self.known])
        moved = Counter(
            (self.labels[a], self.labels[b])
            for a, b in zip(self.top1[0, ok], self.top1[side, ok], strict=True)
            if a != b
        )
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
        answers = [
            Prediction(label=self.labels[best], probability=float(self.chance[side, index, best]))
            if self.finite[side, index]
            else Prediction(label=NOT_FINITE, probability=0.0)
            for side, best in enumerate(self.top1[:, index])
        ]
        return ComparedImage(
            image=path,
            truth=self.truth[index],
            answers=tuple(answers),
            agree=bool(self.same[:, index].all()),
            kl=float(self.kl[:, index].max()) if whole else None,
            probability=float(self.apart[:, index].max()) if whole else None,
        )

    def worst(self) -> list[int]:
        """Images in order: those with other answers first, then by the largest KL divergence."""
        kl = np.where(self.finite.all(axis=0), self.kl.max(axis=0), np.inf)
        return [int(i) for i in np.lexsort((-kl, self.same.all(axis=0)))]


def log_softmax(logits: Table, temperature: float) -> Table:
    """Logarithms of calibrated probabilities, float64 `(N, C)`."""
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    result: Table = scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))
    return result


def _max(values: Table) -> float | None:
    return float(values.max()) if values.size else None


def _mean(values: Table) -> float | None:
    return float(values.mean()) if values.size else None
