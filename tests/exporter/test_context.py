"""Photos, ranges and FP32 answers are read once for all candidates."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from edgetl.bundle.manifest import Calibration
from edgetl.exporter import context as materials
from edgetl.exporter.context import HELD_OUT, BuildContext
from edgetl.exporter.onnx.checks import NORMALIZED
from edgetl.exporter.quantize.calibration import float_tensors
from edgetl.recipes import find_recipe
from edgetl.spec import Recipe
from tests.exporter import small


@pytest.fixture
def source() -> small.SmallSource:
    return small.SmallSource(small.canonical(), photos=20, held=70)


@pytest.fixture
def made(source: small.SmallSource) -> BuildContext:
    return BuildContext(source, source.canonical())


def test_photos_are_read_once(made: BuildContext, source: small.SmallSource) -> None:
    first = made.photos(8)
    assert made.calibrate(8)[0] is made.photos(8) is first
    assert len(made.photos(500)) == 20
    assert source.asked == [8, 500]


def test_the_largest_set_is_on_record(made: BuildContext) -> None:
    """Whatever came last: the manifest says which photos the integers have seen."""

    def used() -> Calibration | None:
        return made.used

    made.photos(20)  # read, and nothing more
    assert used() is None
    made.calibrate(8)
    small_set = used()
    assert small_set is not None
    assert small_set.n == 8
    made.calibrate(12)
    made.calibrate(4)
    large = used()
    assert large is not None
    assert large.n == 12
    assert large.sha256 != small_set.sha256


def test_held_out_photos_come_with_their_answers(made: BuildContext, source: Any) -> None:
    images, logits = made.held_out()
    assert len(images) == HELD_OUT
    np.testing.assert_array_equal(images, source.held[:HELD_OUT])
    np.testing.assert_array_equal(logits["logits"], small.run(small.canonical(), images))
    assert made.held_out()[1] is logits


def recipe(count: int, *methods: Any) -> Recipe:
    """An INT8 recipe of so many photos and these methods."""
    stated = find_recipe("ort-int8")
    return msgspec.structs.replace(stated, calibration_images=count, calibration=methods)


def test_ranges_are_computed_once(
    made: BuildContext, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = [], materials.activation_ranges

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(options["methods"])
        return real(*arguments, **options)

    monkeypatch.setattr(materials, "activation_ranges", counted)
    found = made.ranges_of(recipe(8, "minmax", "percentile"))
    assert made.ranges_of(recipe(8, "percentile", "minmax", "minmax")) is found
    assert set(found) == {"minmax", "percentile"}
    assert list(found["minmax"]) == float_tensors(small.canonical())
    for low, high in found["minmax"].values():
        assert low <= 0 <= high
        assert high > low
    made.ranges_of(recipe(16, "minmax"))
    assert calls == [("minmax", "percentile"), ("minmax",)]


def test_trained_material_shares_photos_and_nothing_else(made: BuildContext, source: Any) -> None:
    photos, held = made.photos(8), made.held_out()
    other = made.with_trained(
        small.canonical(blocks=1), {"Relu_1_0": (-1.0, 2.0), NORMALIZED: (0.0, 0.0)}
    )
    assert other.photos(8) is photos
    assert other.held_out() is held  # FP32 as it was given, not as it was trained
    assert source.asked == [8]
    assert other.calibrate(8)[1].n == 8
    assert "Relu_1_0" in float_tensors(other.canonical)
    assert other.canonical == small.canonical(blocks=1)
    found = other.ranges_of(recipe(8, "percentile", "minmax"))  # trained with one of them
    plain = BuildContext(source, other.canonical).ranges_of(recipe(8, "minmax"))
    assert found == {"minmax": plain["minmax"] | {"Relu_1_0": (-1.0, 2.0)}}
    assert other.trained == {"Relu_1_0": (-1.0, 2.0)}  # nothing but 0 is no range
    assert made.trained == {}
