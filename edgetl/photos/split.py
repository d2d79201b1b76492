"""A stratified, seeded split in which a group never lands on two sides."""

from __future__ import annotations

import numpy as np

from edgetl.spec import Split


def seeded_split(
    labels: list[str], groups: list[int], shares: dict[Split, float], seed: int
) -> list[Split]:
    """Split items so that every class is shared out by `shares` (which sum to 1).

    Groups go whole, largest first, each to the side that lacks most of its classes; every class
    with enough groups gets at least one photo on every side.
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
    for group in order:
        counts = np.bincount([column[labels[i]] for i in members[group]], minlength=len(classes))
        need = ((1 - (taken + counts) / quota) * (counts > 0)).sum(axis=1)
        side = int(np.argmax(need))
        taken[side] += counts
        for index in members[group]:
            result[index] = sides[side]
    return result
