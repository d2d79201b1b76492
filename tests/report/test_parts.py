"""Parts of the run report: the confusion matrix and the wording of numbers."""

from __future__ import annotations

import pytest

from edgetl.report import text
from edgetl.report.matrix import DARK, matrix
from edgetl.tasks.base import Evaluation

NBSP = "\N{NO-BREAK SPACE}"


def evaluation(classes: int) -> Evaluation:
    """Ten photos a class; class 0 loses two to class 1, the last class has none."""
    confusion = [[10 * (t == p) for p in range(classes)] for t in range(classes)]
    confusion[0][:2] = [8, 2]
    confusion[-1] = [0] * classes
    labels = tuple(f"class {i}" for i in range(classes))
    counts = tuple(tuple(row) for row in confusion)
    return Evaluation(metrics={"accuracy": 0.9}, n=10, labels=labels, confusion=counts)


@pytest.mark.parametrize(
    ("classes", "numbers", "size"),
    [
        (2, True, "few"),
        (20, True, "some"),
        (21, False, "many"),
        (60, False, "crowd"),
        (100, False, "throng"),
    ],
)
def test_matrix(classes: int, numbers: bool, size: str) -> None:
    found = matrix(evaluation(classes), ())
    assert found is not None
    assert (found.numbers, found.size) == (numbers, size)
    assert f".matrix.{size} " in (text.HERE / "report.css").read_text() or size == "few"
    (label, (right, wrong, *_)), (_, last) = found.rows[0], found.rows[-1]
    assert label == "class 0"
    assert (right.n, right.style, right.opacity) == (8, "d x", "0.83")
    assert (wrong.n, wrong.style, wrong.opacity) == (2, "m", "0.31")
    assert wrong.title == f"class 0 → class 1: 2 of 10 (20{NBSP}%)"
    assert {cell.n for cell in last} == {0}
    assert [(pair.truth, pair.predicted, pair.n) for pair in found.pairs] == [
        ("class 0", "class 1", 2)
    ]


def test_matrix_that_was_not_kept() -> None:
    assert matrix(Evaluation(metrics={"accuracy": 1.0}, n=3), ("a", "b")) is None


@pytest.mark.parametrize("page", ["light", "dark"])
@pytest.mark.parametrize("kind", ["right", "wrong"])
def test_numbers_in_cells_are_readable(page: str, kind: str) -> None:
    css = (text.HERE / "report.css").read_text().split("@media screen", 1)[page == "dark"]
    full = [int(part) for part in css.split(f"--{kind}: ")[1].split(";")[0].split()]
    surface = bytes.fromhex(css.split("--surface: #")[1][:6])
    for step in range(14, 101):
        opacity = step / 100
        cell = [opacity * f + (1 - opacity) * s for f, s in zip(full, surface, strict=True)]
        bright_ink = (opacity >= DARK) == (page == "light")
        high, low = sorted((luminance(cell), 1.0 if bright_ink else 0.0), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (opacity, cell)


def luminance(color: list[float]) -> float:
    """Relative luminance (WCAG 2) of sRGB 0…255."""
    parts = [c / 255 for c in color]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (7322, "2 h 2 min"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert text.duration(seconds).replace(NBSP, " ") == words


def test_numbers_that_are_none() -> None:
    assert [f(float("nan")) for f in (text.percent, text.number, text.duration)] == ["–"] * 3


@pytest.mark.parametrize(("accuracy", "n"), [(0.0, 1), (1.0, 5), (0.9, 100)])
def test_interval_holds_the_accuracy(accuracy: float, n: int) -> None:
    low, high = text.interval(accuracy, n)
    assert 0 <= low <= accuracy <= high <= 1


def test_interval_of_ninety_in_a_hundred() -> None:
    assert text.interval(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-4)
