"""Which photos show the same picture, byte for byte or nearly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

# What was measured, at 224 and at 96 pixels. Look-alikes among photos that the eye tells apart:
# none in 7.1 million pairs of clothes, in 220,000 of nuclei under a microscope, in 66,000 of blood
# smears (the one pair that is found in each is a repeat), and in 7,140 pairs each of drawn brushed
# metal, concrete, woven cloth, and flat grey parts with a small spot, all in the same light; 19 of
# 7,140 where the spot is larger, those with the spot in one place. Of 60 copies each, found are:
# JPEG at quality 90, 60 or 30, resized to 90 or 50 %, trimmed by 1, 2 or 3 % around the centre: 98
# % and more, of most kinds all (metal: 88 % by 3 %; cloth: 92 % by 2 %, none by 3 %). A flat part
# has too little texture to be known again: its copies are not found. Photos of one thing by a fixed
# camera do look alike, whatever their labels: 7,124 of 7,140 pairs of a drawn casting.
MIN_COSINE = 0.65  # of the fine structure
MAX_CELL = 32  # largest difference of any value of the thumbnails, of 255
DEGREE = 4  # of the polynomial that lights a scene
MOST = 12.0  # what a cell may count: one spot is no structure
NOISE = 20.0  # structure of this length is as likely noise: it counts by half
# Copies are told from photos of one thing: saved again (all found) or resized (85 % and more), not
# trimmed. None among those castings and other drawn parts by a fixed camera under another label.
MAX_STEP = 4.0  # largest difference of any cell of the grids, of 255
MAX_ASKED = 200  # pairs a photo that are looked at as copies: a photo by a fixed camera has more
BLOCK = 2048

Grids: TypeAlias = npt.NDArray[np.float32]  # (N, side, side), brightness 0…255
Thumbs: TypeAlias = npt.NDArray[np.uint8]  # (N, 8, 8, 3)
Rows: TypeAlias = npt.NDArray[np.int64]


def structure(grids: Grids) -> npt.NDArray[np.float32]:
    """Fine structure `(N, side²)` of brightness, at most of length 1: shorter the less there is.

    Each cell less the light on the scene, which a polynomial in x and y follows, and less the mean
    of the 5x5 cells around it. What changes slowly is alike in all photos of a set with one lamp
    and lens, and says nothing about what they show.
    """
    side = grids.shape[1]
    flat = grids.reshape(len(grids), side * side)
    light = _light(side)
    even = (flat - flat @ light @ light.T).reshape(grids.shape)
    around = np.pad(even, ((0, 0), (2, 2), (2, 2)), mode="reflect")
    mean = sum(around[:, i : i + side, j : j + side] for i in range(5) for j in range(5)) / 25
    fine = np.clip(even - mean, -MOST, MOST).reshape(flat.shape)
    energy = np.einsum("nd,nd->n", fine, fine) + NOISE**2
    return np.asarray(fine / np.sqrt(energy)[:, np.newaxis], np.float32)


def _light(side: int) -> npt.NDArray[np.float32]:
    """Orthonormal columns `(side², K)` that span polynomials of x and y up to DEGREE."""
    y, x = (axis.ravel() for axis in np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j])
    powers = [y**i * x**j for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)]
    return np.asarray(np.linalg.qr(np.stack(powers, axis=1))[0], np.float32)


def look_alikes(
    grids: Grids, thumbs: Thumbs, wanted: Callable[[int, Rows], Rows]
) -> Iterator[tuple[int, Rows]]:
    """(photo, later photos that look like it), for those that `wanted(photo, candidates)` picks.

    Cosines by one matrix product a block: exact, and about 20 s for 50,000 photos. No more than a
    block of them is ever held. The thumbnails tell apart photos of which a part differs.
    """
    fine = structure(grids)
    flat = thumbs.reshape(len(thumbs), -1).astype(np.int16)
    for start in range(0, len(fine), BLOCK):
        for other in range(start, len(fine), BLOCK):
            near = fine[start : start + BLOCK] @ fine[other : other + BLOCK].T >= MIN_COSINE
            if other == start:
                near = np.triu(near, 1)
            for row in np.flatnonzero(near.any(axis=1)).tolist():
                photo = start + row
                rows = wanted(photo, np.flatnonzero(near[row]) + other)
                rows = rows[np.abs(flat[rows] - flat[photo]).max(axis=1, initial=0) <= MAX_CELL]
                if len(rows):
                    yield photo, rows


class Groups:
    """Which photos belong together: merged step by step, never by a list of all pairs."""

    def __init__(self, count: int) -> None:
        self.of = np.arange(count)  # group id of each photo: some member's number
        self.members = [[i] for i in range(count)]  # by group id; empty where merged away

    def merge(self, photo: int, others: Rows | list[int]) -> None:
        """Put photos into one group; the largest keeps its id."""
        ids = sorted({int(self.of[photo]), *self.of[others].tolist()})
        keep = max(ids, key=lambda group: len(self.members[group]))
        for group in ids:
            if group != keep:
                self.of[self.members[group]] = keep
                self.members[keep] += self.members[group]
                self.members[group] = []


def near_groups(
    grids: Grids, thumbs: Thumbs, kinds: list[str], labels: list[str], homes: list[str]
) -> tuple[Groups, Rows]:
    """Groups of look-alikes within each kind, and copies `(K, 2)` across labels or `homes`.

    A kind is a class, or all photos where each shows any number of classes. A home is the split
    that the user put a photo into. Time is that of the matrix product where few
    photos look alike; where all do, each is compared with few.
    """
    groups = Groups(len(labels))
    kind, label, home = (
        np.unique(np.array(names), return_inverse=True)[1] for names in (kinds, labels, homes)
    )
    left = np.full(len(labels), MAX_ASKED)

    def crossing(photo: int, rows: Rows) -> npt.NDArray[np.bool_]:
        return np.asarray((label[rows] != label[photo]) | (home[rows] != home[photo]))

    def wanted(photo: int, rows: Rows) -> Rows:
        across = crossing(photo, rows)
        across &= np.cumsum(across) <= left[photo]
        left[photo] -= across.sum()
        apart = (kind[rows] == kind[photo]) & (groups.of[rows] != groups.of[photo])
        return np.asarray(rows[across | apart])

    found: list[Rows] = []
    for photo, rows in look_alikes(grids, thumbs, wanted):
        groups.merge(photo, rows[kind[rows] == kind[photo]])
        across = rows[crossing(photo, rows)]
        steps = np.abs(grids[across] - grids[photo]).max(axis=(1, 2), initial=0)
        copies = across[steps <= MAX_STEP]
        found.append(np.stack([np.full(len(copies), photo), copies], axis=1))
    return groups, np.concatenate(found) if found else np.zeros((0, 2), np.int64)


def same_pairs(hashes: list[str]) -> list[tuple[int, int]]:
    """Pairs (first, later) of byte-identical files."""
    first: dict[str, int] = {}
    earliest = [first.setdefault(value, index) for index, value in enumerate(hashes)]
    return [(same, index) for index, same in enumerate(earliest) if same != index]


def join(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Group id of each of `count` items: the smallest index among all that pairs connect."""
    groups = Groups(count)
    for first, other in pairs:
        groups.merge(first, [other])
    smallest = [min(members, default=0) for members in groups.members]
    return [smallest[group] for group in groups.of.tolist()]
