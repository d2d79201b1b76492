"""The photos that a network gets wrong with the most confidence, for the report."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from edgetl.data.dataset import Dataset
from edgetl.metrics import softmax
from edgetl.report import Mistake
from edgetl.spec import Split

COUNT = 24
THUMBNAIL = 160


def worst_mistakes(dataset: Dataset, split: Split, logits: Any) -> list[Mistake]:
    """Wrong predictions on a split, the surest first, with JPEG thumbnails of what was seen."""
    rows = dataset.rows(split)
    truth, labels = dataset.truth(rows), dataset.summary.labels
    chance = softmax(logits)
    predicted = chance.argmax(axis=1)
    wrong = np.nonzero(predicted != truth)[0]
    worst = wrong[np.argsort(-chance[wrong, predicted[wrong]], kind="stable")][:COUNT]
    found = []
    for index in worst:
        image = Image.fromarray(np.asarray(dataset.pixels[rows[index]]))
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=80)
        found.append(
            Mistake(
                path=dataset.photos[rows[index]].path,
                truth=labels[truth[index]],
                predicted=labels[predicted[index]],
                probability=float(chance[index, predicted[index]]),
                split=split,
                jpeg=stream.getvalue(),
            )
        )
    return found
