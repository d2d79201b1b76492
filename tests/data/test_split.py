"""The seeded split, by its properties."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetl.data.groups import seeded_split
from edgetl.spec import Split

THREE: dict[Split, float] = {"train": 0.70, "validation": 0.15, "test": 0.15}
TWO: dict[Split, float] = {"train": 0.85, "validation": 0.15}
SHARES = st.sampled_from([THREE, TWO])
steady = settings(max_examples=200, derandomize=True, deadline=None)


@st.composite
def pure_groups(draw: st.DrawFn) -> tuple[list[str], list[int]]:
    """Groups of one class each, of very different sizes, in any order."""
    sizes = st.lists(st.integers(1, 30), min_size=1, max_size=12)
    classes = draw(st.lists(sizes, min_size=1, max_size=5))
    items, group = [], 0
    for index, parts in enumerate(classes):
        for size in parts:
            items += [(f"c{index}", group)] * size
            group += 1
    draw(st.randoms(use_true_random=False)).shuffle(items)
    return [label for label, _ in items], [number for _, number in items]


@steady
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 15)), max_size=80),
    SHARES,
    st.integers(0, 99),
)
def test_groups_never_cross_whatever_they_hold(
    items: list[tuple[str, int]], shares: dict[Split, float], seed: int
) -> None:
    labels, groups = [label for label, _ in items], [group for _, group in items]
    found = seeded_split(labels, groups, shares, seed)
    assert len(found) == len(items)
    assert set(found) <= set(shares)
    sides: dict[int, set[str]] = {}
    for group, side in zip(groups, found, strict=True):
        sides.setdefault(group, set()).add(side)
    assert all(len(side) == 1 for side in sides.values())
    assert found == seeded_split(labels, groups, shares, seed)


@steady
@given(pure_groups(), SHARES, st.integers(0, 99))
def test_a_class_with_enough_groups_is_on_every_side(
    items: tuple[list[str], list[int]], shares: dict[Split, float], seed: int
) -> None:
    labels, groups = items
    found = seeded_split(labels, groups, shares, seed)
    for label in set(labels):
        rows = [i for i, other in enumerate(labels) if other == label]
        count = len({groups[i] for i in rows})
        # With fewer groups than sides, training comes first, then validation.
        assert {found[i] for i in rows} == set(list(shares)[:count]), (label, count)


@steady
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(4, 300), min_size=1),
    SHARES,
    st.integers(0, 99),
)
def test_single_photos_are_shared_out_as_asked(
    counts: dict[str, int], shares: dict[Split, float], seed: int
) -> None:
    labels = [label for label, count in counts.items() for _ in range(count)]
    found = Counter(zip(labels, seeded_split(labels, list(range(len(labels))), shares, seed)))  # noqa: B905
    for label, count in counts.items():
        for side, share in shares.items():
            assert abs(found[label, side] - max(1, share * count)) <= 2, (label, side)


def test_uneven_groups_stay_near_the_shares() -> None:
    rng = np.random.default_rng(0)
    labels, groups = [], []
    for group in range(300):
        size = int(rng.integers(1, 12))
        labels += [f"c{group % 5}"] * size
        groups += [group] * size
    for seed in range(5):
        found = Counter(seeded_split(labels, groups, THREE, seed))
        for side, share in THREE.items():
            assert found[side] / len(labels) == pytest.approx(share, abs=0.03)


def test_groups_of_several_classes_leave_every_class_on_every_side() -> None:
    rng = np.random.default_rng(1)
    labels, groups = [], []
    for group in range(60):
        for label in rng.choice(list("abcde"), 4):
            labels.append(str(label))
            groups.append(group)
    for seed in range(5):
        found = set(zip(labels, seeded_split(labels, groups, THREE, seed), strict=True))
        assert len(found) == 15


def test_another_seed_gives_another_split() -> None:
    labels, groups = ["a", "b"] * 50, list(range(100))
    splits = {tuple(seeded_split(labels, groups, THREE, seed)) for seed in range(10)}
    assert len(splits) == 10
