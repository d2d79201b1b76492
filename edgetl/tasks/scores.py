"""What tasks say of outputs and of samples: descriptions, metrics, scores, predictions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from edgetl.metrics import Interval
from edgetl.spec import Record


class Output(Record, frozen=True, kw_only=True):
    """One output of a network: float32 `(N, *shape)`."""

    name: str  # of the tensor in every model file
    shape: tuple[int, ...]  # of one image; N comes before it
    dtype: str = "float32"  # the only one so far


class Metric(NamedTuple):
    """One figure of merit; `gated` is how much of it one whole unit of --max-drop may cost."""

    name: str
    title: str  # in sentences
    gated: float = 0.0  # 0: it is told, and refuses nothing
    rises: bool = False  # whether more is worse
    share: bool = False  # of samples that are right: shown in per cent, with Wilson's interval

    def standard_error(self, value: float, samples: int) -> float:
        """By how much chance moves a value on so many samples; 0 but for shares: not known."""
        return math.sqrt(value * (1 - value) / samples) if self.share else 0.0


class Score(Record, frozen=True, kw_only=True):
    """One metric of a candidate, beside the reference's on the same samples."""

    value: float  # of the candidate
    reference: float  # of the FP32 network
    drop: float  # by how much it is worse; negative where it is better
    interval: Interval | None = None  # of the drop: paired, 95 %


class ClassScore(Record, frozen=True, kw_only=True):
    """Scores of one class on one split."""

    label: str  # the class
    precision: float  # share right of the samples taken for it
    recall: float  # share found of the samples that show it
    f1: float  # harmonic mean of the two
    n: int  # samples that show it
    average_precision: float | None = None  # where a task ranks samples by class


class ClassDrop(Record, frozen=True, kw_only=True):
    """A class of which a candidate has fewer samples right."""

    label: str  # the class
    lost: int  # samples that the reference had right and the candidate has wrong, less the reverse
    n: int  # samples that say so


class Evaluation(Record, frozen=True, kw_only=True):
    """Scores on one set of samples; `confusion[t][p]` counts truth t predicted as p."""

    metrics: dict[str, float]  # by name, the primary one first
    n: int  # samples
    labels: tuple[str, ...] = ()  # classes, in the order of `confusion`
    per_class: tuple[ClassScore, ...] = ()  # scores of each class
    confusion: tuple[tuple[int, ...], ...] = ()  # rows: the truth; columns: the answer

    @property
    def primary(self) -> float:
        """The value of the primary metric."""
        return next(iter(self.metrics.values()))

    def never_predicted(self) -> set[str]:
        """Labels that are true of samples and are the answer for none."""
        shown = {score.label for score in self.per_class if score.n}
        called = zip(*self.confusion, strict=True)  # by predicted class
        pairs = zip(self.labels, called, strict=False)
        return {label for label, counts in pairs if label in shown and not any(counts)}


class Prediction(Record, frozen=True, kw_only=True):
    """One class with its probability; a multi-label task says as well whether it is present."""

    label: str  # the class
    probability: float  # 0…1


class Result(Record, frozen=True, kw_only=True):
    """The predictions for one image, of the task's own kind; `error` says why there are none."""

    image: str  # as it was named
    predictions: tuple[Any, ...]  # of the task's own kind, the likeliest first
    candidate: str  # that answered
    error: str | None = None  # why there are no predictions


class Mistake(NamedTuple):
    """A sample that a network gets wrong: its row, both answers in words, and how sure it was."""

    row: int
    truth: str
    predicted: str
    confidence: float  # 0…1
