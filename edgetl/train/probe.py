"""The linear probe: a regularised logistic head on frozen features."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgetl.metrics import cross_entropy

Floats = npt.NDArray[np.float32]
STRENGTHS = tuple(float(c) for c in np.logspace(-4, 0, 7))
FOLDS = 3
ITERATIONS = 300
TOLERANCE = 1e-3  # 1e-2 stops weakly regularised fits so early that they seem the better ones
LARGEST = 10.0


class Head(NamedTuple):
    """A linear head for raw features: logits = features @ weight.T + bias."""

    weight: Floats  # (classes, D)
    bias: Floats  # (classes,)
    strength: float  # scikit-learn's C that cross-validation chose


def fit_probe(
    features: Floats, truth: npt.NDArray[np.int64], groups: list[str], *, classes: int, seed: int
) -> Head:
    """Fit on scaled features `(N, D)`; C by cross-validated log-loss, groups kept together.

    Scaling is folded into the head. L-BFGS logistic regression as in Kornblith et al.
    (CVPR 2019); the loss, not the accuracy, chooses C, because accuracies of small folds tie.
    """
    scaled, mean, deviation = _scaled(features)
    present, local = np.unique(truth, return_inverse=True)
    strength = _choose_strength(scaled, local, groups, seed)
    weight, bias = _fit(scaled, local, strength, None)
    full_weight = np.zeros((classes, features.shape[1]), np.float32)
    full_bias = np.full(classes, -30.0, np.float32)
    full_weight[present] = weight / deviation
    full_bias[present] = bias - full_weight[present] @ mean
    return Head(full_weight, full_bias, strength)


def _scaled(features: Floats) -> tuple[Floats, Floats, Floats]:
    """Features less their mean, divided by one deviation for all; these two `(D,)` beside them.

    Not each by its own: features that hardly ever move would get weights as large as their
    deviation is small, which learn noise, and which integers make nonsense of; those that move most
    tell most. Only what moves LARGEST times as much as is usual is scaled down to that.
    """
    mean, own = features.mean(axis=0), features.std(axis=0)
    most = LARGEST * (np.median(own) or own.max())
    usual = np.sqrt((np.minimum(own, most) ** 2).mean()) + 1e-6
    deviation = np.maximum(usual, own / LARGEST)
    return ((features - mean) / deviation).astype(np.float32), mean, deviation


def fit_binary_probe(
    features: Floats, truth: npt.NDArray[np.bool_], groups: list[str], *, seed: int
) -> Head:
    """As `fit_probe`, one logistic regression for each column of `truth (N, C)`.

    All have one C, by the cross-validated log-loss over all columns. A column that is always or
    never true gets no weights, and the bias of its smoothed share.
    """
    scaled, mean, deviation = _scaled(features)
    keys = _keys(groups)
    folds = int(min(FOLDS, len(set(keys))))
    strength = STRENGTHS[len(STRENGTHS) // 2]
    if folds >= 2:
        from sklearn.model_selection import GroupKFold

        splitter = GroupKFold(folds, shuffle=True, random_state=seed)
        parts = list(splitter.split(scaled, groups=keys))

        def loss(strength: float) -> float:
            total = 0.0
            for train, held in parts:
                weight, bias = _fit_columns(scaled[train], truth[train], strength)
                logits = scaled[held].astype(np.float64) @ weight.T + bias
                total += float((np.logaddexp(0, logits) - truth[held] * logits).sum())
            return total

        strength = _lowest(loss)
    weight, bias = _fit_columns(scaled, truth, strength)
    weight = (weight / deviation).astype(np.float32)
    return Head(weight, (bias - weight @ mean).astype(np.float32), strength)


def _fit_columns(
    scaled: Floats, truth: npt.NDArray[np.bool_], strength: float
) -> tuple[Floats, Floats]:
    weight = np.zeros((truth.shape[1], scaled.shape[1]), np.float32)
    share = (truth.sum(axis=0) + 0.5) / (len(truth) + 1)
    bias = np.log(share / (1 - share)).astype(np.float32)
    for i in range(truth.shape[1]):
        if 0 < truth[:, i].sum() < len(truth):
            two, both = _fit(scaled, truth[:, i].astype(np.int64), strength, None)
            weight[i], bias[i] = two[1] - two[0], both[1] - both[0]
    return weight, bias


def _keys(groups: list[str]) -> npt.NDArray[np.str_]:
    """Group names; ungrouped photos are groups of one."""
    return np.array([group or f"\0{i}" for i, group in enumerate(groups)])


def _choose_strength(
    scaled: Floats, truth: npt.NDArray[np.int64], groups: list[str], seed: int
) -> float:
    from sklearn.model_selection import StratifiedGroupKFold

    keys = _keys(groups)
    smallest = np.bincount(truth).min()
    folds = int(min(FOLDS, smallest, len(set(keys))))
    if folds < 2:
        return STRENGTHS[len(STRENGTHS) // 2]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts = [
        (train, held)
        for train, held in splitter.split(scaled, truth, keys)
        if len(held) and len(np.unique(truth[train])) == truth.max() + 1
    ]
    if not parts:  # every split by groups would leave a class out
        return STRENGTHS[len(STRENGTHS) // 2]
    warm: list[tuple[Floats, Floats] | None] = [None] * len(parts)

    def loss(strength: float) -> float:
        total = 0.0
        for index, (train, held) in enumerate(parts):
            weight, bias = warm[index] = _fit(scaled[train], truth[train], strength, warm[index])
            total += cross_entropy(scaled[held] @ weight.T + bias, truth[held])
        return total

    return _lowest(loss)


def _lowest(loss: Callable[[float], float]) -> float:
    """The strength whose loss is lowest, looked for from the middle one on.

    The loss has one minimum: weaker regularisation than there only overfits more.
    """
    middle = len(STRENGTHS) // 2
    losses = {middle: loss(STRENGTHS[middle])}
    for step in (1, -1):
        at = middle
        while 0 <= at + step < len(STRENGTHS):
            losses[at + step] = loss(STRENGTHS[at + step])
            if losses[at + step] > losses[at]:
                break
            at += step
        if at != middle:
            break
    return STRENGTHS[min(losses, key=lambda at: losses[at])]


def _fit(
    scaled: Floats,
    truth: npt.NDArray[np.int64],
    strength: float,
    warm: tuple[Floats, Floats] | None,
) -> tuple[Floats, Floats]:
    """Multinomial logistic regression; two classes are written as two rows as well."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=ITERATIONS, tol=TOLERANCE, warm_start=True)
    binary = len(np.unique(truth)) == 2
    if warm is not None:
        weight, bias = warm
        model.coef_ = 2 * weight[1:] if binary else weight.copy()
        model.intercept_ = 2 * bias[1:] if binary else bias.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaled, truth)
    coefficients, intercept = np.asarray(model.coef_), np.asarray(model.intercept_)
    if binary:
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercept = np.concatenate([-intercept, intercept]) / 2
    return coefficients.astype(np.float32), intercept.astype(np.float32)
