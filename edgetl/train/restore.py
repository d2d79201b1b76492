"""The trained network as PyTorch runs it in float32: what every candidate is compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgetl.inputs.base import Pixels
from edgetl.runs.folder import MODEL
from edgetl.runs.record import RunRecord
from edgetl.tasks.base import Outputs
from edgetl.train.backbones import Network
from edgetl.train.infer import forward_rows, keep_to_cores
from edgetl.train.tasks.base import twin_of
from edgetl.train.weights import restore_network


def load_network(run: Path, record: RunRecord) -> Network:
    """The run's network in evaluation mode."""
    keep_to_cores()
    model = twin_of(record.task).network(record.config.backbone, seed=0)
    restore_network(model, run / MODEL)
    return model.eval()


def reference_outputs(model: Network, record: RunRecord, images: Pixels) -> Outputs:
    """FP32 eager outputs `(N, …)`; nothing folded, nothing cast."""
    rows = np.arange(len(images), dtype=np.int64)
    return forward_rows(model, images, rows, record.normalize, device="cpu", fold=False)
