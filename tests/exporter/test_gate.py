"""The gate: agreement, accuracy drop, finiteness, and what few photos cannot show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgetl.exporter.gate import judge
from edgetl.recipes import find_recipe
from edgetl.spec import Candidate, Recipe

LABELS = ("a", "b", "c", "d")
FP32, INT8 = find_recipe("ort-fp32"), find_recipe("ort-int8")


def logits_of(classes: np.ndarray) -> np.ndarray:
    """Logits that predict `classes`, by a margin."""
    return (3 * np.eye(len(LABELS))[classes]).astype(np.float32)


def judged(
    *, n: int = 400, lost: int = 0, won: int = 0, swapped: int = 0, **changes: Any
) -> Candidate:
    """A candidate that loses, wins and swaps (wrong to another wrong) so many of `n` photos."""
    truth = np.arange(n) % 4
    reference, predicted = truth.copy(), truth.copy()
    predicted[:lost] = (truth[:lost] + 1) % 4
    reference[lost : lost + won] = (truth[lost : lost + won] + 1) % 4
    odd = slice(lost + won, lost + won + swapped)
    reference[odd], predicted[odd] = (truth[odd] + 1) % 4, (truth[odd] + 2) % 4
    return compared(truth, reference, predicted, **changes)


def compared(truth: Any, reference: Any, predicted: Any, **changes: Any) -> Candidate:
    """A candidate that predicts `predicted` where FP32 predicts `reference`."""
    recipe: Recipe = changes.pop("recipe", INT8)
    logits = changes.pop("logits", logits_of(predicted))
    candidate = Candidate(
        recipe=recipe.name, engine=recipe.engine, precision=recipe.precision, artifacts=()
    )
    options = {"labels": LABELS, "max_drop": 0.01} | changes
    return judge(candidate, recipe, logits, logits_of(reference), truth, **options)


def unequal(rare: int, *, lost: int, won: int = 0, **changes: Any) -> Candidate:
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
    assert found.temperature < 1  # right almost always, so surer than these logits say
    assert 0.9 < found.rejection_threshold <= 1


def test_the_recipes_ask_for_what_was_agreed() -> None:
    wanted = {"int8": 0.95, "bf16": 0.98, "fp16": 0.98, "fp32": 0.997}
    for name in ("ort-fp32", "ort-int8", "ort-int8-arm", "ov-fp32", "ov-bf16", "ov-int8",
                 "trt-fp16-weak", "trt-fp16-strong"):  # fmt: skip
        recipe = find_recipe(name)
        assert recipe.min_agreement == wanted[recipe.precision]


@pytest.mark.parametrize(
    ("recipe", "swapped", "passes"),
    [(INT8, 20, True), (INT8, 21, False), (FP32, 1, True), (FP32, 2, False)],
)
def test_agreement(recipe: Recipe, swapped: int, passes: bool) -> None:
    found = judged(swapped=swapped, recipe=recipe)
    assert found.drop == 0
    assert (found.rejected is None) == passes
    if not passes:
        assert found.rejected == f"agreement {found.agreement:.4f} is below {recipe.min_agreement}"


@pytest.mark.parametrize(
    ("lost", "max_drop", "passes"),
    [(4, 0.01, True), (5, 0.01, False), (8, 0.02, True), (1, 0.0, False), (0, 0.0, True)],
)
def test_the_drop(lost: int, max_drop: float, passes: bool) -> None:
    found = judged(lost=lost, max_drop=max_drop)
    assert (found.rejected is None) == passes
    assert not found.undecidable
    if not passes:
        assert found.rejected == f"accuracy drop {lost / 400:.4f} is above {max_drop}"


def test_a_gain_is_a_negative_drop() -> None:
    found = judged(won=6, max_drop=0.0)
    assert found.drop == pytest.approx(-6 / 400)
    assert found.rejected is None


@pytest.mark.parametrize(("n", "undecidable"), [(99, True), (100, False)])
def test_few_photos_allow_one_lost(n: int, undecidable: bool) -> None:
    """One of 99 is more than 1 %: fewer photos than that cannot show it, but two lost can."""
    found = judged(n=n, lost=1)
    assert found.undecidable == undecidable
    assert found.rejected is None
    refused = judged(n=n, lost=2)
    assert refused.undecidable == undecidable
    assert refused.rejected == f"accuracy drop {2 / n:.4f} is above 0.01"
    assert judged(n=n, lost=1, max_drop=0.0).rejected is not None


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
        assert found.rejected == f"macro-F1 drop {found.macro_f1_drop:.4f} is above 0.01"
        assert unequal(50, lost=lost, max_drop=0.0125).rejected is None


def test_a_class_of_few_photos_allows_one_lost() -> None:
    """One photo of 20 moves the mean of four F1 scores by more than 1 %; it is listed."""
    found = unequal(10, lost=1)
    assert found.macro_f1_drop is not None
    assert found.macro_f1_drop > 0.01
    assert found.rejected is None
    assert [(c.label, c.lost, c.n) for c in found.regressions] == [("d", 1, 10)]
    two = unequal(10, lost=2)
    assert two.drop is not None
    assert two.drop < 0.01 / 4
    assert two.rejected is not None
    assert two.rejected.startswith("macro-F1 drop 0.0")


def test_no_drop_at_all_means_of_macro_f1_too() -> None:
    kept = unequal(24, lost=0, max_drop=0.0)
    assert (kept.drop, kept.macro_f1_drop, kept.rejected) == (0, 0, None)
    found = unequal(24, lost=1, won=1, max_drop=0.0)  # as accurate, on other classes
    assert found.drop == 0
    assert found.rejected is not None
    assert found.rejected.startswith("macro-F1 drop 0.0")


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
