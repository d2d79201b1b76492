"""The linear head: it separates, folds its scaling in, and survives tiny and grouped data."""

from __future__ import annotations

import numpy as np
import pytest

from edgetl.metrics import cross_entropy
from edgetl.train import probe
from edgetl.train.probe import STRENGTHS, Head, fit_probe


def clusters(
    classes: int, each: int, *, width: int = 6, spread: float = 0.3, seed: int = 0
) -> tuple[probe.Floats, np.ndarray]:
    """Features `(classes * each, width)` around one centre a class, oddly scaled and shifted."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(classes), each)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    features = centres[truth] + rng.normal(scale=spread, size=(len(truth), width))
    return (features * np.logspace(-0.5, 1, width) + 50).astype(np.float32), truth


def fitted(features: probe.Floats, truth: np.ndarray, **changes: object) -> Head:
    groups = changes.get("groups", [""] * len(truth))
    return fit_probe(features, truth, groups, classes=int(truth.max()) + 1, seed=0)  # type: ignore[arg-type]


def logits_of(head: Head, features: probe.Floats) -> probe.Floats:
    """float32 `(N, classes)` of features `(N, D)`."""
    return (features @ head.weight.T + head.bias).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_it_separates_new_features_of_any_scale(classes: int) -> None:
    head = fitted(*clusters(classes, 20))
    features, truth = clusters(classes, 50, seed=1)
    logits = logits_of(head, features)
    assert logits.dtype == np.float32
    assert head.weight.shape == (classes, 6)
    assert (logits.argmax(axis=1) == truth).mean() > 0.97
    assert cross_entropy(logits, truth) < 0.3


def test_a_feature_that_hardly_moves_gets_no_large_weight() -> None:
    """What tells classes apart by a thousandth of the others' range is lost in eight bits."""
    features, truth = clusters(3, 30)
    still = (truth[:, None] == 0) * 1e-4
    head = fitted(np.hstack([features, still]).astype(np.float32), truth)
    assert abs(head.weight[:, -1]).max() < 5 * abs(head.weight[:, :-1]).max()


def test_it_gives_the_same_head_again() -> None:
    first, again = (fitted(*clusters(3, 10)) for _ in range(2))
    assert np.array_equal(first.weight, again.weight)
    assert np.array_equal(first.bias, again.bias)
    assert first.strength == again.strength


def test_noise_is_regularised_more_than_signal() -> None:
    rng = np.random.default_rng(0)
    noise = fitted(rng.normal(size=(90, 40)).astype(np.float32), np.arange(90) % 3)
    signal = fitted(*clusters(3, 30, spread=0.05))
    assert noise.strength < signal.strength


@pytest.mark.parametrize("each", [1, 2, 3])
def test_a_handful_of_photos_is_enough_to_fit(each: int) -> None:
    features, truth = clusters(3, each)
    head = fitted(features, truth)
    assert np.isfinite(head.weight).all()
    assert (logits_of(head, features).argmax(axis=1) == truth).all()


def test_a_constant_feature_does_no_harm() -> None:
    features, truth = clusters(2, 10)
    features[:, 0] = 0
    assert np.isfinite(logits_of(fitted(features, truth), features)).all()


def test_a_class_without_training_photos_is_never_predicted() -> None:
    features, truth = clusters(3, 10)
    head = fitted(features[truth != 1], truth[truth != 1])
    assert head.weight.shape[0] == 3
    assert not (logits_of(head, features).argmax(axis=1) == 1).any()


def test_groups_stay_together_in_cross_validation() -> None:
    """Ten near-copies of each photo: ungrouped folds see copies of what they are tested on."""
    rng = np.random.default_rng(0)
    origin = rng.normal(size=(24, 60)).astype(np.float32)
    features = np.repeat(origin, 10, axis=0) + rng.normal(scale=0.01, size=(240, 60))
    truth = np.repeat(np.arange(24) % 2, 10)
    groups = [f"part {i // 10}" for i in range(240)]
    features = features.astype(np.float32)
    apart = fitted(features, truth, groups=groups)
    assert apart.strength < fitted(features, truth).strength


def test_one_group_a_class_leaves_nothing_to_choose_by() -> None:
    features, truth = clusters(3, 10)
    head = fitted(features, truth, groups=[f"video {t}" for t in truth])
    assert head.strength == STRENGTHS[len(STRENGTHS) // 2]
    assert (logits_of(head, features).argmax(axis=1) == truth).mean() > 0.9
