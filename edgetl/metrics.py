"""Scores from logits, in numpy alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Interval = tuple[float, float]


def softmax(logits: Any, temperature: float = 1.0) -> Any:
    """Probabilities `(N, C)` of logits `(N, C)` divided by `temperature`, in the logits' type."""
    scaled = logits / logits.dtype.type(temperature)
    scaled = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return scaled / scaled.sum(axis=-1, keepdims=True)


class Counts(NamedTuple):
    """`confusion[t, p]` counts truth t predicted as p; scores are worked out from it."""

    confusion: Indices  # (C, C)

    @property
    def accuracy(self) -> float:
        """Share of the diagonal."""
        return float(self.confusion.trace() / max(1, self.confusion.sum()))

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that are true of something."""
        _, _, f1, shown = self.by_class()
        present = [value for value, n in zip(f1, shown, strict=True) if n]
        return sum(present) / max(1, len(present))

    def by_class(self) -> tuple[list[float], list[float], list[float], list[int]]:
        """Precision, recall, F1, and how many samples there are, of each class."""
        right = self.confusion.diagonal()
        shown, called = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        precision, recall = right / np.maximum(called, 1), right / np.maximum(shown, 1)
        f1 = 2 * right / np.maximum(shown + called, 1)
        return precision.tolist(), recall.tolist(), f1.tolist(), shown.tolist()


def evaluate_logits(logits: Logits, truth: Indices, classes: int) -> Counts:
    """Count what logits `(N, C)` predict against the truth `(N,)`."""
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (truth, logits.argmax(axis=1)), 1)
    return Counts(confusion)


def cross_entropy(logits: Logits, truth: Indices, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood in nats."""
    likelihoods = _log_softmax(logits, temperature)[np.arange(len(truth)), truth]
    return float(-likelihoods.mean()) if len(truth) else math.nan


def paired_rise(reference: Logits, logits: Logits, truth: Indices) -> tuple[float, Interval]:
    """Log-loss gained against the reference on the same photos, in nats, with a 95 % interval."""
    rows = np.arange(len(truth))
    rises = _log_softmax(reference)[rows, truth] - _log_softmax(logits)[rows, truth]
    return _paired(float(rises.mean()), rises)


def paired_macro_f1_drop(
    reference: Indices, predicted: Indices, truth: Indices, classes: int
) -> tuple[float, Interval]:
    """Macro-F1 lost against the reference's classes on the same photos, with a 95 % interval.

    The interval is by the delta method: macro-F1 is differentiated by the weight of each photo,
    and what a photo changes in the candidate's is compared with what it changes in the reference's.
    """
    before, each_before = _macro_f1(reference, truth, classes)
    after, each_after = _macro_f1(predicted, truth, classes)
    return _paired(before - after, each_before - each_after)


def _macro_f1(
    predicted: Indices, truth: Indices, classes: int
) -> tuple[float, npt.NDArray[np.float64]]:
    """Macro-F1 over the classes in `truth`, and its derivative by each photo's weight, times N."""
    shown = np.bincount(truth, minlength=classes)
    total = np.maximum(shown + np.bincount(predicted, minlength=classes), 1)
    f1 = 2 * np.bincount(truth[predicted == truth], minlength=classes) / total
    counts = (shown > 0) / max(1, int((shown > 0).sum()))
    each = -counts[truth] * f1[truth] / total[truth]
    each -= counts[predicted] * f1[predicted] / total[predicted]
    each += np.where(predicted == truth, 2 * counts[truth] / total[truth], 0)
    return float((f1 * counts).sum()), each * len(truth)


def _paired(change: float, each: npt.NDArray[np.float64]) -> tuple[float, Interval]:
    """A change, and 1.96 standard errors of those of `each` photo to both sides; infinite for 1."""
    error = float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else math.inf
    return change, (change - 1.96 * error, change + 1.96 * error)


def divergences(reference: Logits, logits: Logits) -> npt.NDArray[np.float64]:
    """Kullback-Leibler divergence in nats of each row of `logits` from `reference`, `(N, C)`."""
    p, q = _log_softmax(reference), _log_softmax(logits)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=1))


def _log_softmax(logits: Logits, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))


def fit_temperature(logits: Logits, truth: Indices) -> float:
    """Temperature in 0.05…20 that minimises the validation loss (Guo et al., ICML 2017).

    Of N labels, each counts as 1 - 1/(N + 2) sure (Platt, 1999): without that, photos that are all
    classified rightly would drive T to its limit, and every later photo to probability 1.
    The loss is unimodal in log T, so a golden-section search finds it.
    """
    if not len(truth):
        return 1.0
    doubt = 1 / (len(truth) + 2)
    rows, others = np.arange(len(truth)), max(1, logits.shape[1] - 1)

    def loss(log_temperature: float) -> float:
        likelihoods = _log_softmax(logits, math.exp(log_temperature))
        right = likelihoods[rows, truth]
        wrong = likelihoods.sum(axis=1) - right
        return float(-((1 - doubt) * right + doubt / others * wrong).mean())

    return round(math.exp(lowest(loss, math.log(0.05), math.log(20.0))), 4)


def lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a unimodal function is lowest between two ends, by golden-section search."""
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(40):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if function(left) < function(right):
            high = right
        else:
            low = left
    return (low + high) / 2


def sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probabilities of logits, without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -logits)))


def average_precision(
    scores: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Average precision of each column of `(N, C)`: the sum of precision times gain of recall.

    Equal scores count as one step, so that their order does not matter (as scikit-learn's).
    """
    found = np.zeros(scores.shape[1])
    for i in range(scores.shape[1]):
        order = np.argsort(-scores[:, i], kind="stable")
        right = np.cumsum(truth[order, i])
        last = np.append(np.diff(scores[order, i]) < 0, True)[: len(order)]
        precision = (right / np.arange(1, len(order) + 1))[last]
        gained = np.diff(right[last], prepend=0) / max(1, int(truth[:, i].sum()))
        found[i] = float((precision * gained).sum())
    return found


def paired_drop(
    reference_right: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]
) -> tuple[float, Interval]:
    """Accuracy lost against the reference on the same photos, with a 95 % interval.

    Interval of Agresti and Min (Statistics in Medicine, 2005): Wald with half a count added to
    each of the four cells of the paired table, which behaves when few photos differ.
    """
    n = len(right)
    lost = int((reference_right & ~right).sum())
    won = int((~reference_right & right).sum())
    total, b, c = n + 2, lost + 0.5, won + 0.5
    centre = (b - c) / total
    half = 1.96 * math.sqrt(max(0.0, b + c - (b - c) ** 2 / total)) / total
    return (lost - won) / max(1, n), (
        max(-1.0, centre - half),
        min(1.0, centre + half),
    )


def bootstrap_rows(n: int, count: int, seed: int = 0) -> list[Indices]:
    """Rows of `count` samples with replacement of n (Efron, Annals of Statistics 7, 1979)."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, n, n) for _ in range(count)]
