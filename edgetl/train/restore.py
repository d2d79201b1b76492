"""The trained network as PyTorch runs it in float32: what every candidate is compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgetl.inputs.image import Pixels
from edgetl.metrics import Logits
from edgetl.runs.folder import MODEL
from edgetl.spec import RunRecord
from edgetl.train.backbones import Classifier, build_classifier
from edgetl.train.infer import forward_rows, keep_to_cores
from edgetl.train.weights import restore_classifier


def load_classifier(run: Path, record: RunRecord) -> Classifier:
    """The run's network in evaluation mode."""
    keep_to_cores()
    model = build_classifier(record.config.backbone, len(record.labels), seed=0)
    restore_classifier(model, run / MODEL)
    return model.eval()


def reference_logits(model: Classifier, record: RunRecord, images: Pixels) -> Logits:
    """FP32 eager logits `(N, classes)`; nothing folded, nothing cast."""
    rows = np.arange(len(images), dtype=np.int64)
    return forward_rows(model, images, rows, record.normalize, device="cpu", fold=False)
