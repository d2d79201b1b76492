"""The self-test's members: what a device needs to check itself, and nothing random."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from edgetl.exporter.golden import drawn_jpeg, golden_inputs, golden_members
from edgetl.inputs.image import sized
from tests.helpers import pixels

SPEC = sized(48, "crop")


def load(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)


def chosen(reference: Any, side: int) -> Any:
    """The drawings that these logits choose."""
    return golden_inputs(lambda images: {"logits": reference(images)}, (side, side, 3))


def means(images: np.ndarray) -> np.ndarray:
    """A reference of six outputs: mean and deviation of each colour."""
    flat = images.reshape(len(images), -1, 3).astype(np.float32)
    return np.concatenate([flat.mean(axis=1), flat.std(axis=1)], axis=1)


def test_members_hold_inputs_logits_and_a_jpeg_with_its_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 48, 48, 3), np.uint8)
    logits = {"one": np.ones((9, 3), np.float32), "two": np.zeros((9, 3), np.float32)}
    golden, members = golden_members(
        images, {name: {"logits": values} for name, values in logits.items()}, SPEC
    )
    assert set(members) == {
        golden.inputs,
        golden.jpeg,
        golden.pixels,
        *(o["logits"] for o in golden.outputs.values()),
    }
    assert set(golden.outputs) == {"one", "two"}
    np.testing.assert_array_equal(load(members[golden.inputs]), images)
    for name, outputs in golden.outputs.items():
        np.testing.assert_array_equal(load(members[outputs["logits"]]), logits[name])
    np.testing.assert_array_equal(load(members[golden.pixels]), pixels(members[golden.jpeg], SPEC))


def test_the_inputs_move_every_output_through_its_whole_range() -> None:
    """As far as all drawings do; an output counts by its own range, however small that is."""
    seen: list[np.ndarray] = []

    def reference(images: np.ndarray) -> np.ndarray:
        seen.append(means(images) * [1e4, 1, 1, 1e-4, 1, 1] + [0, 0, -1e5, 0, 0, 0])
        return seen[-1]

    inputs = chosen(reference, 48)
    assert inputs.dtype == np.uint8
    assert inputs.shape == (16, 48, 48, 3)
    moved = reference(inputs)
    np.testing.assert_array_equal(np.ptp(moved, axis=0), np.ptp(seen[0], axis=0))


def test_every_class_that_drawings_reach_is_reached() -> None:
    """One output a drawing: each rises for one drawing alone, and as many as fit are taken."""

    def alone(images: np.ndarray) -> np.ndarray:
        return np.eye(len(images), 12, dtype=np.float32)

    inputs = chosen(alone, 16)
    pool: list[np.ndarray] = []
    chosen(lambda images: pool.append(images) or means(images), 16)
    taken = {np.flatnonzero((pool[0] == one).all(axis=(1, 2, 3))).item() for one in inputs}
    assert taken >= set(range(12))


def test_the_same_network_gets_the_same_drawings_and_another_others() -> None:
    first = chosen(means, 32)
    np.testing.assert_array_equal(first, chosen(means, 32))
    assert (first != chosen(lambda images: means(images)[:, ::-1] ** 2, 32)).any()
    assert len({one.tobytes() for one in first}) == len(first)


def test_large_inputs_are_fewer() -> None:
    assert len(chosen(means, 224)) == 13
    assert len(chosen(means, 320)) == 6


def test_drawings_on_which_the_network_fails_are_left_out() -> None:
    """They would make a self-test that nothing passes."""

    def reference(images: np.ndarray) -> np.ndarray:
        found = means(images)
        found[found[:, 0] > 128] = np.nan
        return found

    assert (means(chosen(means, 16))[:, 0] > 128).any()
    assert not np.isnan(reference(chosen(reference, 16))).any()
    assert len(chosen(lambda images: means(images) * np.nan, 16)) == 16


def test_the_jpeg_is_the_same_each_time_and_must_be_turned() -> None:
    assert drawn_jpeg() == drawn_jpeg()
    image = Image.open(io.BytesIO(drawn_jpeg()))
    assert image.size == (640, 480)
    assert image.getexif()[0x0112] == 6
    upright = pixels(drawn_jpeg(), sized(64, "squash"))
    rows, columns = upright.mean(axis=(1, 2)), upright.mean(axis=(0, 2))
    assert rows.shape == columns.shape == (64,)
    # green grows along the stored width, which upright is the height
    assert upright[-4:, :, 1].mean() > upright[:4, :, 1].mean() + 100
