"""The training loop: rates, averages, frozen parts, and a state that comes back bit by bit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
import torch

from edgetl.runs.record import EpochRow
from edgetl.spec import Normalize
from edgetl.tasks.base import Metric, Outputs
from edgetl.tasks.classification import Classification
from edgetl.train.augment import Batches
from edgetl.train.fold import NormedConv
from edgetl.train.infer import NotFiniteError, forward_rows
from edgetl.train.loop import Hyperparameters, Trainer, Validation, parameter_groups, train
from tests.helpers import build_classifier, twin

SETTINGS = Hyperparameters(
    stage="scratch",
    epochs=4,
    batch=8,
    train_size=(32, 32),
    head_rate=1e-2,
    body_rate=1e-3,
    bottom_rate=0.1,
    freeze=0.0,
    weight_decay=0.05,
    smoothing=0.1,
    warmup=0.1,
    patience=3,
    train_norm=True,
    flip=True,
    seed=0,
)
# Dense 3x3 convolutions, batch normalisation and dropout; then depthwise ones and no dropout.
NETS = ["squeezenet1_1", "regnet_x_400mf", "shufflenet_v2_x0_5", "mobilenet_v3_small"]


def setup(
    net: str = "shufflenet_v2_x0_5", photos: int = 18, **changes: Any
) -> tuple[Trainer, Batches, Validation]:
    settings = msgspec.structs.replace(SETTINGS, **changes)
    rng = np.random.default_rng(0)
    truth = np.arange(photos) % 3
    pixels = rng.integers(0, 100, (photos, 40, 40, 3), np.uint8)
    pixels += (truth[:, None, None, None] * 70).astype(np.uint8)
    batches = Batches(
        pixels,
        truth,
        twin(3),
        size=settings.train_size,
        batch=settings.batch,
        flip=True,
        seed=settings.seed,
        erase=True,
    )
    model = build_classifier(net, 3, seed=0)
    trainer = Trainer(model, twin(3), settings, Normalize(), device="cpu", steps=batches.steps)
    return (
        trainer,
        batches,
        Validation(
            pixels[:, :32, :32],
            np.arange(photos)[:6],
            truth[:6],
            Classification(labels=("a", "b", "c")),
        ),
    )


@contextlib.contextmanager
def no_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


def run(
    trainer: Trainer,
    batches: Batches,
    validation: Validation,
    checkpoint: Callable[[Trainer], None] = lambda _: None,
) -> None:
    train(trainer, batches, validation, checkpoint=checkpoint, bar=no_bar)


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value
        for name, module in trainer._modules().items()
        for key, value in module.state_dict().items()
    }


def timeless(rows: list[EpochRow]) -> list[EpochRow]:
    return [msgspec.structs.replace(row, seconds=0, images_per_s=0) for row in rows]


class StopError(Exception):
    """Ends a training from its checkpoint."""


FIXED = {"stage": "finetune", "train_norm": False, "freeze": 0.2}


@pytest.mark.parametrize(
    ("net", "changes"), [*((net, {}) for net in NETS), ("mobilenet_v3_small", FIXED)]
)
def test_a_saved_state_goes_on_to_the_same_bits(
    net: str, changes: dict[str, Any], single: None, tmp_path: Path
) -> None:
    whole, batches, validation = setup(net, **changes)
    joined = any(isinstance(module, NormedConv) for module in whole.quick.modules())
    assert joined == bool(changes)
    run(whole, batches, validation)

    for stop in (1, 3):
        path, rows = tmp_path / f"{stop}.safetensors", []

        def checkpoint(trainer: Trainer, stop: int = stop, path: Path = path) -> None:
            if trainer.epoch == stop:
                trainer.save(path)
                rows[:] = trainer.history  # noqa: B023
                raise StopError

        with pytest.raises(StopError):
            run(*setup(net, **changes), checkpoint)
        torch.manual_seed(stop)  # another process has another history of draws
        resumed, batches, validation = setup(net, **changes)
        # rows may be ahead of the checkpoint; those of another stage do not count
        later = msgspec.structs.replace(rows[-1], epoch=stop + 1)
        other = msgspec.structs.replace(rows[0], stage="probe")
        resumed.load(path, [other, *rows, later])
        assert resumed.epoch == stop
        run(resumed, batches, validation)
        assert timeless(resumed.history) == timeless(whole.history)
        expected = state(whole)
        assert all(torch.equal(expected[k], v) for k, v in state(resumed).items())
        assert resumed.best_score == whole.best_score


def test_the_average_follows_floats_and_copies_counters(single: None) -> None:
    trainer, batches, _ = setup()
    trainer.run_epoch(batches, lambda _: None)
    mine, theirs = trainer.average.state_dict(), trainer.model.state_dict()
    counters = [k for k in mine if k.endswith("num_batches_tracked")]
    assert counters
    assert all(int(mine[k]) == int(theirs[k]) == batches.steps for k in counters)
    assert any(not torch.equal(mine[k], theirs[k]) for k in mine if k.endswith("weight"))


def test_one_step_of_the_average_by_hand(single: None) -> None:
    trainer, _, _ = setup()
    before = trainer.average.head.weight.clone()
    with torch.no_grad():
        trainer.model.head.weight.add_(1)
    trainer.step = 5
    trainer._update_average()
    decay = min(1 - 1 / max(10.0, 0.1 * trainer.total), 6 / 15)
    torch.testing.assert_close(trainer.average.head.weight, before + (1 - decay))


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    trainer, _, _ = setup(epochs=50)
    rates = []
    for step in range(trainer.total + 1):
        trainer.step = step
        rates.append(trainer._rate())
    top = int(np.argmax(rates))
    assert 0 < rates[0] < 0.2
    assert rates[top] == 1
    assert top / trainer.total == pytest.approx(SETTINGS.warmup, abs=0.02)
    assert np.all(np.diff(rates[top:]) <= 0)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_groups_rise_with_depth_rest_at_the_bottom_and_hold_every_weight_once() -> None:
    model = build_classifier("mobilenet_v2", 3, seed=0)
    settings = msgspec.structs.replace(SETTINGS, freeze=0.2)
    groups = parameter_groups(model, settings)
    grouped = [p for g in groups for p in g["params"]]
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}
    resting = [p for p in model.parameters() if not p.requires_grad]
    assert len(resting) / len(list(model.body.parameters())) == pytest.approx(0.2, abs=0.02)
    rates = [g["peak"] for g in groups]
    assert rates[0] < rates[-3] <= SETTINGS.body_rate < rates[-1] == SETTINGS.head_rate
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])


def test_frozen_statistics_and_layers_do_not_move(single: None) -> None:
    trainer, batches, _ = setup("mobilenet_v2", train_norm=False, freeze=0.2)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.run_epoch(batches, lambda _: None)
    after = trainer.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if "running_" in k)
    first = "body.features.0.0.weight"
    assert torch.equal(before[first], after[first])
    assert torch.equal(before[first], trainer.average.state_dict()[first])
    assert not torch.equal(before["head.weight"], after["head.weight"])


@pytest.mark.parametrize(
    ("accuracies", "kept", "epochs"),
    [
        # of 25 samples the standard error at 0.7 is 0.092
        ((0.5, 0.7, 0.6, 0.2, 0.61, 0.6, 0.5, 0.4), 5, 8),
        ((0.7, 0.69, 0.68, 0.67, 0.66, 0.65, 0.64, 0.61), 8, 8),
        ((0.5, 0.7, 0.6, 0.2, 0.1, 1.0, 1.0, 1.0), 2, 5),
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), 8, 8),
    ],
)
def test_it_keeps_the_latest_of_equals_and_stops_when_it_gets_worse(
    single: None, accuracies: tuple[float, ...], kept: int, epochs: int
) -> None:
    trainer, batches, _ = setup(epochs=8, patience=2)
    scores = iter(accuracies)
    seen: list[dict[str, torch.Tensor]] = []

    class Scripted:
        rows = range(25)
        last: ClassVar[Outputs] = {}
        known: ClassVar[dict[torch.nn.Module, Outputs]] = {}

        def score(self, model: torch.nn.Module, *_: Any) -> tuple[dict[str, float], float]:
            seen.append({k: v.clone() for k, v in model.state_dict().items()})
            return {"accuracy": next(scores)}, 1.0

    run(trainer, batches, Scripted())  # type: ignore[arg-type]
    assert trainer.epoch == epochs
    assert trainer.history[-1 - trainer.stale].epoch == kept
    assert all(torch.equal(seen[kept - 1][k], v) for k, v in trainer.kept.state_dict().items())


@pytest.mark.parametrize("photos", [2, 3, 9, 13])
def test_no_batch_is_too_small_for_batch_normalisation(photos: int, single: None) -> None:
    """A batch of one would stop training: statistics of 1x1 maps need two photos."""
    trainer, batches, validation = setup("mobilenet_v2", photos, epochs=1)
    sizes = [len(truth) for _, truth in batches.epoch(0)]
    assert sum(sizes) == photos
    assert min(sizes) >= 2
    run(trainer, batches, validation)
    assert all(torch.isfinite(v).all() for v in state(trainer).values())


def test_it_learns(single: None) -> None:
    trainer, batches, validation = setup("squeezenet1_1", 36, epochs=30, patience=30)
    run(trainer, batches, validation)
    assert trainer.best_score[0] == 1
    assert trainer.history[-1].loss < trainer.history[0].loss


# --- numbers that are no numbers --------------------------------------------------------------


def test_a_loss_of_nan_stops_before_the_weights_are_touched() -> None:
    """The second epoch is spoilt: what the first one left is kept as it was."""
    trainer, batches, validation = setup()
    kept: dict[str, torch.Tensor] = {}

    def checkpoint(state_of: Trainer) -> None:
        kept.update({k: v.clone() for k, v in state_of.kept.state_dict().items()})
        with torch.no_grad():
            state_of.model.head.bias[1] = float("nan")

    with pytest.raises(NotFiniteError, match="The loss in epoch 2 is NaN or infinity") as got:
        run(trainer, batches, validation, checkpoint)
    assert got.value.split == "train"
    assert set(got.value.rows) == set(batches.parts(1)[0])
    assert trainer.epoch == 1
    assert all(torch.equal(kept[k], v) for k, v in trainer.kept.state_dict().items())
    assert trainer.model.body.state_dict()["conv1.0.weight"].isfinite().all()


def test_the_photos_of_a_batch_that_overflow_are_told_from_the_others() -> None:
    """Weights so large that bright photos give infinity, and dark ones nothing behind the ReLU."""
    trainer, batches, _ = setup("squeezenet1_1", photos=6)
    batches.pixels[:] = np.where(np.arange(6)[:, None, None, None] % 3 == 2, 255, 0)
    batches.erase = False
    with torch.no_grad():
        trainer.model.body.features[0].weight.fill_(3e37)
        trainer.model.body.features[0].bias.fill_(0)
    with pytest.raises(NotFiniteError, match="for 2 photos") as got:
        trainer.run_epoch(batches, lambda _: None)
    assert sorted(got.value.rows) == [2, 5]


def test_a_gradient_of_nan_stops_as_well() -> None:
    trainer, batches, _ = setup(photos=6)
    trainer.model.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = trainer.model.head.weight.detach().clone()
    with pytest.raises(NotFiniteError, match="The gradient in epoch 1"):
        trainer.run_epoch(batches, lambda _: None)
    assert torch.equal(trainer.model.head.weight, before)


def test_validation_photos_are_told_by_their_rows() -> None:
    trainer, _, validation = setup()
    with torch.no_grad():
        trainer.average.head.bias[0] = float("inf")
    with pytest.raises(NotFiniteError, match="output is NaN or infinity for 6 photos") as got:
        validation.score(trainer.average, Normalize(), "cpu")
    assert got.value.split is None
    assert got.value.rows.tolist() == validation.rows.tolist()


def test_what_may_ship_is_scored_once(single: None) -> None:
    """The outputs of the average that is kept are kept too, whole, for the run's last scores."""
    trainer, batches, validation = setup()
    run(trainer, batches, validation)
    again = forward_rows(
        trainer.kept, validation.pixels, validation.rows, Normalize(), device="cpu"
    )
    np.testing.assert_array_equal(validation.known[trainer.kept]["logits"], again["logits"])


def test_a_primary_metric_that_falls_is_better_where_it_is_lower() -> None:
    class Wrong(Classification, frozen=True, kw_only=True, tag="wrong"):
        metrics: ClassVar[tuple[Metric, ...]] = (Metric("error", "error", rises=True),)

    trainer, _, _ = setup()
    trainer.twin.task = Wrong(labels=("a", "b", "c"))
    for epoch, (error, loss) in enumerate([(0.9, 1.0), (0.2, 1.0), (0.4, 0.1)], 1):
        trainer.finish_epoch(
            EpochRow(
                stage="scratch", epoch=epoch, loss=1, learning_rate=1, metrics={"error": error},
                validation_loss=loss, images_per_s=1, seconds=1,
            ),
            100,
        )  # fmt: skip
    assert (trainer.best_score, trainer.stale) == ((-0.2, -1.0), 1)
