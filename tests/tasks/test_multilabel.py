"""Multi-label classification: targets, scores, thresholds, answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from edgetl.data.found import Found
from edgetl.errors import DataError, UsageError
from edgetl.inputs.base import Geometry
from edgetl.metrics import average_precision, sigmoid
from edgetl.tasks.multilabel import MultiLabel, MultiLabelSettings

TASK = MultiLabel(labels=("hat", "shirt", "shoe"))
WHOLE = Geometry((1, 1), (0, 0), (1, 1))


def drawn(n: int = 200, noise: float = 1.5, seed: int = 0) -> tuple[dict[str, Any], Any]:
    """Outputs and targets of a network that is right more often than not."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 3)) < [0.5, 0.3, 0.1]
    logits = np.where(truth, 1.0, -1.0) + rng.normal(0, noise, truth.shape)
    return {"logits": logits.astype(np.float32)}, truth


def test_targets_come_from_the_label_of_a_sample() -> None:
    samples = [
        Found(path="a", label="hat|shoe"),
        Found(path="b", label=""),
        Found(path="c", label="shirt"),
    ]
    expected = [[True, False, True], [False] * 3, [False, True, False]]
    np.testing.assert_array_equal(TASK.targets(samples, [WHOLE] * 3), expected)
    assert MultiLabel.of(samples, Path()) == TASK


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(DataError, match=r"No photo in .* has a label"):
        MultiLabel.of([Found(path="a", label="")], Path("d"))
    with pytest.raises(DataError, match="Every photo in d has the label hat"):
        MultiLabel.of([Found(path="a", label="hat"), Found(path="b", label="hat|x")], Path("d"))
    with pytest.raises(UsageError, match="needs --labels"):
        MultiLabel.scan(Path("d"))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.booleans())
def test_average_precision_is_scikit_learns(seed: int, n: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 4)) < 0.4
    truth[0] = True
    scores = rng.random((n, 4))
    scores = scores.round(1) if ties else scores
    expected = [average_precision_score(truth[:, i], scores[:, i]) for i in range(4)]
    np.testing.assert_allclose(average_precision(scores, truth), expected, atol=1e-12)


def test_scores_are_scikit_learns() -> None:
    outputs, truth = drawn()
    found = TASK.evaluate(outputs, truth)
    called = outputs["logits"] > 0
    assert found.metrics["macro_f1"] == pytest.approx(f1_score(truth, called, average="macro"))
    expected = average_precision_score(truth, outputs["logits"], average="macro")
    assert found.metrics["map"] == pytest.approx(expected)
    assert [c.n for c in found.per_class] == truth.sum(axis=0).tolist()
    assert next(iter(found.metrics)) == "map"
    assert found.primary == found.metrics["map"]


def test_a_class_that_is_true_of_nothing_does_not_count() -> None:
    outputs, truth = drawn()
    truth[:, 2] = False
    found = TASK.evaluate(outputs, truth)
    assert found.per_class[2].average_precision is None
    shown = [c.average_precision for c in found.per_class[:2]]
    assert found.metrics["map"] == pytest.approx(np.mean(shown))


def test_thresholds_raise_f1_and_the_temperature_lowers_the_loss() -> None:
    outputs, truth = drawn(noise=3.0)
    fitted = TASK.fit(outputs, truth)
    assert fitted.calibrated
    before, after = (TASK.evaluate(outputs, truth, s) for s in (None, fitted))
    assert after.metrics["macro_f1"] > before.metrics["macro_f1"]
    assert after.metrics["map"] == before.metrics["map"]  # an order does not change
    assert fitted.temperature > 1  # it was too sure
    assert TASK.loss(TASK.calibrated(outputs, fitted), truth) < TASK.loss(outputs, truth)
    assert TASK.fit(outputs, None) == MultiLabelSettings()


def test_the_best_threshold_of_a_class_is_found() -> None:
    """By trying them all."""
    outputs, truth = drawn(60, noise=2.0, seed=3)
    fitted = TASK.fit(outputs, truth)
    chance = sigmoid(outputs["logits"].astype(np.float64) / fitted.temperature)
    for i, threshold in enumerate(fitted.thresholds):
        tried = [f1_score(truth[:, i], chance[:, i] >= t) for t in chance[:, i]]
        assert f1_score(truth[:, i], chance[:, i] >= threshold) == pytest.approx(max(tried))


def test_the_distance_is_a_divergence() -> None:
    outputs, _ = drawn()
    np.testing.assert_allclose(TASK.distance(outputs, outputs), 0, atol=1e-12)
    other = {"logits": outputs["logits"] + 0.1}
    p, q = (sigmoid(o["logits"].astype(np.float64)) for o in (outputs, other))
    expected = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    np.testing.assert_allclose(TASK.distance(outputs, other), expected.mean(axis=1), atol=1e-9)
    huge = {"logits": np.full((1, 3), 500, np.float32)}
    assert np.isfinite(TASK.distance(huge, {"logits": -huge["logits"]})).all()


def test_a_worse_network_loses_by_paired_intervals() -> None:
    outputs, truth = drawn(300)
    noise = np.random.default_rng(1).normal(0, 2, outputs["logits"].shape)
    worse = {"logits": (outputs["logits"] + noise).astype(np.float32)}
    lost = TASK.compare(worse, outputs, truth)
    assert list(lost) == ["map", "macro_f1", "loss"]
    for score in lost.values():
        assert score.drop > 0
        assert score.interval is not None
        assert 0 < score.interval[0] < score.interval[1]
    same = TASK.compare(outputs, outputs, truth)["map"]
    assert (same.drop, same.interval) == (0, (0, 0))
    drops = TASK.regressions(worse, outputs, truth)
    assert all(drop.lost > 0 for drop in drops)


def test_predictions_say_what_is_present() -> None:
    fitted = MultiLabelSettings(thresholds=(0.9, 0.2, 0.5))
    outputs = {"logits": np.array([[1.0, -1.0, -3.0]], np.float32)}
    first, second, third = TASK.decode(outputs, fitted, WHOLE, top=9)
    assert [p.label for p in (first, second, third)] == ["shirt", "hat", "shoe"]
    assert [p.present for p in (first, second, third)] == [True, False, False]
    assert second.probability == pytest.approx(1 / (1 + np.exp(-1)))
    assert len(TASK.decode(outputs, fitted, WHOLE, top=2)) == 2
    every = MultiLabelSettings(thresholds=(0.01, 0.01, 0.01))
    assert len(TASK.decode(outputs, every, WHOLE, top=1)) == 3  # none that is present is hidden
    assert TASK.answers(outputs, fitted) == ["shirt"]
    assert TASK.text(first) == "+shirt 0.269"


def test_agreement_is_of_what_a_user_gets() -> None:
    one = MultiLabel(labels=("hat",))
    sure, less = (MultiLabelSettings(thresholds=(t,)) for t in (0.2, 0.6))
    logits = {"logits": np.array([[-0.4], [0.2], [1.0]], np.float32)}  # 0.40, 0.55, 0.73
    assert one.answers(logits, sure) == ["hat", "hat", "hat"]
    assert one.answers(logits, less) == ["–", "–", "hat"]
    assert one.agreement(logits, logits, (sure, less)).tolist() == [False, False, True]
    assert one.agreement(logits, logits, (less, less)).all()
    truth = np.array([[True], [True], [True]])
    (drop,) = one.regressions(logits, logits, truth, (less, sure))
    assert (drop.label, drop.lost, drop.n) == ("hat", 2, 3)


def test_thresholds_follow_the_order_of_the_classes() -> None:
    theirs = MultiLabel(labels=("shoe", "hat", "shirt"))
    settings = MultiLabelSettings(temperature=2, thresholds=(0.1, 0.2, 0.3))
    assert TASK.settled(settings, theirs).thresholds == (0.2, 0.3, 0.1)
    assert TASK.settled(MultiLabelSettings(), theirs) == MultiLabelSettings()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), spread=st.sampled_from([1, 12, 200]))
def test_no_threshold_beats_the_fitted_one(seed: int, spread: int) -> None:
    """However sure a network is of everything."""
    outputs, truth = drawn(60, seed=seed)
    sure = {"logits": outputs["logits"] * np.float32(spread)}
    fitted = TASK.fit(sure, truth)
    chance = TASK.confidences(sure, fitted)
    for i, threshold in enumerate(fitted.thresholds):
        if truth[:, i].any():
            reached = f1_score(truth[:, i], chance[:, i] >= threshold)
            assert (
                reached
                >= max(f1_score(truth[:, i], chance[:, i] >= t) for t in chance[:, i]) - 1e-12
            )


def test_mistakes_come_surest_first() -> None:
    outputs, truth = drawn()
    found = TASK.mistakes(outputs, truth)
    sure = [m.confidence for m in found]
    assert sure == sorted(sure, reverse=True)
    wrong = ((outputs["logits"] > 0) != truth).any(axis=1)
    assert {m.row for m in found} == set(np.flatnonzero(wrong).tolist())
