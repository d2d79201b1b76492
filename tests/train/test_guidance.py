"""What a run's owner is told, and what not: each finding against the cases that look alike."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from edgetl.inputs.image import sized
from edgetl.options import FinetuneConfig
from edgetl.runs.folder import read_run
from edgetl.runs.record import Stage
from edgetl.tasks.base import Evaluation
from edgetl.train.guidance import far_below, framing, mirroring, never_right
from tests.helpers import evaluate_classes

NET = "squeezenet1_1"
LABELS = ("left", "right", "up")
Cli = Callable[..., subprocess.CompletedProcess[str]]


# --- long photos under the centre crop --------------------------------------------------------


def shapes(folder: Path, *sizes: tuple[int, int]) -> list[Path]:
    paths = []
    for index, size in enumerate(sizes):
        paths.append(folder / f"{index}.png")
        Image.new("RGB", size).save(paths[-1])
    return paths


@pytest.mark.parametrize("size", [(400, 100), (100, 400)])
def test_long_photos_are_said_with_the_share_that_is_seen(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    paths = shapes(tmp_path, size, size, (100, 100))
    (said,) = framing(paths, sized(96))
    assert "2 of 3 training photos are about 4.0 times as long as wide" in said
    assert "sees 19% of" in said
    assert "--fit pad" in said
    assert "--fit squash" in said
    assert framing(paths, sized(96, "pad")) == framing(paths, sized(96, "squash")) == []


def test_long_photos_of_a_long_input_are_seen(tmp_path: Path) -> None:
    paths = shapes(tmp_path, (600, 200), (600, 200))
    assert framing(paths, sized((96, 288))) == []
    (said,) = framing(shapes(tmp_path, (200, 600)), sized((96, 288)))
    assert "1 of 1 training photos are about 9.0 times as long as the input is" in said
    assert "sees 9% of" in said
    sideways = Image.Exif()
    sideways[0x0112] = 6
    Image.new("RGB", (600, 200)).save(tmp_path / "turned.jpg", exif=sideways)
    assert framing([tmp_path / "turned.jpg"], sized((96, 288))) == [said]


def test_usual_shapes_and_a_rare_panorama_are_no_news(tmp_path: Path) -> None:
    usual = [(400, 300), (300, 400), (640, 360), (100, 100)] * 3
    assert framing(shapes(tmp_path, *usual), sized(96)) == []
    assert framing(shapes(tmp_path, *usual, (900, 100)), sized(96)) == []


def test_files_that_cannot_be_opened_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    assert framing([tmp_path / "torn.png", tmp_path / "gone.png"], sized(96)) == []
    good = shapes(tmp_path, (400, 100))
    assert "1 of 1" in framing([tmp_path / "torn.png", *good], sized(96))[0]


def named(*columns: Any) -> list[list[str]]:
    return [[LABELS[i] for i in column] for column in columns]


# --- mirroring --------------------------------------------------------------------------------


def test_classes_that_mirroring_swaps_are_named() -> None:
    truth = np.repeat([0, 1, 2], 5)
    swapped = np.array([1, 0, 2])[truth]
    (said,) = mirroring(*named(truth, swapped, truth))
    assert "5 of 5 of left become right; 5 of 5 of right become left" in said
    assert "up" not in said
    assert "--no-flip" in said


@pytest.mark.parametrize(
    ("plain", "mirrored"),
    [
        ([0] * 5, [0, 0, 0, 1, 1]),  # not most of them
        ([0] * 5, [0, 1, 1, 2, 2]),  # not to one class
        ([0, 0, 1, 1, 1], [1, 1, 1, 1, 1]),  # two photos that were right
    ],
)
def test_what_chance_explains_is_not_blamed_on_mirroring(
    plain: list[int], mirrored: list[int]
) -> None:
    truth = np.zeros(5, np.int64)
    assert mirroring(*named(plain, mirrored, truth)) == []


# --- fine-tuning below the probe --------------------------------------------------------------


def config(**changes: Any) -> FinetuneConfig:
    options: dict[str, Any] = {
        "data": "d", "backbone": NET, "weights": "imagenet", "strategy": "auto", "epochs": 0,
        "size": 64, "fit": "crop", "flip": True, "seed": 0, "device": "cpu",
    }  # fmt: skip
    return FinetuneConfig(**options | changes)


def stages(probe: float, tuned: float) -> tuple[Stage, Stage]:
    first, second = (
        Stage(name=name, metrics={"accuracy": accuracy}, loss=1, seconds=1)
        for name, accuracy in (("probe", probe), ("finetune", tuned))
    )
    return first, second


@pytest.mark.parametrize(
    ("probe", "tuned", "n", "said"),
    [
        (1.0, 0.5, 10, True),
        (1.0, 0.8, 10, False),
        (0.9, 0.86, 300, False),
        (0.9, 0.8, 300, True),
        (0.9, 0.89, 10_000, True),
        (0.5, 0.9, 10, False),
        (1.0, 0.0, 2, False),
    ],
)
def test_a_loss_against_the_probe_is_weighed_by_the_photos(
    probe: float, tuned: float, n: int, said: bool
) -> None:
    assert bool(far_below(*stages(probe, tuned), n, config())) is said


def test_advice_follows_the_options() -> None:
    (said,) = far_below(*stages(0.9, 0.5), 100, config())
    assert "0.5000 on the 100 validation photos and the probe 0.9000" in said
    assert "--no-flip" in said
    assert "--epochs" not in said
    (said,) = far_below(*stages(0.9, 0.5), 100, config(flip=False, epochs=2))
    assert "--no-flip" not in said
    assert "--epochs 2" in said


# --- classes that are never right -------------------------------------------------------------


def scored(truth: list[int], predicted: list[int]) -> Evaluation:
    return evaluate_classes(np.array(predicted), np.array(truth), LABELS)


def test_classes_never_predicted_are_told_from_those_never_right() -> None:
    found = scored([0, 0, 1, 1, 2, 2], [1, 1, 0, 1, 1, 1])
    (said,) = never_right({"validation": found}, {"left": 9, "right": 40, "up": 3})
    assert said.startswith("On validation (6 photos), 2 classes are never recognised: ")
    assert "left (none of 2 right, most taken for right; 9 in training)" in said
    assert "up (never predicted, none of 2 right, most taken for right; 3 in training)" in said
    assert "macro-F1" in said


def test_splits_are_told_apart_only_where_they_differ() -> None:
    bad, good = scored([0, 0, 1, 2], [0, 0, 1, 1]), scored([0, 1, 2], [0, 1, 2])
    trained = dict.fromkeys(LABELS, 5)
    (said,) = never_right({"validation": bad, "test": bad}, trained)
    assert said.startswith("On validation (4 photos) and test (4 photos), 1 class is")
    assert never_right({"validation": good, "test": good}, trained) == []
    assert len(never_right({"validation": bad, "test": scored([0, 1], [1, 1])}, trained)) == 2
    assert never_right({"validation": scored([0, 1], [0, 1])}, trained) == []  # no photo of `up`


def test_many_classes_are_named_in_part() -> None:
    labels = tuple(f"class {i}" for i in range(40))
    found = evaluate_classes(np.zeros(40, np.int64), np.arange(40), labels)
    (said,) = never_right({"test": found}, {})
    assert "39 classes are never recognised" in said
    assert "class 5 " in said
    assert "class 6" not in said
    assert "and 34 more" in said


# --- through the command ----------------------------------------------------------------------


def arrow(seed: int, *, points_left: bool) -> Image.Image:
    rng = np.random.default_rng([seed, points_left])
    ground, ink = (tuple(int(v) for v in rng.integers(a, b, 3)) for a, b in ((150, 256), (0, 90)))
    image = Image.new("RGB", (48, 48), ground)
    x, y = (int(v) for v in rng.integers(21, 27, 2))
    pen = ImageDraw.Draw(image)
    pen.rectangle((x - 16, y - 3, x + 16, y + 3), fill=ink)
    tip = -20 if points_left else 20
    pen.polygon([(x + tip, y), (x + tip // 3, y - 14), (x + tip // 3, y + 14)], fill=ink)
    return image


def test_findings_reach_stderr_once_the_json_the_run_and_the_report(
    cli: Cli, weights_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Arrows on long belts, seen through the middle: their direction is what mirroring changes."""
    for split, count in (("train", 16), ("val", 6)):
        for label in ("left", "right"):
            (tmp_path / "d" / split / label).mkdir(parents=True)
            for index in range(count):
                belt = Image.new("RGB", (168, 48), (90, 90, 90))
                seed = index + 100 * (split == "val")
                belt.paste(arrow(seed, points_left=label == "left"), (60, 0))
                belt.save(tmp_path / "d" / split / label / f"{index:02}.png")
    done = cli(
        "finetune", tmp_path / "d", "--out", tmp_path / "run", "--backbone", NET, "--epochs", "1",
        "--weights", weights_file(NET), "--size", "64", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    warnings = read_run(tmp_path / "run").warnings
    long, mirrored = warnings[:2]
    assert "44 of 44" not in long  # only training photos count
    assert "32 of 32 training photos are about 3.5 times as long as wide" in long
    assert "become right" in mirrored
    page = (tmp_path / "run" / "report.html").read_text()
    for text in (long, mirrored):
        assert done.stderr.count(text) == 1
        assert text in json.loads(done.stdout)["warnings"]
        assert text in page
