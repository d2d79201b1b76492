"""Which epoch of a fine-tuning to keep: each rule's choice, scored on photos that decided nothing.

    python -m benchmarks.kept_epoch [--backbones A,B] [--seeds 0,1]

Half of the training photos are trained on, the validation photos choose, and the other half of the
training photos score every epoch; the test photos stay away. Rows are added to
results/kept_epoch.jsonl.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from torch import nn

from benchmarks.common import parser, read_rows, write_rows
from edgetl.inputs.image import sized
from edgetl.options import FinetuneConfig
from edgetl.spec import Normalize, Split
from edgetl.tasks.base import TASKS
from edgetl.train.backbones import find_backbone
from edgetl.train.dataset import Dataset, load_dataset
from edgetl.train.infer import keep_to_cores, memory_kept
from edgetl.train.loop import Validation
from edgetl.train.strategies import Context, fit_network, fit_probe_stage, held_out
from edgetl.train.tasks.base import twin_of
from edgetl.train.weights import find_weights, load_weights

NAME = "kept_epoch"
EPOCHS = 12


class Watched(Validation):
    """Validation that scores the other photos too, each time."""

    def __init__(self, chooses: Validation, decides_nothing: Validation) -> None:
        """The second's scores are only written down."""
        super().__init__(chooses.pixels, chooses.rows, chooses.targets, chooses.task)
        self.other, self.seen = decides_nothing, list[dict[str, float]]()

    def score(
        self, model: nn.Module, normalize: Normalize, device: Literal["cpu", "cuda"]
    ) -> tuple[dict[str, float], float]:
        """As of validation; both go to `seen`."""
        metrics, loss = super().score(model, normalize, device)
        other, other_loss = self.other.score(model, normalize, device)
        self.seen.append(
            {
                "accuracy": metrics["accuracy"],
                "loss": loss,
                "other_accuracy": other["accuracy"],
                "other_loss": other_loss,
            }
        )
        return metrics, loss


def halved(dataset: Dataset, seed: int) -> Dataset:
    """Half of the training photos become the test photos; groups stay together."""
    groups = sorted({p.group or p.sha256 for p in dataset.photos if p.split == "train"})
    chosen = np.random.default_rng(seed).permutation(len(groups))[: len(groups) // 2]
    away = {groups[i] for i in chosen}
    photos = [
        msgspec.structs.replace(p, split="test")
        if p.split == "train" and (p.group or p.sha256) in away
        else p
        for p in dataset.photos
    ]
    return dataset._replace(photos=photos)


@memory_kept()
def trained(home: Path, data: str, backbone: str, weights: str, seed: int) -> list[dict[str, Any]]:
    """Scores of the probe and of each epoch."""
    info, kind = find_backbone(backbone), TASKS.find("classification")
    spec = sized(info.size, "crop").seen(1.0, info.interpolation)
    whole = load_dataset(data, kind, spec, home / "cache" / "photos.npy")
    used = [p for p in whole.photos if p.split != "test"]
    rows = [i for i, p in enumerate(whole.photos) if p.split != "test"]
    pixels = np.asarray(whole.pixels)[rows]
    geometries = [whole.geometries[i] for i in rows]
    dataset = halved(whole._replace(photos=used, pixels=pixels, geometries=geometries), seed)
    twin = twin_of(dataset.task)
    config = FinetuneConfig(
        data=data, backbone=backbone, weights=weights, strategy="finetune", epochs=EPOCHS,
        size=info.size, fit="crop", flip=True, seed=seed, device="cpu",
    )  # fmt: skip
    model = twin.network(backbone, seed=seed)
    load_weights(model, info, find_weights(info, weights))
    watched = Watched(held_out(dataset), held_out(dataset, "test"))
    of_run = home, config, spec, dataset, twin, info.normalize
    context = Context(*of_run, False, {}, [], watched)
    probed = fit_probe_stage(context, model)
    assert probed is not None
    fit_network(context, probed[0], "finetune")
    splits: dict[str, Split] = {"photos": "train", "validation": "validation", "other": "test"}
    counted = {name: len(dataset.rows(split)) for name, split in splits.items()}
    return [
        {"backbone": backbone, "seed": seed, "epoch": epoch, **counted, **scores}
        for epoch, scores in enumerate(watched.seen)
    ]


def main() -> None:
    """Train each backbone with each seed, and write the rows."""
    options = parser(__doc__)
    options.add_argument("--backbones", default="efficientnet_lite0,mobilenet_v2")
    options.add_argument("--seeds", default="0,1")
    given = options.parse_args()
    keep_to_cores()
    for seed in map(int, given.seeds.split(",")):
        for backbone in given.backbones.split(","):
            weights = str(given.weights) if backbone == "mobilenet_v2" else "imagenet"
            with tempfile.TemporaryDirectory(prefix="edgetl-kept-") as home:
                found = trained(Path(home), str(given.data), backbone, weights, seed)
            rows = read_rows(NAME)
            print(write_rows(NAME, rows + found, keep=len(rows)), flush=True)


if __name__ == "__main__":
    main()
