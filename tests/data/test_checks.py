"""Refusals: each cause in its own words, with where it was seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetl.data.checks import check_bad, check_found, check_split, dark_warning, huge_warning
from edgetl.data.found import Found
from edgetl.data.ingest import Look
from edgetl.errors import DataError
from edgetl.inputs.image import sized
from edgetl.spec import Photo, SkippedFile, Split

ROOT = Path("/photos")


def skipped(n: int) -> list[SkippedFile]:
    return [SkippedFile(path=f"{i}.jpg", reason="the file is empty") for i in range(n)]


@pytest.mark.parametrize(("bad", "total"), [(0, 1), (1, 2), (1, 16), (2, 40), (5, 100)])
def test_a_few_unreadable_photos_are_no_reason_to_refuse(bad: int, total: int) -> None:
    check_bad(skipped(bad), total, ROOT)


@pytest.mark.parametrize(("bad", "total"), [(1, 1), (2, 3), (2, 16), (2, 30), (6, 100), (50, 900)])
def test_many_unreadable_photos_are_refused(bad: int, total: int) -> None:
    with pytest.raises(DataError, match=rf"{bad} of {total} photos in /photos cannot be read"):
        check_bad(skipped(bad), total, ROOT)


def found(split: Split | None, label: str, n: int) -> list[Found]:
    return [Found(path=f"{split}/{label}/{i}.png", label=label, split=split) for i in range(n)]


@pytest.mark.parametrize("where", ["validation", "test"])
def test_a_class_only_outside_training_is_refused_by_where_it_is(where: Split) -> None:
    photos = [f for split in ("train", "validation", "test") for f in found(split, "cat", 3)]
    photos += [f for split in ("train", "validation", "test") for f in found(split, "dog", 3)]
    match = rf"Class bird has no training photo: it is only in {where} \(1 photo, {where}/bird/0"
    with pytest.raises(DataError, match=match) as caught:
        check_found(photos + found(where, "bird", 1))
    assert "add training photos of bird" in caught.value.fix


def test_a_class_without_validation_photos_is_refused_by_where_it_is() -> None:
    photos = [f for split in ("train", "validation") for f in found(split, "cat", 3)]
    photos += found("train", "bird", 4) + found("test", "bird", 2) + found("train", "cow", 1)
    match = (
        r"Class bird has no validation photo: it is only in training \(4 photos, train/bird/0\.png "
        r"for one\) and test \(2 photos, test/bird/0\.png for one\)\. Missing as well: cow\."
    )
    with pytest.raises(DataError, match=match):
        check_found(photos)


def test_without_validation_photos_a_class_needs_training_photos_only() -> None:
    check_found(found("train", "cat", 3) + found("train", "dog", 3) + found("test", "dog", 1))
    photos = found("train", "Cat", 3) + found("test", "cat ", 3)
    with pytest.raises(DataError, match=r"for one\)\. Its name differs little from 'Cat', which"):
        check_found(photos)
    check_found(found(None, "cat", 3) + found(None, "dog", 1))


def photo(split: Split, label: str, name: str, sha256: str = "", group: str = "") -> Photo:
    return Photo(path=name, split=split, label=label, sha256=sha256 or name, group=group)


CATS = [photo("train", "cat", "cat/0.png"), photo("validation", "cat", "cat/1.png")]


@pytest.mark.parametrize(
    ("photos", "groups", "match"),
    [
        (
            [photo("train", "dog", "dog/0.png")],
            [2],
            r"Class dog has 1 photo to train and validate with, dog/0\.png; it needs at least 2\.",
        ),
        (
            [photo("train", "dog", f"dog/{i}.png", "same") for i in range(3)],
            [2, 2, 2],
            r"All 3 photos of class dog are the same file, dog/0\.png = dog/1\.png",
        ),
        (
            [photo("train", "dog", f"dog/{i}.png", group="film 7") for i in range(3)],
            [2, 2, 2],
            r"All 3 photos of class dog are in group film 7, dog/0\.png for one",
        ),
        (
            [photo("train", "dog", f"dog/{i}.png") for i in range(3)],
            [2, 2, 2],
            r"All 3 photos of class dog show one picture or belong to one group, dog/0\.png",
        ),
        (
            [photo("validation", "dog", f"dog/{i}.png", group=f"{i}") for i in range(3)],
            [0, 1, 2],
            r"Groups that hold several classes leave all 3 photos of class dog in validation",
        ),
    ],
)
def test_a_class_that_cannot_be_split_is_refused_by_its_cause(
    photos: list[Photo], groups: list[int], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        check_split(CATS + photos, [0, 1, *groups])


def test_a_class_in_both_splits_is_accepted() -> None:
    check_split(CATS, [0, 1])


def look(bits: int = 0, stored: tuple[int, int] = (64, 64)) -> Look:
    seen = Look()
    seen.bits, seen.stored = bits, stored
    return seen


@pytest.mark.parametrize(
    ("bits", "depth", "text"),
    [
        ([0, 0], 16, ""),
        ([16, 15, 0], 16, ""),
        ([12, 11, 0], 16, "2 of 2 photos of more than 8 bits have samples of at most 12 bits"),
        ([14, 13], 16, "dark, 0…63 of 255. --depth 14 stretches them"),
        ([14, 16], 16, ""),
        ([9, 16], 16, "nearly black, 0…1 of 255, unlike the others"),
        ([12, 12], 12, ""),
        ([10, 9], 12, "taken as 12 bits they are dark, 0…63 of 255. --depth 10"),
    ],
)
def test_samples_that_use_few_bits_are_said_once(bits: list[int], depth: int, text: str) -> None:
    warnings = dark_warning([look(n) for n in bits], sized(64, "crop", depth))
    assert len(warnings) == bool(text)
    assert text in "".join(warnings)


def test_huge_photos_are_named() -> None:
    photos = found(None, "cat", 8)
    assert huge_warning(photos, [look()] * 8) == []
    (text,) = huge_warning(photos, [look(stored=(20_000, 10_000))] * 7 + [look()])
    assert text.startswith("7 of 8 photos have more than 179 million pixels")
    assert "None/cat/0.png (20000 × 10000)" in text
    assert text.endswith("; and 2 more.")
