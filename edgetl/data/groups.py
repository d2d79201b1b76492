"""A seeded split, the photos that it keeps together, and what is said of those that look alike."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgetl.data.duplicates import Groups, join, near_groups, same_pairs
from edgetl.data.found import Found
from edgetl.data.ingest import Look, time_taken
from edgetl.data.names import shown
from edgetl.spec import Split

# Look-alikes are no group but a crowd where they are more than FEW photos and LARGE_SHARE of their
# class, or more than TINY and half of it, or all of it.
FEW, LARGE_SHARE, TINY = 8, 0.2, 3
BLOCKS = 20


class Together(NamedTuple):
    """Photos that go together, and findings about them."""

    groups: list[int]  # group id of each photo, for the split
    pairs: list[tuple[int, int]]  # copies: equal files, and equal pictures across labels or splits
    repeats: int  # photos that repeat another one, byte for byte or nearly
    crowds: dict[str, int]  # kind → its photos that look alike in groups too large to be groups
    order: str  # what the blocks of crowds follow


def group_photos(root: Path, found: list[Found], looks: list[Look], kinds: list[str]) -> Together:
    """Join equal files, the user's groups, and look-alikes of one kind: a class, or all photos.

    Look-alikes that are a large share of a class come from a fixed camera, or are frames of one
    film: kept whole they would leave nothing to split. They are cut into blocks by time instead.
    """
    count = len(found)
    same = same_pairs([seen.sha256 for seen in looks])
    near, copies = near_groups(
        np.array([seen.grid for seen in looks], np.float32),
        np.array([seen.thumb for seen in looks], np.uint8),
        kinds,
        [item.label for item in found],
        [item.split or "" for item in found],
    )
    homes: dict[str, int] = {}
    named = [(homes.setdefault(f.group, i), i) for i, f in enumerate(found) if f.group]
    base = join(count, same + named)
    whole, crowds = _sorted_out(near, kinds, base)
    firm = [(rows[0], row) for rows in whole for row in rows[1:]]
    repeats = count - len(set(join(count, same + firm)))
    key, order = _time_key(root, found, [row for rows in crowds for row in rows])
    blocks = [pair for rows in crowds for pair in _in_blocks(sorted(rows, key=key), base)]
    crowded = {row for rows in crowds for row in rows}
    apart = [(i, j) for i, j in copies.tolist() if not {i, j} & crowded]
    return Together(
        groups=join(count, same + named + firm + blocks),
        pairs=sorted({*same, *apart}),
        repeats=repeats,
        crowds=dict(Counter(kinds[row] for row in sorted(crowded))),
        order=order,
    )


def _sorted_out(
    near: Groups, kinds: list[str], base: list[int]
) -> tuple[list[list[int]], list[list[int]]]:
    """Groups that are groups, and those too large for it; what `base` joins counts as one photo."""
    totals = Counter(kind for kind, _ in set(zip(kinds, base, strict=True)))
    whole: list[list[int]] = []
    crowds: list[list[int]] = []
    for rows in near.members:
        different = len({base[row] for row in rows})
        if different > 1:
            total = totals[kinds[rows[0]]]
            large = different > min(max(FEW, LARGE_SHARE * total), max(TINY, total / 2), total - 1)
            (crowds if large else whole).append(sorted(rows))
    return whole, crowds


def _time_key(
    root: Path, found: list[Found], rows: list[int]
) -> tuple[Callable[[int], tuple[object, ...]], str]:
    """What sorts photos by time: when they were taken, or else their names, numbers by value."""
    taken = {row: time_taken(root / found[row].path) for row in rows}

    def by_name(row: int) -> tuple[object, ...]:
        parts = re.split(r"(\d+)", found[row].path)
        return tuple((int(part), part) if part.isdecimal() else (-1, part) for part in parts)

    if all(taken.values()):
        return (lambda row: (taken[row], *by_name(row))), "the time of their EXIF data"
    return by_name, "their file names"


def _in_blocks(rows: list[int], base: list[int]) -> list[tuple[int, int]]:
    """Pairs that join photos in order of time to BLOCKS groups; what `base` joins is one photo."""
    first: dict[int, int] = {}
    for row in rows:
        first.setdefault(base[row], row)
    heads = list(first.values())
    parts = np.array_split(np.array(heads), min(BLOCKS, len(heads)))
    return [(int(part[0]), int(row)) for part in parts for row in part[1:]]


# --- the split --------------------------------------------------------------------------------


def seeded_split(
    labels: list[str], groups: list[int], shares: dict[Split, float], seed: int
) -> list[Split]:
    """Split items so that every class is shared out by `shares` (which sum to 1).

    Groups go whole, largest first, each to the side that lacks most of its classes. A class whose
    remaining groups only just suffice for its empty sides takes one of these, so that it gets a
    photo on every side if it has enough groups of its own, and on the first sides if it has fewer.
    """
    classes, columns = np.unique(np.array(labels), return_inverse=True)
    sides = list(shares)
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    totals = np.bincount(columns)
    quota = np.array([[max(1.0, shares[side] * total) for total in totals] for side in sides])
    taken = np.zeros_like(quota)
    order = sorted(members)
    np.random.default_rng(seed).shuffle(order)
    order.sort(key=lambda group: -len(members[group]))  # stable: seeded among equals
    result: list[Split] = ["train"] * len(labels)
    counted = {
        group: np.bincount(columns[rows], minlength=len(classes)) for group, rows in members.items()
    }
    waiting = (np.array(list(counted.values())) > 0).sum(axis=0)  # groups of each class
    for group in order:
        counts = counted[group]
        empty = (taken == 0) & (counts > 0)
        urgent = empty & (waiting <= empty.sum(axis=0)) & (np.cumsum(empty, axis=0) <= waiting)
        need = ((1 - (taken + counts) / quota) * (counts > 0)).sum(axis=1)
        need[urgent.sum(axis=1) < urgent.sum(axis=1).max()] = -np.inf
        waiting = waiting - (counts > 0)
        side = int(np.argmax(need))
        taken[side] += counts
        for index in members[group]:
            result[index] = sides[side]
    return result


# --- what is said -----------------------------------------------------------------------------


def conflicts(found: list[Found], pairs: list[tuple[int, int]]) -> list[str]:
    """A warning about one picture under two labels."""
    bad = [(i, j) for i, j in pairs if found[i].label != found[j].label]
    if not bad:
        return []
    count = "1 pair shows" if len(bad) == 1 else f"{len(bad)} pairs show"
    return [f"{count} the same picture under two labels: {_named(found, bad)}."]


def leaks(found: list[Found], chosen: Sequence[str], pairs: list[tuple[int, int]]) -> list[str]:
    """A warning about one picture in two of the user's splits."""
    crossing = [(i, j) for i, j in pairs if chosen[i] != chosen[j]]
    if not crossing:
        return []
    sides = Counter(" and ".join(sorted((chosen[i], chosen[j]))) for i, j in crossing)
    counted = ", ".join(f"{n} between {side}" for side, n in sorted(sides.items()))
    return [
        f"The same picture is in two splits ({counted}), so scores may flatter; nothing was "
        f"moved: {_named(found, crossing)}."
    ]


def crowd_warning(together: Together, totals: Counter[str], *, split_made: bool) -> list[str]:
    """A warning that many photos look alike, and what that means for the split."""
    if not together.crowds:
        return []
    counted = ", ".join(f"{n} of {totals[name]} {name}" for name, n in together.crowds.items())
    start = f"Photos look alike, as those by a fixed camera or of one film do ({counted})"
    if not split_made:
        return [f"{start}: of these, only byte-identical files are taken for the same picture."]
    return [
        f"{start}: too many to stay on one side, they were split in blocks by {together.order}. "
        "Neighbours on two sides may flatter the scores; to decide yourself, make folders train, "
        "validation and test."
    ]


def _named(found: list[Found], pairs: list[tuple[int, int]]) -> str:
    alike = (f"{found[i].path} = {found[j].path}" for i, j in pairs)
    return shown(alike, 5, "; ", "; and ")
