"""The confusion matrix as a table of coloured cells, from 2 to 100 classes."""

from __future__ import annotations

import msgspec

from edgetl.report.text import NONE, SPACE
from edgetl.tasks.base import Evaluation

NUMBERS_UP_TO = 20  # classes; beyond, cells are too small for text
PALEST = 0.14  # of a cell that holds at least one photo
DARK = 0.7  # opacity from which text in a cell is light (dark on a dark page); see report.css
SIZES = {"few": 12, "some": NUMBERS_UP_TO, "many": 50, "crowd": 75}  # most classes; see report.css
PAIRS = 10


class Cell(msgspec.Struct, frozen=True):
    """One cell: its photos, its colour's opacity (0…1, "" when empty), classes and tooltip."""

    n: int
    opacity: str
    style: str
    title: str


class Confusion(msgspec.Struct, frozen=True):
    """A confusion: photos of `truth` taken for `predicted`, and their share (0…1) of `truth`."""

    truth: str
    predicted: str
    n: int
    share: float


class Matrix(msgspec.Struct, frozen=True):
    """What the template draws; `size` is one of SIZES or throng."""

    labels: tuple[str, ...]
    rows: list[tuple[str, list[Cell]]]  # by true class
    pairs: list[Confusion]
    pairs_left: int
    numbers: bool
    size: str


def matrix(evaluation: Evaluation, labels: tuple[str, ...]) -> Matrix | None:
    """Lay out `evaluation.confusion` (truth by predicted), None where it was not kept."""
    if not evaluation.confusion:
        return None
    labels = evaluation.labels or labels
    rows = [
        (label, [_cell(labels, truth, column, counts) for column in range(len(counts))])
        for truth, (label, counts) in enumerate(zip(labels, evaluation.confusion, strict=True))
    ]
    pairs = _pairs(labels, evaluation.confusion)
    n = len(labels)
    size = next((name for name, most in SIZES.items() if n <= most), "throng")
    return Matrix(
        labels=labels,
        rows=rows,
        pairs=pairs[:PAIRS],
        pairs_left=max(0, len(pairs) - PAIRS),
        numbers=n <= NUMBERS_UP_TO,
        size=size,
    )


def _cell(labels: tuple[str, ...], truth: int, column: int, counts: tuple[int, ...]) -> Cell:
    n, right = counts[column], truth == column
    if not n:
        return Cell(0, "", "d" if right else "", "")
    share = n / sum(counts)
    opacity = PALEST + (1 - PALEST) * share
    style = ("d" if right else "m") + (" x" if opacity >= DARK else "")
    way = f"{labels[truth]} → {labels[column]}"
    title = f"{way}: {n} of {sum(counts)} ({share * 100:.0f}{SPACE}%)"
    return Cell(n, f"{opacity:.2f}", style, title)


def _pairs(labels: tuple[str, ...], confusion: tuple[tuple[int, ...], ...]) -> list[Confusion]:
    """All confusions, most photos first, then the largest share."""
    pairs = [
        Confusion(labels[truth], labels[column], n, n / sum(counts))
        for truth, counts in enumerate(confusion)
        for column, n in enumerate(counts)
        if n and column != truth
    ]
    return sorted(pairs, key=lambda pair: (-pair.n, -pair.share, pair.truth or NONE))
