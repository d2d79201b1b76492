"""Scores, against scikit-learn where it has them, and by their properties where it has not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as reference

from edgetl.metrics import (
    cross_entropy,
    fit_temperature,
    paired_drop,
    softmax,
)
from tests.helpers import evaluate_classes, evaluate_logits

steady = settings(max_examples=80, derandomize=True, deadline=None)


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Truth, predictions and the number of classes; a class may have no photo."""
    classes, n = draw(st.integers(2, 6)), draw(st.integers(1, 40))
    column = hnp.arrays(np.int64, n, elements=st.integers(0, classes - 1))
    return draw(column), draw(column), classes


@steady
@given(answers())
def test_scores_are_those_of_scikit_learn(given_: tuple[np.ndarray, np.ndarray, int]) -> None:
    truth, predicted, classes = given_
    labels = tuple(f"c{i}" for i in range(classes))
    found = evaluate_classes(predicted, truth, labels)
    every = list(range(classes))
    assert found.n == len(truth)
    assert found.labels == labels
    assert found.metrics["accuracy"] == pytest.approx(reference.accuracy_score(truth, predicted))
    wanted = reference.confusion_matrix(truth, predicted, labels=every)
    assert np.array_equal(np.array(found.confusion), wanted)
    columns = reference.precision_recall_fscore_support(
        truth, predicted, labels=every, zero_division=0
    )
    for score, label, *row in zip(found.per_class, labels, *columns, strict=True):
        assert score.label == label
        assert [score.precision, score.recall, score.f1, score.n] == pytest.approx(row)
    macro = reference.f1_score(
        truth, predicted, labels=np.unique(truth), average="macro", zero_division=0
    )
    assert found.metrics["macro_f1"] == pytest.approx(macro)


def test_logits_are_scored_by_their_largest() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 4)).astype(np.float32)
    truth = rng.integers(0, 4, 50)
    labels = ("a", "b", "c", "d")
    assert evaluate_logits(logits, truth, labels) == evaluate_classes(
        logits.argmax(axis=1), truth, labels
    )
    nothing = evaluate_logits(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), labels)
    assert (nothing.n, nothing.accuracy, nothing.macro_f1) == (0, 0.0, 0.0)


@steady
@given(hnp.arrays(np.float32, (7, 5), elements=st.floats(-1e4, 1e4, width=32)), st.floats(0.05, 20))
def test_softmax_gives_probabilities_in_the_order_of_the_logits(
    logits: np.ndarray, temperature: float
) -> None:
    found = softmax(logits, temperature)
    assert found.dtype == np.float32
    assert np.allclose(found.sum(axis=1), 1, atol=1e-5)
    wide = logits.astype(np.float64) / temperature
    wide = np.exp(wide - wide.max(axis=1, keepdims=True))
    assert np.allclose(found, wide / wide.sum(axis=1, keepdims=True), atol=2e-3)
    rows = np.arange(len(logits))
    assert np.allclose(found[rows, logits.argmax(axis=1)], found.max(axis=1))


def test_cross_entropy_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(60, 5)).astype(np.float32) * 3
    truth = rng.integers(0, 5, 60)
    for temperature in (0.5, 1.0, 4.0):
        chances = softmax(logits, temperature).astype(np.float64)
        chances /= chances.sum(axis=1, keepdims=True)
        wanted = reference.log_loss(truth, chances, labels=range(5))
        assert cross_entropy(logits, truth, temperature) == pytest.approx(wanted, rel=1e-5)
    assert math.isnan(cross_entropy(np.zeros((0, 5), np.float32), np.zeros(0, np.int64)))


# --- temperature ------------------------------------------------------------------------------


@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 3.0, 8.0])
def test_the_temperature_that_made_the_labels_is_found(true_temperature: float) -> None:
    rng = np.random.default_rng(2)
    logits = (rng.normal(size=(6000, 6)) * 2 * true_temperature).astype(np.float32)
    chances = softmax(logits, true_temperature).astype(np.float64)
    truth = (chances.cumsum(axis=1) < rng.random((6000, 1))).sum(axis=1).clip(0, 5)
    found = fit_temperature(logits, truth)
    assert found == pytest.approx(true_temperature, rel=0.08)
    # Nothing nearby has a lower loss, but for the small doubt in each label.
    best = min(cross_entropy(logits, truth, found * step) for step in np.linspace(0.8, 1.25, 91))
    assert cross_entropy(logits, truth, found) <= best + 1e-3


@pytest.mark.parametrize("n", [10, 100, 400])
def test_photos_that_are_all_right_do_not_make_later_ones_certain(n: int) -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3)).astype(np.float32)
    logits[np.arange(n), truth] += 8
    found = fit_temperature(logits, truth)
    assert 0.1 < found < 20
    assert softmax(logits, found).max(axis=1).mean() == pytest.approx(1 - 1 / (n + 2), abs=0.02)


def test_no_photos_leave_the_temperature_at_one() -> None:
    assert fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)) == 1.0


# --- paired interval --------------------------------------------------------------------------

paired = st.integers(0, 60).flatmap(
    lambda n: st.tuples(hnp.arrays(np.bool_, n), hnp.arrays(np.bool_, n))
)


@steady
@given(paired)
def test_the_interval_holds_the_drop_and_mirrors(sides: tuple[np.ndarray, np.ndarray]) -> None:
    before, after = sides
    drop, (low, high) = paired_drop(before, after)
    assert -1 <= low <= drop <= high <= 1
    if len(before):
        assert drop == pytest.approx(before.mean() - after.mean())
    back, (back_low, back_high) = paired_drop(after, before)
    assert (back, back_low, back_high) == pytest.approx((-drop, -high, -low))


@steady
@given(paired)
def test_more_photos_of_the_same_kind_narrow_the_interval(
    sides: tuple[np.ndarray, np.ndarray],
) -> None:
    before, after = sides
    _, (low, high) = paired_drop(before, after)
    _, (lower, higher) = paired_drop(np.tile(before, 8), np.tile(after, 8))
    assert higher - lower < high - low or not len(before)


def test_the_interval_covers_the_true_drop_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    for n, lost, won in ((100, 0.05, 0.03), (341, 0.02, 0.01), (60, 0.2, 0.1)):
        draws = rng.random((2000, n))
        held = 0
        for row in draws:
            only_before, only_after = row < lost, (row >= lost) & (row < lost + won)
            both = row > 0.3
            _, (low, high) = paired_drop(only_before | both, only_after | both)
            held += low <= lost - won <= high
        assert 0.93 <= held / 2000 <= 0.995


def test_a_class_without_photos_is_not_called_never_predicted() -> None:
    found = evaluate_classes(np.array([0, 0, 1]), np.array([0, 2, 1]), ("a", "b", "c", "d"))
    assert found.never_predicted() == {"c"}
