"""The gate: one limit of divergence, losses that chance does not explain, and no labels at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgetl.bundle.manifest import Candidate
from edgetl.exporter import gate
from edgetl.exporter.gate import distance_limit
from edgetl.tasks.classification import Classification
from tests.helpers import Flat, divergence

LABELS = ("a", "b", "c", "d")
TASK = Classification(labels=LABELS)


def a_candidate(precision: Any) -> Candidate:
    kind = {"name": "x", "recipe": "x", "engine": "onnxruntime"}
    return Candidate(**kind, precision=precision, artifacts=())


def judge(
    candidate: Candidate, logits: Any, reference: Any, truth: Any, *, labels: Any, max_drop: float
) -> Any:
    task = Classification(labels=labels)
    two = {"logits": logits}, {"logits": reference}
    return Flat(gate.judge(candidate, task, *two, truth, max_drop=max_drop), labels)


def logits_of(classes: np.ndarray, margin: float = 0.01) -> np.ndarray:
    """Logits that predict `classes` by a margin; a small one makes all of them nearly alike."""
    return (margin * np.eye(len(LABELS))[classes]).astype(np.float32)


def judged(*, n: int = 400, lost: int = 0, won: int = 0, swapped: int = 0, **changes: Any) -> Any:
    """A candidate that loses, wins and swaps (wrong to another wrong) so many of `n` photos."""
    truth = np.arange(n) % 4
    reference, predicted = truth.copy(), truth.copy()
    predicted[:lost] = (truth[:lost] + 1) % 4
    reference[lost : lost + won] = (truth[lost : lost + won] + 1) % 4
    odd = slice(lost + won, lost + won + swapped)
    reference[odd], predicted[odd] = (truth[odd] + 1) % 4, (truth[odd] + 2) % 4
    return compared(truth, reference, predicted, **changes)


def compared(truth: Any, reference: Any, predicted: Any, **changes: Any) -> Any:
    """A candidate that predicts `predicted` where FP32 predicts `reference`."""
    precision = changes.pop("precision", "int8")
    logits = changes.pop("logits", logits_of(predicted))
    candidate = Candidate(
        name="x", recipe="x", engine="onnxruntime", precision=precision, artifacts=()
    )
    options = {"labels": LABELS, "max_drop": 0.01} | changes
    return judge(candidate, logits, logits_of(reference), truth, **options)


def unequal(rare: int, *, lost: int, won: int = 0, **changes: Any) -> Any:
    """300 photos each of a, b and c, and `rare` of d, `lost` of which the candidate calls a.

    It has `won` more photos of b right than FP32 has.
    """
    truth = np.repeat(np.arange(4), [300, 300, 300, rare])
    reference, predicted = truth.copy(), truth.copy()
    predicted[900 : 900 + lost] = 0
    reference[300 : 300 + won] = 2
    return compared(truth, reference, predicted, **changes)


def test_a_faithful_candidate_passes_with_all_its_scores() -> None:
    found = judged(lost=3, won=1)
    assert found.rejected is None
    assert found.n == 400
    assert found.accuracy == pytest.approx(397 / 400)
    assert found.reference_accuracy == pytest.approx(399 / 400)
    assert found.drop == pytest.approx(2 / 400)
    assert found.agreement == pytest.approx(396 / 400)
    assert found.macro_f1 == pytest.approx(found.accuracy, abs=0.01)
    assert not found.undecidable
    assert found.split == "validation"
    assert found.gate_divergence is not None
    assert 0 < found.gate_divergence < 1e-5
    assert found.loss_rise is not None
    assert found.loss_rise_interval is not None
    assert found.loss_rise_interval[0] < found.loss_rise < found.loss_rise_interval[1]
    assert found.calibrated
    assert found.temperature < 1  # right almost always, so surer than these logits say


# --- divergence ---------------------------------------------------------------------------------


def away(nats: float, n: int = 400) -> np.ndarray:
    """Logits `(n, 4)` whose mean divergence from `logits_of` of their own classes is `nats`."""
    truth = np.arange(n) % 4
    low, high = 0.0, 3.0
    for _ in range(50):
        middle = (low + high) / 2
        if divergence(logits_of(truth), logits_of(truth, 0.01 + middle)) < nats:
            low = middle
        else:
            high = middle
    return logits_of(truth, 0.01 + low)


@pytest.mark.parametrize("precision", ["int8", "bf16", "fp16"])
@pytest.mark.parametrize(
    ("nats", "max_drop", "passes"),
    [(0.0029, 0.01, True), (0.0031, 0.01, False), (0.0059, 0.02, True), (0.0031, 0.0, False)],
)
def test_one_limit_for_all_precisions_scales_with_the_permitted_drop(
    precision: str, nats: float, max_drop: float, passes: bool
) -> None:
    found = judged(logits=away(nats), precision=precision, max_drop=max_drop)
    assert found.gate_divergence == pytest.approx(nats, rel=0.01)
    assert (found.drop, found.agreement) == (0, 1)
    assert (found.rejected is None) == passes
    if not passes:
        assert found.rejected is not None
        assert found.rejected.startswith("divergence 0.0031 nats is above")


def test_fp32_may_differ_by_rounding_alone() -> None:
    assert distance_limit(TASK, "fp32", 0.5) == distance_limit(TASK, "fp32", 0.01) == 1e-4
    assert judged(logits=away(0.9e-4), precision="fp32").rejected is None
    assert judged(logits=away(1.1e-4), precision="fp32").rejected is not None


def test_without_labels_the_divergence_decides_and_nothing_is_calibrated() -> None:
    truth = np.arange(400) % 4
    near = compared(None, truth, truth, logits=away(0.002))
    assert near.rejected is None
    assert (near.temperature, near.calibrated) == (1.0, False)
    assert near.agreement == 1
    assert near.accuracy is near.reference_accuracy is near.drop is near.macro_f1 is None
    assert compared(None, truth, truth, logits=away(0.004)).rejected is not None
    flips = np.where(np.arange(400) < 40, (truth + 1) % 4, truth)
    assert compared(None, truth, flips).rejected is None  # ties that fall the other way


def test_what_labels_fitted_is_less_sure_than_a_network_that_is_wrong_often() -> None:
    """Fitted to the network's own answers, the temperature would make it surer than it is."""
    truth = np.arange(400) % 4
    reference = np.where(np.arange(400) < 160, (truth + 1) % 4, truth)
    logits = logits_of(reference, 4.0)
    candidate = Candidate(
        name="x", recipe="x", engine="onnxruntime", precision="int8", artifacts=()
    )
    options: dict[str, Any] = {"labels": LABELS, "max_drop": 0.01}
    assert judge(candidate, logits, logits, truth, **options).temperature > 1.5
    assert judge(candidate, logits, logits, None, **options).temperature == 1.0


# --- losses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "won", "max_drop", "passes"),
    [
        (4, 0, 0.01, True),
        (5, 0, 0.01, False),
        (9, 4, 0.01, True),  # 5 of 400 net, but as many moved the other way: chance
        (8, 0, 0.02, True),
        (1, 0, 0.0, True),
        (5, 0, 0.0, False),
    ],
)
def test_a_drop_counts_where_chance_does_not_explain_it(
    lost: int, won: int, max_drop: float, passes: bool
) -> None:
    found = judged(lost=lost, won=won, max_drop=max_drop)
    assert found.drop == pytest.approx((lost - won) / 400)
    assert (found.rejected is None) == passes
    if not passes:
        assert found.rejected is not None
        assert found.rejected.startswith(f"accuracy drop {lost / 400:.4f} is above {max_drop:g}")


def test_a_gain_is_a_negative_drop() -> None:
    found = judged(won=6, max_drop=0.0)
    assert found.drop == pytest.approx(-6 / 400)
    assert found.rejected is None


@pytest.mark.parametrize(("n", "undecidable"), [(99, True), (100, False)])
def test_few_photos_cannot_show_the_drop(n: int, undecidable: bool) -> None:
    """One of 99 is more than 1 %; two may be chance, five are not."""
    found = judged(n=n, lost=2)
    assert found.undecidable == undecidable
    assert found.rejected is None
    assert judged(n=n, lost=5).rejected is not None


def test_a_log_loss_that_rises_on_every_photo_is_refused() -> None:
    """All answers stay, and the divergence is small; but the truth loses everywhere."""
    truth = np.arange(400) % 4
    candidate = Candidate(
        name="x", recipe="x", engine="onnxruntime", precision="int8", artifacts=()
    )
    for margin, passes in ((0.03, True), (0.015, False)):
        found = judge(
            candidate,
            logits_of(truth, margin),
            logits_of(truth, 0.05),
            truth,
            labels=LABELS,
            max_drop=0.01,
        )
        assert found.agreement == 1
        assert found.gate_divergence is not None
        assert found.gate_divergence < 0.001
        assert (found.rejected is None) == passes
        if not passes:
            assert found.rejected is not None
            assert found.rejected.startswith("log-loss rise 0.02")


def test_the_interval_is_paired_and_narrows_with_photos() -> None:
    few, many = judged(n=100, lost=1), judged(n=10_000, lost=100)
    assert few.drop == many.drop == pytest.approx(0.01)
    for found in (few, many):
        assert found.drop_interval is not None
        low, high = found.drop_interval
        assert low < 0.01 < high
    assert np.ptp(few.drop_interval) > 5 * np.ptp(many.drop_interval)
    # the same photos right and wrong: nothing differs, however bad both are
    same = judged(n=1000, swapped=0)
    assert same.drop_interval is not None
    assert max(map(abs, same.drop_interval)) < 0.003


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    logits = logits_of(np.arange(400) % 4)
    logits[[3, 7], 1] = value
    found = judged(logits=logits)
    assert found.rejected == "NaN or infinity in the logits of 2 of 400 photos"
    assert found.accuracy is None
    assert found.agreement is None


# --- macro-F1 and classes -----------------------------------------------------------------------


@pytest.mark.parametrize(("lost", "passes"), [(3, True), (4, False)])
def test_the_macro_f1_drop(lost: int, passes: bool) -> None:
    """A rare class counts as much as the others, which accuracy hides."""
    found = unequal(50, lost=lost)
    assert found.drop == pytest.approx(lost / 950)
    assert found.drop < 0.01 / 2
    rare, mistaken = 2 * (50 - lost) / (100 - lost), 600 / (600 + lost)
    assert found.macro_f1 == pytest.approx((2 + rare + mistaken) / 4)
    assert found.macro_f1_drop == pytest.approx(1 - found.macro_f1)
    assert (found.rejected is None) == passes
    if not passes:
        assert found.rejected is not None
        assert found.rejected.startswith(f"macro-F1 drop {found.macro_f1_drop:.4f} is above 0.01")
        assert unequal(50, lost=lost, max_drop=0.0125).rejected is None


def test_in_a_class_of_few_photos_some_lost_may_be_chance() -> None:
    """One photo of 20 moves the mean of four F1 scores by more than 1 %; it is listed."""
    found = unequal(10, lost=1)
    assert found.macro_f1_drop is not None
    assert found.macro_f1_drop > 0.01
    assert found.rejected is None
    assert [(c.label, c.lost, c.n) for c in found.regressions] == [("d", 1, 10)]
    most = unequal(10, lost=5)
    assert most.drop is not None
    assert most.drop < 0.01
    assert most.rejected is not None
    assert most.rejected.startswith("macro-F1 drop 0.")


def test_a_gain_is_a_negative_macro_f1_drop() -> None:
    found = unequal(50, lost=0, won=30)
    assert found.macro_f1_drop is not None
    assert found.macro_f1_drop < 0
    assert found.rejected is None


def test_classes_that_lost_photos_are_listed_worst_first() -> None:
    truth = np.repeat(np.arange(4), [100, 200, 100, 100])
    reference, predicted = truth.copy(), truth.copy()
    predicted[:2] = 1  # a: 2 of 100 lost
    predicted[100:106] = 0  # b: 6 of 200 lost
    reference[300:302], predicted[302:305] = 0, 0  # c: 3 lost and 2 won, of 100
    reference[400:403] = 0  # d: 3 won
    found = compared(truth, reference, predicted, max_drop=0.1)
    assert [(c.label, c.lost, c.n) for c in found.regressions] == [
        ("b", 6, 200),
        ("a", 2, 100),
        ("c", 1, 100),
    ]


def test_a_class_without_photos_is_left_out() -> None:
    truth = np.arange(300) % 3
    found = compared(truth, truth, truth)
    assert found.macro_f1 == 1.0
    assert found.macro_f1_drop == 0
    assert found.regressions == ()
    assert found.rejected is None
