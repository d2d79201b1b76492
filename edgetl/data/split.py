"""A stratified, seeded split in which a group never lands on two sides."""

from __future__ import annotations

import numpy as np

from edgetl.spec import Split


def seeded_split(
    labels: list[str], groups: list[int], shares: dict[Split, float], seed: int
) -> list[Split]:
    """Split items so that every class is shared out by `shares` (which sum to 1).

    Groups go whole, largest first, each to the side that lacks most of its classes. A class whose
    remaining groups only just suffice for its empty sides takes one of these, so that it gets a
    photo on every side if it has enough groups of its own, and on the first sides if it has fewer.
    """
    classes = sorted(set(labels))
    sides = list(shares)
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    column = {label: i for i, label in enumerate(classes)}
    totals = np.bincount([column[label] for label in labels], minlength=len(classes))
    quota = np.array([[max(1.0, shares[side] * total) for total in totals] for side in sides])
    taken = np.zeros_like(quota)
    order = sorted(members)
    np.random.default_rng(seed).shuffle(order)
    order.sort(key=lambda group: -len(members[group]))  # stable: seeded among equals
    result: list[Split] = ["train"] * len(labels)
    counted = {
        group: np.bincount([column[labels[i]] for i in rows], minlength=len(classes))
        for group, rows in members.items()
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
