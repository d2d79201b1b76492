"""The samples that a network gets wrong with the most confidence, for the report."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from edgetl.report import Mistake
from edgetl.spec import Split
from edgetl.tasks.base import Outputs
from edgetl.train.dataset import Dataset

COUNT = 24
THUMBNAIL = 160


def worst_mistakes(dataset: Dataset, split: Split, outputs: Outputs) -> list[Mistake]:
    """Wrong answers on a split, the surest first, with JPEG thumbnails of what was seen."""
    rows = dataset.rows(split)
    found = []
    for wrong in dataset.task.mistakes(outputs, dataset.targets(rows))[:COUNT]:
        image = Image.fromarray(np.asarray(dataset.pixels[rows[wrong.row]]))
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=80)
        found.append(
            Mistake(
                path=dataset.photos[rows[wrong.row]].path,
                truth=wrong.truth,
                predicted=wrong.predicted,
                probability=wrong.confidence,
                split=split,
                jpeg=stream.getvalue(),
            )
        )
    return found
