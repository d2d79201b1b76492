"""The ways of training, each on one prepared data set: probe, LP-FT, scratch."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from edgetl.data.ingest import open_cache
from edgetl.data.names import shown
from edgetl.errors import TrainingError
from edgetl.files import read_jsonl, write_bytes, write_jsonl
from edgetl.inputs.base import Input, Pixels
from edgetl.machine import available_cores
from edgetl.options import FinetuneConfig
from edgetl.progress import Advance, progress_bar, status_line
from edgetl.runs import folder as runs
from edgetl.runs.record import EpochRow, Stage
from edgetl.spec import Normalize, Split
from edgetl.train import guidance
from edgetl.train.augment import Batches
from edgetl.train.backbones import Network, find_backbone
from edgetl.train.dataset import Dataset
from edgetl.train.infer import FEATURES, NotFiniteError, forward_rows
from edgetl.train.loop import Hyperparameters, Trainer, Validation, train
from edgetl.train.probe import Head
from edgetl.train.tasks.base import TrainTask

log = logging.getLogger("edgetl")
BATCH = 32
NAMED = 48  # photos in one message: a batch and its rounding
TRAIN_SIZE = 0.8  # of the deployed size: random crops magnify (Touvron et al., NeurIPS 2019)
FINETUNE_PHOTOS = 25_000  # photos seen in a default fine-tuning
SCRATCH_PHOTOS = 60_000


class Context(NamedTuple):
    """What every stage works on."""

    home: Path
    config: FinetuneConfig
    spec: Input
    dataset: Dataset
    twin: TrainTask
    normalize: Normalize
    progress: bool
    timings: dict[str, float]
    warnings: list[str]
    validation: Validation  # the photos that choose

    def warn(self, texts: list[str]) -> None:
        """Say findings once, and keep them for the run's record."""
        self.warnings.extend(texts)
        for text in texts:
            log.warning(text)

    def bar(self, title: str, total: int) -> contextlib.AbstractContextManager[Advance]:
        """A progress bar, if progress is shown."""
        return progress_bar(title, total, show=self.progress)


def held_out(dataset: Dataset, split: Split = "validation") -> Validation:
    """The photos of a split that nothing trains on; those of validation choose."""
    rows = dataset.rows(split)
    return Validation(dataset.pixels, rows, dataset.targets(rows), dataset.task)


@contextlib.contextmanager
def named_photos(context: Context) -> Iterator[None]:
    """Tell whoever trains which photos gave NaN or infinity, and what is kept of the run."""
    try:
        yield
    except NotFiniteError as error:
        dataset = context.dataset
        rows = dataset.rows(error.split)[error.rows] if error.split else error.rows
        names = shown((dataset.photos[i].path for i in rows), NAMED)
        kept = (context.home / runs.CHECKPOINT).is_file()
        raise TrainingError(
            f"{error.what} is NaN or infinity for {len(rows)} photo{'s' * (len(rows) != 1)}: "
            f"{names}.",
            fix="look at these photos; where they are sound, the network diverges: train from "
            "other --weights or with --strategy probe, by --overwrite or into another --out"
            + (f" ({context.home} keeps the last whole epoch)." if kept else "."),
        ) from error


def fit_probe_stage(context: Context, model: Network) -> tuple[Network, Stage, EpochRow] | None:
    """Fit the head of `model` on features of its frozen body; None where the task has no probe."""
    clock = time.perf_counter()
    head = _saved_head(context.home / runs.PROBE) or _fit_head(context, model)
    if head is None:
        return None
    probed = copy.deepcopy(model)
    with torch.no_grad():
        probed.head.weight.copy_(torch.from_numpy(head.weight))
        probed.head.bias.copy_(torch.from_numpy(head.bias))
    validation = context.validation
    metrics, loss = validation.score(probed, context.normalize, context.config.device)
    validation.known[probed] = validation.last
    seconds = time.perf_counter() - clock
    context.timings["probe"] = seconds
    row = EpochRow(
        stage="probe",
        epoch=1,
        loss=0.0,
        learning_rate=0.0,
        metrics=metrics,
        validation_loss=loss,
        images_per_s=len(context.dataset.rows("train")) / seconds,
        seconds=seconds,
    )
    stage = Stage(
        name="probe",
        metrics=metrics,
        loss=loss,
        seconds=seconds,
        details={"regularisation C": head.strength},
    )
    return probed, stage, row


def check_mirroring(context: Context, probed: Network) -> None:
    """Warn where mirroring, which fine-tuning does, would make one class of another."""
    device, validation = context.config.device, context.validation
    task, truth = validation.task, validation.task.named(validation.targets)
    if not truth or not context.twin.augments:
        return
    normalize, mirror = context.normalize, validation.pixels[:, :, ::-1]
    outputs = (
        validation.outputs(probed, normalize, device),
        forward_rows(probed, mirror, validation.rows, normalize, device=device),
    )
    plain, mirrored = (task.answers(each, task.Settings()) for each in outputs)
    context.warn(guidance.mirroring(plain, mirrored, truth))


def _fit_head(context: Context, model: Network) -> Head | None:
    dataset, device = context.dataset, context.config.device
    rows = dataset.rows("train")
    clock = time.perf_counter()
    with context.bar("frozen features", len(rows)) as advance:
        features = forward_rows(
            model.body,
            dataset.pixels,
            rows,
            context.normalize,
            device=device,
            advance=advance,
        )[FEATURES]
    context.timings["features"] = time.perf_counter() - clock
    clock = time.perf_counter()
    with status_line(show=context.progress) as say:
        say("fitting the probe's head")
        groups = [dataset.photos[i].group for i in rows]
        seed = context.config.seed
        head = context.twin.probe(features, dataset.targets(rows), groups, seed=seed)
    if head is None:
        return None
    context.timings["head"] = time.perf_counter() - clock
    stream = io.BytesIO()
    np.savez(stream, weight=head.weight, bias=head.bias, strength=head.strength)
    write_bytes(context.home / runs.PROBE, stream.getvalue())
    return head


def _saved_head(path: Path) -> Head | None:
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as saved:
        return Head(saved["weight"], saved["bias"], float(saved["strength"]))


def settings_for(
    stage: Literal["finetune", "scratch"],
    config: FinetuneConfig,
    size: tuple[int, int],
    photos: int,
) -> Hyperparameters:
    """The recipe of a stage, whose network is deployed at `size` (width, height)."""
    smaller = stage == "finetune" and not find_backbone(config.backbone).only_size
    pretrained = stage == "finetune"
    wanted = FINETUNE_PHOTOS if pretrained else SCRATCH_PHOTOS
    most = 30 if pretrained else 100
    epochs = config.epochs or int(np.clip(round(wanted / photos), 6, most))
    small = [max(32, round(side * TRAIN_SIZE / 16) * 16) for side in size]
    return Hyperparameters(
        stage=stage,
        epochs=epochs,
        batch=BATCH,
        train_size=(small[0], small[1]) if smaller else size,
        head_rate=5e-4 if pretrained else 2e-3,
        body_rate=1.2e-3 if pretrained else 2e-3,
        bottom_rate=0.1 if pretrained else 1.0,
        freeze=0.2 if pretrained else 0.0,
        weight_decay=0.01 if pretrained else 0.05,
        smoothing=0.1,
        warmup=0.05,
        patience=max(3, epochs // 3),
        train_norm=not pretrained,
        flip=config.flip,
        seed=config.seed,
    )


def _batches(context: Context, settings: Hyperparameters, rows: Any) -> Batches:
    """Training samples; the twin looks at their targets first."""
    targets = context.dataset.targets(rows)
    context.twin.study(targets)
    return Batches(
        training_pixels(context, rows),
        targets,
        context.twin,
        size=settings.train_size,
        batch=settings.batch,
        flip=settings.flip,
        seed=settings.seed,
        erase=settings.stage == "finetune",
    )


def fit_network(
    context: Context, model: Network, stage: Literal["finetune", "scratch"]
) -> tuple[Network, Stage, list[EpochRow]]:
    """Train a copy of `model`; goes on from the run's checkpoint if there is one."""
    clock = time.perf_counter()
    dataset, config = context.dataset, context.config
    rows = dataset.rows("train")
    settings = settings_for(stage, config, context.spec.size, len(rows))
    batches = _batches(context, settings, rows)
    trainer = Trainer(
        copy.deepcopy(model),
        context.twin,
        settings,
        context.normalize,
        device=config.device,
        steps=batches.steps,
    )
    checkpoint = context.home / runs.CHECKPOINT
    if checkpoint.is_file():
        trainer.load(checkpoint, read_jsonl(context.home / runs.METRICS, EpochRow))

    def save(state: Trainer) -> None:
        # The rows first: a checkpoint without its rows could not be resumed, the reverse can.
        write_jsonl(context.home / runs.METRICS, state.history)
        state.save(checkpoint)

    train(trainer, batches, context.validation, checkpoint=save, bar=context.bar)
    seconds = time.perf_counter() - clock
    context.timings[stage] = seconds
    kept = trainer.history[-1 - trainer.stale]
    return (
        trainer.kept.to("cpu"),
        Stage(
            name=stage,
            metrics=kept.metrics,
            loss=kept.validation_loss,
            seconds=seconds,
            details={
                "epoch kept": kept.epoch,
                "epochs": settings.epochs,
                "training size": shown_size(settings.train_size),
                "batch": settings.batch,
                "rate": settings.body_rate,
            },
        ),
        trainer.history,
    )


def training_pixels(context: Context, rows: Any) -> Pixels:
    """Training photos a little larger than deployed, and with a border where one is cropped.

    Random crops choose their own part of that.
    """
    spec = context.spec.enlarged() if context.twin.augments else context.spec
    paths = [context.dataset.root / context.dataset.photos[i].path for i in rows]
    cache = open_cache(context.home / runs.CACHE / runs.CROPS, len(rows), spec.shape)
    if spec == context.spec:  # decoded already
        return np.take(context.dataset.pixels, rows, axis=0, out=cache, mode="clip")
    with (
        context.bar("caching photos", len(rows)) as advance,
        ThreadPoolExecutor(available_cores()) as pool,
    ):
        for index, read in enumerate(pool.map(spec.read, paths)):
            cache[index] = read.pixels
            advance(1)
    return cache


def shown_size(size: tuple[int, int]) -> str:
    """Pixels as HEIGHTxWIDTH, or one number for a square."""
    return str(size[0]) if size[0] == size[1] else f"{size[1]}x{size[0]}"
