"""What names mean."""

from __future__ import annotations

import pytest

from edgetl.data.names import (
    annotated,
    is_utf8,
    order_of_numbers,
    shown,
    split_of,
    twins,
    unclear_splits,
)


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train Training TRAIN train_set set_train trainset training-data Train_Images"),
        ("train", "train2017 images_train trainImages"),
        ("validation", "val valid validate validation dev eval Evaluation val_set dev-set valset"),
        ("validation", "Validation.Set development evaluation_photos"),
        ("test", "test testing TEST test-set testset set_test test_images TestData"),
        (None, "holdout cat training_shoes test_tube dev_board invalid latest contest validity"),
        (None, "set images data trains untrained test_1 x_train set_images train_test"),
    ],
)
def test_names_of_splits(split: str | None, names: str) -> None:
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)
    assert split_of("Train Images") == "train"
    assert split_of("") is None


@pytest.mark.parametrize(
    ("is_so", "names"),
    [
        (True, "images masks"),
        (True, "JPEGImages Annotations ImageSets SegmentationClass"),
        (True, "Images Ground_Truth"),
        (False, "images"),
        (False, "mask no_mask"),
        (True, "images masks overlays"),
        (False, "photo mask glasses"),
        (False, "photo picture"),
        (False, ""),
    ],
)
def test_pictures_beside_their_marks(is_so: bool, names: str) -> None:
    assert annotated(names.split()) is is_so


@pytest.mark.parametrize(
    ("unclear", "names"),
    [
        (["seg_train", "seg_test"], "seg_train seg_pred seg_test"),
        (["1_train", "2_val", "3-TEST"], "1_train 2_val 3-TEST"),
        (["trainset_a", "a_dev"], "trainset_a a_dev b"),
        (["train", "test1"], "cat train test1"),
        ([], "training_shoes test_tube dev_kit"),
        ([], "train_1 train_2 train"),
        ([], "contest pretest untrained latest"),
        ([], "train_test test_train"),
        ([], "valid invalid"),
        ([], ""),
    ],
)
def test_names_that_only_differ_in_a_split_are_unclear(unclear: list[str], names: str) -> None:
    assert unclear_splits(names.split()) == unclear


def test_names_that_people_take_for_one() -> None:
    assert twins(["cat", "Cat ", "cat.", "dog", "a  b", "a b"]) == [
        ["Cat ", "cat", "cat."],
        ["a  b", "a b"],
    ]
    assert twins(["cat", "cats", "cat-1", "cat", "ca.t"]) == []


def test_numbers_in_the_order_of_text_are_told() -> None:
    (warning,) = order_of_numbers(["10", "9", "1", "2", "1"])
    assert "in the order of text, 1, 10, 2, 9:" in warning
    for names in (["1", "2", "9"], ["10", "9", "a"], ["01", "02", "10"], ["²", "10", "9"]):
        assert order_of_numbers(names) == []


def test_names_for_messages() -> None:
    assert shown("abcde") == "a, b, c, d, e"
    assert shown("abcdefg") == "a, b, c, d, e and 2 more"
    assert is_utf8("naïve 🍎")
    assert not is_utf8("caf\udce9")
