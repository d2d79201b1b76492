"""Training of multi-label classifiers: a sigmoid and binary cross-entropy for each class."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgetl.tasks.base import Task
from edgetl.tasks.logits import LOGITS
from edgetl.train.probe import Head, fit_binary_probe
from edgetl.train.tasks.base import Tensors, TrainLogits

HEAVIEST = 10.0  # times that a rare class's positives count at most


class TrainMultiLabel(TrainLogits):
    """Each class by itself."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._weights = torch.ones(len(task.labels))

    def study(self, targets: npt.NDArray[np.bool_]) -> None:
        """Positives of a class weigh by the root of how many negatives there are for each.

        Without a weight rare classes are learnt late; the full ratio would let a few samples rule.
        """
        shown = np.maximum(targets.sum(axis=0), 1)
        ratio = np.sqrt((len(targets) - shown) / shown).clip(1, HEAVIEST)
        self._weights = torch.from_numpy(ratio.astype(np.float32))

    def loss(self, outputs: Tensors, targets: torch.Tensor, *, smoothing: float) -> torch.Tensor:
        """Weighted binary cross-entropy with smoothed labels.

        A weight w would raise a class's logits by log(w): they are raised for the loss, so that
        those that ship state the share that is true (logit adjustment, Menon et al. 2021).
        """
        logits = outputs[LOGITS]
        soft = targets.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        weights = self._weights.to(logits.device)
        return nn.functional.binary_cross_entropy_with_logits(
            logits + weights.log(), soft, pos_weight=weights
        )

    def distil(self, wanted: Tensors, found: Tensors, temperature: float) -> torch.Tensor:
        """Kullback-Leibler divergence of softened answers, summed over classes."""
        softer, other = wanted[LOGITS] / temperature, found[LOGITS] / temperature
        likely, log = softer.sigmoid(), nn.functional.logsigmoid
        yes = likely * (log(softer) - log(other))
        no = (1 - likely) * (log(-softer) - log(-other))
        return temperature**2 * (yes + no).sum(dim=1).mean()

    def probe(
        self, features: npt.NDArray[np.float32], targets: Any, groups: list[str], *, seed: int
    ) -> Head:
        """Logistic regression, one a class."""
        return fit_binary_probe(features, targets, groups, seed=seed)
