"""Which photos go together: equal files, groups of the user, look-alikes; and crowds, which not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgetl.data.found import Found
from edgetl.data.groups import BLOCKS, Together, group_photos
from edgetl.data.ingest import Look

HERE = Path("/photos")


def looks(scenes: list[int], hashes: list[str] | None = None) -> list[Look]:
    """Signatures of photos; those of one scene look alike."""
    made = []
    for row, scene in enumerate(scenes):
        seen = Look()
        noise = np.random.default_rng([row, 1]).normal(0, 1, (24, 24))
        seen.grid = (np.random.default_rng(scene).uniform(40, 210, (24, 24)) + noise).astype("f4")
        seen.thumb = np.full((8, 8, 3), 120, np.uint8)
        seen.sha256 = hashes[row] if hashes else f"{row}"
        made.append(seen)
    return made


def together(scenes: list[int], *, groups: str = "", hashes: list[str] | None = None) -> Together:
    found = [
        Found(path=f"a/{i}.png", label="a", group=groups[i].strip() if groups else "")
        for i in range(len(scenes))
    ]
    return group_photos(HERE, found, looks(scenes, hashes), ["a"] * len(scenes))


@pytest.mark.parametrize(
    ("alike", "others", "crowd"),
    [
        (2, 1, False),
        (3, 1, False),
        (4, 1, True),  # more than half of the class
        (4, 4, False),
        (8, 30, False),
        (9, 30, True),  # more than a fifth
        (20, 80, False),
        (21, 79, True),
        (2, 0, True),  # the whole class
        (1, 0, False),
    ],
)
def test_look_alikes_are_a_group_unless_they_are_a_large_share(
    alike: int, others: int, crowd: bool
) -> None:
    found = together([0] * alike + list(range(1, others + 1)))
    assert found.crowds == ({"a": alike} if crowd else {})
    assert found.repeats == (0 if crowd else alike - 1)
    sizes = Counter(Counter(found.groups).values())
    if crowd:
        assert max(sizes) == -(-alike // BLOCKS)
    else:
        assert sizes[alike] >= 1


def test_a_crowd_is_cut_into_blocks_of_neighbours() -> None:
    found = together([0] * 100)
    assert set(Counter(found.groups).values()) == {100 // BLOCKS}
    for i in range(99):  # by number, in which 10 follows 9
        assert found.groups[i] == found.groups[i + 1] or i % 5 == 4


def test_equal_files_and_groups_of_the_user_stay_together_in_a_crowd() -> None:
    hashes = [f"{i}" for i in range(100)]
    hashes[99] = hashes[0]
    groups = ["" for _ in range(100)]
    groups[30] = groups[70] = "x"
    found = together([0] * 100, groups="".join(g or " " for g in groups), hashes=hashes)
    assert found.crowds == {"a": 100}
    assert found.groups[0] == found.groups[99]
    assert found.groups[30] == found.groups[70]
    assert len(set(found.groups)) == BLOCKS  # and no blocks were joined by it
    assert found.pairs == [(0, 99)]
    assert found.repeats == 1


def test_films_that_the_user_grouped_are_kept_whole() -> None:
    scenes = [film for film in range(3) for _ in range(12)]
    found = together(scenes, groups="".join("xyz"[film] for film in scenes))
    assert found.crowds == {}
    assert len(set(found.groups)) == 3
