"""Training batches: every draw follows from seed, epoch and step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetl.train.augment import COLOUR, RATIO, SCALE, Batches, jitter, random_box
from tests.helpers import twin


def gradient(count: int = 50, side: int = 48) -> np.ndarray:
    """Photos that grow brighter to the right; the blue channel is the photo's number."""
    photos = np.zeros((count, side, side, 3), np.uint8)
    photos[..., 0] = np.linspace(10, 245, side).astype(np.uint8)[None, None]
    photos[..., 1] = np.linspace(10, 245, side).astype(np.uint8)[None, :, None]
    photos[..., 2] = np.arange(count, dtype=np.uint8)[:, None, None]
    return photos


def batches(**changes: Any) -> Batches:
    options: dict[str, Any] = {
        "size": (32, 32), "batch": 8, "flip": True, "seed": 0, "erase": True,
    }  # fmt: skip
    return Batches(gradient(), np.arange(50), twin(2), **(options | changes))


def same(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True)
    )


def test_an_epoch_shows_every_photo_once_in_even_batches() -> None:
    found = list(batches().epoch(0))
    assert len(found) == batches().steps == 6
    assert {len(truth) for _, truth in found} <= {8, 9}
    assert sorted(torch.cat([truth for _, truth in found]).tolist()) == list(range(50))
    for images, truth in found:
        assert images.shape == (len(truth), 32, 32, 3)
        assert images.dtype == torch.uint8


def test_pictures_stay_with_their_labels() -> None:
    for images, truth in batches(erase=False).epoch(1):
        assert (images[..., 2] == truth[:, None, None]).all()


def test_a_later_epoch_opened_directly_is_the_same() -> None:
    through = batches()
    epochs = [list(through.epoch(number)) for number in range(4)]
    assert same(list(batches().epoch(3)), epochs[3])
    assert not same(epochs[2], epochs[3])
    assert not same(list(batches(seed=1).epoch(3)), epochs[3])


def test_photos_are_mirrored_only_if_asked() -> None:
    def mirrored(flip: bool) -> float:
        images = torch.cat([x for x, _ in batches(flip=flip, erase=False).epoch(0)]).int()
        return float((images[:, 16, -1, 0] < images[:, 16, 0, 0]).float().mean())

    assert mirrored(False) == 0
    assert 0.25 < mirrored(True) < 0.75


def test_no_photo_is_turned_upside_down() -> None:
    images = torch.cat([x for x, _ in batches(erase=False).epoch(0)]).int()
    assert (images[:, -1, 16, 1] > images[:, 0, 16, 1]).all()


def test_erasing_fills_a_square_in_some_photos() -> None:
    erased, plain = batches(flip=False, erase=True), batches(flip=False, erase=False)
    hit = 0
    for epoch in range(8):
        for (images, truth), (_, same_truth) in zip(
            erased.epoch(epoch), plain.epoch(epoch), strict=True
        ):
            assert torch.equal(truth, same_truth)
            changed = (images[..., 2] != truth[:, None, None]).flatten(1).float().mean(1)
            assert changed.max() <= 0.25
            hit += int((changed > 0).sum())
    assert 0.15 < hit / 400 < 0.35


def test_fewer_photos_than_a_batch_make_one_step() -> None:
    options: dict[str, Any] = {"batch": 32, "flip": True, "seed": 0, "erase": True}
    few = Batches(gradient(3), np.arange(3), twin(2), size=(16, 16), **options)
    assert [len(truth) for _, truth in few.epoch(0)] == [3]


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.integers(1, 600), st.integers(0, 2**32 - 1))
def test_boxes_lie_inside_and_keep_their_share_and_shape(side: int, seed: int) -> None:
    left, top, right, bottom = random_box((side, side), np.random.default_rng(seed))
    assert 0 <= left < right <= side
    assert 0 <= top < bottom <= side
    width, height = right - left, bottom - top
    assert RATIO[0] - 1e-6 <= width / height <= RATIO[1] + 1e-6
    # A box wider or taller than the photo is cut to it, and loses some of its area.
    assert SCALE[0] - 1e-6 <= width * height / side**2 <= 1


def test_boxes_are_drawn_from_the_whole_photo() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([random_box((100, 100), rng) for _ in range(3000)])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert np.allclose(centres.mean(axis=0), 50, atol=1)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1e4
    assert 0.4 <= areas.min() < 0.42
    assert areas.max() > 0.9
    assert 0.6 < areas.mean() < 0.72


# --- colour -----------------------------------------------------------------------------------


def test_jitter_follows_its_generator_and_differs_by_photo() -> None:
    images = torch.from_numpy(gradient(6)).float()
    first = jitter(images, torch.Generator().manual_seed(1))
    assert torch.equal(first, jitter(images, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, jitter(images, torch.Generator().manual_seed(2)))
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 255
    flat = torch.full((6, 8, 8, 3), 100.0)
    levels = jitter(flat, torch.Generator().manual_seed(3)).mean(dim=(1, 2, 3))
    assert levels.unique().numel() == 6
    assert (levels >= 100 * (1 - COLOUR)).all()
    assert (levels <= 100 * (1 + COLOUR)).all()


def test_jitter_keeps_black_black_and_grey_grey() -> None:
    assert not jitter(torch.zeros(4, 8, 8, 3), torch.Generator().manual_seed(0)).any()
    grey = torch.rand(4, 8, 8, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, -1, 3)
    found = jitter(grey * 255, torch.Generator().manual_seed(1))
    assert torch.allclose(found[..., 0], found[..., 1], atol=1e-3)
    assert torch.allclose(found[..., 1], found[..., 2], atol=1e-3)
