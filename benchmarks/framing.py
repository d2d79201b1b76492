"""How much of a photo a fine-tuned network should see: the probe, cross-validated, by framing.

    python -m benchmarks.framing [--backbones A,B]

The photos for training and validation alone: clothing, single blood cells cut from their smears,
and the drawn parts. Each framing has the same four folds. Rows go to results/framing.jsonl.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from benchmarks.cells import crops
from benchmarks.common import parser, read_rows, write_rows
from edgetl.inputs.image import sized
from edgetl.metrics import cross_entropy
from edgetl.spec import Fit
from edgetl.tasks.base import TASKS
from edgetl.train.backbones import find_backbone
from edgetl.train.dataset import load_dataset
from edgetl.train.infer import FEATURES, forward_rows, keep_to_cores, memory_kept
from edgetl.train.probe import fit_probe
from edgetl.train.tasks.base import twin_of
from edgetl.train.weights import find_weights, load_weights

NAME = "framing"
FRAMINGS: tuple[tuple[Fit, float], ...] = (
    ("crop", 0.875),
    ("crop", 1.0),
    ("squash", 1.0),
    ("pad", 1.0),
)
FOLDS = 4


@memory_kept()
def scored(
    data: str, backbone: str, weights: str, framing: tuple[Fit, float], pixels: Path
) -> dict[str, Any]:
    """Cross-validated accuracy and log-loss of a probe on photos framed so, kept in `pixels`."""
    fit, crop = framing
    info, kind = find_backbone(backbone), TASKS.find("classification")
    spec = sized(info.size, fit).seen(crop, info.interpolation)
    dataset = load_dataset(data, kind, spec, pixels)
    network = twin_of(dataset.task).network(backbone, seed=0)
    load_weights(network, info, find_weights(info, weights))
    rows = np.concatenate([dataset.rows("train"), dataset.rows("validation")])
    args = network.body, dataset.pixels, rows, info.normalize
    features = forward_rows(*args, device="cpu")[FEATURES]
    truth = dataset.targets(rows)
    right = loss = 0.0
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=1)
    for train, held in folds.split(features, truth):
        of = len(dataset.task.labels)
        head = fit_probe(features[train], truth[train], [""] * len(train), classes=of, seed=0)
        logits = features[held] @ head.weight.T + head.bias
        right += float((logits.argmax(axis=1) == truth[held]).sum())
        loss += cross_entropy(logits, truth[held]) * len(held)
    return {"photos": len(rows), "accuracy": right / len(rows), "log_loss": loss / len(rows)}


def main() -> None:
    """Score every framing, and write the rows."""
    options = parser(__doc__)
    options.add_argument("--backbones", default="efficientnet_lite0,mobilenet_v2")
    given = options.parse_args()
    keep_to_cores()
    cells = given.work / "framing-cells"
    crops(given.data.parent / "bccd", cells)
    rows: list[dict[str, Any]] = []
    for backbone in given.backbones.split(","):
        weights = str(given.weights) if backbone == "mobilenet_v2" else "imagenet"
        for data in (str(given.data), str(cells), "sample:parts"):
            for framing in FRAMINGS:
                found = scored(data, backbone, weights, framing, given.work / "framing.npy")
                name = data.split(":")[-1].split("/")[-1].split("-")[-1]
                row = {"data": name, "backbone": backbone, "fit": framing[0], "crop": framing[1]}
                rows.append(row | found)
                print(rows[-1], flush=True)
                write_rows(NAME, rows, keep=len(rows) - 1)
                rows = read_rows(NAME)


if __name__ == "__main__":
    main()
