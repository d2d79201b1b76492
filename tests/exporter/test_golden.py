"""The self-test's members: what a device needs to check itself, and nothing random."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from edgetl.exporter.golden import COUNT, drawn_jpeg, golden_members
from edgetl.preprocess import pixels
from edgetl.spec import Preprocess

SPEC = Preprocess(size=48, fit="crop")


def load(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)


def test_members_hold_inputs_logits_and_a_jpeg_with_its_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 48, 48, 3), np.uint8)
    logits = {"one": np.ones((9, 3), np.float32), "two": np.zeros((9, 3), np.float32)}
    golden, members = golden_members(images, logits, SPEC)
    assert set(members) == {golden.inputs, golden.jpeg, golden.pixels, *golden.logits.values()}
    assert set(golden.logits) == {"one", "two"}
    np.testing.assert_array_equal(load(members[golden.inputs]), images[:COUNT])
    for recipe, path in golden.logits.items():
        np.testing.assert_array_equal(load(members[path]), logits[recipe][:COUNT])
    np.testing.assert_array_equal(load(members[golden.pixels]), pixels(members[golden.jpeg], SPEC))


def test_fewer_photos_than_wanted_are_all_taken() -> None:
    images = np.zeros((2, 48, 48, 3), np.uint8)
    golden, members = golden_members(images, {"one": np.zeros((2, 3), np.float32)}, SPEC)
    assert len(load(members[golden.inputs])) == len(load(members[golden.logits["one"]])) == 2


def test_the_jpeg_is_the_same_each_time_and_must_be_turned() -> None:
    assert drawn_jpeg() == drawn_jpeg()
    image = Image.open(io.BytesIO(drawn_jpeg()))
    assert image.size == (640, 480)
    assert image.getexif()[0x0112] == 6
    upright = pixels(drawn_jpeg(), Preprocess(size=64, fit="squash"))
    rows, columns = upright.mean(axis=(1, 2)), upright.mean(axis=(0, 2))
    assert rows.shape == columns.shape == (64,)
    # green grows along the stored width, which upright is the height
    assert upright[-4:, :, 1].mean() > upright[:4, :, 1].mean() + 100
