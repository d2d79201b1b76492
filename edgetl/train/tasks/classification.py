"""Training of single-label classifiers: softmax and cross-entropy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgetl.tasks.logits import LOGITS
from edgetl.train.probe import Head, fit_probe
from edgetl.train.tasks.base import Tensors, TrainLogits


class TrainClassification(TrainLogits):
    """One class of several."""

    def loss(self, outputs: Tensors, targets: torch.Tensor, *, smoothing: float) -> torch.Tensor:
        """Cross-entropy with smoothed labels."""
        return nn.functional.cross_entropy(outputs[LOGITS], targets, label_smoothing=smoothing)

    def distil(self, wanted: Tensors, found: Tensors, temperature: float) -> torch.Tensor:
        """Kullback-Leibler divergence of softened probabilities."""
        softer, other = wanted[LOGITS] / temperature, found[LOGITS] / temperature
        divergence = nn.functional.kl_div(
            other.log_softmax(1), softer.log_softmax(1), log_target=True, reduction="batchmean"
        )
        return temperature**2 * divergence

    def probe(
        self, features: npt.NDArray[np.float32], targets: Any, groups: list[str], *, seed: int
    ) -> Head:
        """Multinomial logistic regression."""
        return fit_probe(features, targets, groups, classes=len(self.task.labels), seed=seed)
