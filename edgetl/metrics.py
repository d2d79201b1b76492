"""Scores from logits, in numpy alone."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgetl.spec import ClassScore, Evaluation

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Interval = tuple[float, float]


def softmax(logits: Logits, temperature: float = 1.0) -> Logits:
    """Probabilities float32 `(N, C)` of logits `(N, C)` divided by `temperature`."""
    scaled = logits.astype(np.float32) / np.float32(temperature)
    scaled = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: Logits = scaled / scaled.sum(axis=-1, keepdims=True)
    return result


def evaluate_logits(logits: Logits, truth: Indices, labels: tuple[str, ...]) -> Evaluation:
    """Accuracy, macro-F1 (over the classes present in `truth`), per-class scores and confusion."""
    return evaluate_classes(logits.argmax(axis=1), truth, labels)


def evaluate_classes(predicted: Indices, truth: Indices, labels: tuple[str, ...]) -> Evaluation:
    """The same from predicted classes `(N,)`."""
    count = len(labels)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    right = confusion.diagonal()
    shown, called = confusion.sum(axis=1), confusion.sum(axis=0)
    recall = right / np.maximum(shown, 1)
    precision = right / np.maximum(called, 1)
    f1 = 2 * right / np.maximum(shown + called, 1)
    present = shown > 0
    return Evaluation(
        accuracy=float(right.sum() / max(1, len(truth))),
        macro_f1=float(f1[present].mean()) if present.any() else 0.0,
        n=len(truth),
        labels=labels,
        per_class=tuple(
            ClassScore(
                label=label,
                precision=float(precision[i]),
                recall=float(recall[i]),
                f1=float(f1[i]),
                n=int(shown[i]),
            )
            for i, label in enumerate(labels)
        ),
        confusion=tuple(tuple(int(v) for v in row) for row in confusion),
    )


def never_predicted(evaluation: Evaluation) -> set[str]:
    """Labels that have photos and are the answer for none."""
    shown = {score.label for score in evaluation.per_class if score.n}
    called = zip(*evaluation.confusion, strict=True)  # by predicted class
    pairs = zip(evaluation.labels, called, strict=False)
    return {label for label, counts in pairs if label in shown and not any(counts)}


def cross_entropy(logits: Logits, truth: Indices, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood in nats."""
    scaled = logits.astype(np.float64) / temperature
    top = scaled.max(axis=1, keepdims=True)
    norm = top[:, 0] + np.log(np.exp(scaled - top).sum(axis=1))
    return float((norm - scaled[np.arange(len(truth)), truth]).mean()) if len(truth) else math.nan


def paired_rise(reference: Logits, logits: Logits, truth: Indices) -> tuple[float, Interval]:
    """Log-loss gained against the reference on the same photos, in nats, with a 95 % interval."""
    rows = np.arange(len(truth))
    return _paired_mean(
        _log_softmax(reference)[rows, truth].astype(np.float64) - _log_softmax(logits)[rows, truth]
    )


def paired_macro_f1_drop(
    reference: Indices, predicted: Indices, truth: Indices, classes: int
) -> tuple[float, Interval]:
    """Macro-F1 lost against the reference's classes on the same photos, with a 95 % interval.

    The interval is by the delta method: macro-F1 is differentiated by the weight of each photo,
    and what a photo changes in the candidate's is compared with what it changes in the reference's.
    """
    before, each_before = _macro_f1(reference, truth, classes)
    after, each_after = _macro_f1(predicted, truth, classes)
    _, (low, high) = _paired_mean(each_before - each_after)
    drop = before - after
    half = (high - low) / 2
    return drop, (drop - half, drop + half)


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


def _paired_mean(changes: npt.NDArray[np.float64]) -> tuple[float, Interval]:
    """Mean of paired differences, and 1.96 standard errors to each side; infinite for one."""
    mean = float(changes.mean())
    if len(changes) < 2:
        return mean, (-math.inf, math.inf)
    half = 1.96 * float(changes.std(ddof=1)) / math.sqrt(len(changes))
    return mean, (mean - half, mean + half)


def divergence(reference: Logits, logits: Logits) -> float:
    """Mean Kullback-Leibler divergence in nats of `logits` from `reference`, both `(N, C)`."""
    if not np.isfinite(logits).all():
        return math.inf
    p, q = _log_softmax(reference), _log_softmax(logits)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def _log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    scaled = logits.astype(np.float64)
    scaled -= scaled.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return result


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
        scaled = logits.astype(np.float64) / math.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        right = scaled[rows, truth]
        wrong = scaled.sum(axis=1) - right
        norm = np.log(np.exp(scaled).sum(axis=1))
        return float((norm - (1 - doubt) * right - doubt / others * wrong).mean())

    low, high, ratio = math.log(0.05), math.log(20.0), (math.sqrt(5) - 1) / 2
    for _ in range(40):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return round(math.exp((low + high) / 2), 4)


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
