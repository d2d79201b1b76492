"""Training step rate against a plain PyTorch loop, on the same photos in the same process.

    python -m benchmarks.training_step [--data DIR] [--weights FILE]

Plain: float32, contiguous, batch-norm training, SGD, photos decoded and cropped by torchvision in
the loop, at 224 px. Ours: the loop of `edgetl finetune` as it ships (its training size, frozen
first layers, cached photos), and the same at 224 px with nothing frozen. Steps are interleaved;
raw seconds are kept. Writes results/training_step.jsonl.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torchvision
from torch import nn

from benchmarks.common import parser, write_rows
from edgetl.inputs.image import ImageInput
from edgetl.options import FinetuneConfig
from edgetl.spec import Normalize
from edgetl.tasks.classification import Classification
from edgetl.train.augment import Batches
from edgetl.train.backbones import find_backbone
from edgetl.train.dataset import Dataset, load_dataset
from edgetl.train.loop import Hyperparameters, Trainer
from edgetl.train.strategies import Context, held_out, settings_for, training_pixels
from edgetl.train.tasks.base import twin_of
from edgetl.train.weights import find_weights, load_weights

STEPS = 12
BATCH = 32


def plain_steps(data: Path) -> Iterator[None]:
    """One step of the plain loop a turn."""
    mean, std = Normalize().mean, Normalize().std
    transform = torchvision.transforms.Compose(
        [
            torchvision.transforms.RandomResizedCrop(224),
            torchvision.transforms.RandomHorizontalFlip(),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize(mean, std),
        ]
    )
    photos = torchvision.datasets.ImageFolder(str(data / "train"), transform)
    loader = torch.utils.data.DataLoader(photos, BATCH, shuffle=True)
    model = torchvision.models.mobilenet_v2(num_classes=len(photos.classes)).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    while True:
        for images, truth in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), truth).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield


def our_steps(context: Context, weights: Path, settings: Hyperparameters) -> Iterator[None]:
    """One step of edgetl's loop a turn."""
    dataset = context.dataset
    model = context.twin.network("mobilenet_v2", seed=0)
    info = find_backbone("mobilenet_v2")
    load_weights(model, info, find_weights(info, str(weights)))
    rows = dataset.rows("train")
    batches = Batches(
        training_pixels(context, rows),
        dataset.targets(rows),
        context.twin,
        size=settings.train_size,
        batch=settings.batch,
        flip=True,
        seed=0,
        erase=True,
    )
    trainer = Trainer(model, context.twin, settings, Normalize(), device="cpu", steps=batches.steps)
    trainer.set_mode()
    for epoch in range(1000):
        for images, truth in batches.epoch(epoch):
            trainer.train_step(images, truth)
            yield


def interleaved(loops: dict[str, Iterator[None]]) -> dict[str, list[float]]:
    """Seconds of each step, the loops taking turns; the first two turns warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(STEPS + 2):
        for name, loop in loops.items():
            start = time.perf_counter()
            next(loop)
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Run and write."""
    given = parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        spec = ImageInput()
        cache = home / "cache" / "photos.npy"
        dataset: Dataset = load_dataset(str(given.data), Classification, spec, cache)
        twin = twin_of(dataset.task)
        config = FinetuneConfig(
            data=str(given.data), backbone="mobilenet_v2", weights=str(given.weights),
            strategy="finetune", epochs=None, size=224, fit="crop", flip=True, seed=0, device="cpu",
        )  # fmt: skip
        held = held_out(dataset)
        context = Context(home, config, spec, dataset, twin, Normalize(), False, {}, [], held)
        shipped = settings_for("finetune", config, spec.size, len(dataset.rows("train")))
        full = msgspec.structs.replace(shipped, train_size=(224, 224), freeze=0.0)
        loops = {
            "plain fp32, 224 px": plain_steps(given.data),
            "edgetl, 224 px, nothing frozen": our_steps(context, given.weights, full),
            "edgetl as shipped": our_steps(context, given.weights, shipped),
        }
        found = interleaved(loops)
    plain = statistics.median(found["plain fp32, 224 px"])
    rows: list[dict[str, Any]] = []
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        rows.append(
            {
                "loop": name,
                "images_per_s": BATCH / middle,
                "ratio": plain / middle,
                "step_s": list(np.round(seconds, 4).tolist()),
            }
        )
        print(f"{name}: {BATCH / middle:.1f} images/s, {plain / middle:.2f} x plain")
    print(write_rows("training_step", rows))


if __name__ == "__main__":
    main()
