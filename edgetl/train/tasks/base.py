"""The twin of a task that needs torch: its network, its loss, and how it is distilled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from edgetl.registry import Registry
from edgetl.tasks.base import Task
from edgetl.tasks.logits import LOGITS
from edgetl.train.backbones import Network, build_network
from edgetl.train.probe import Head

Tensors = Mapping[str, torch.Tensor]  # outputs (N, …) by name


class TrainTask:
    """Base of all twins; what raises NotImplementedError has to be defined."""

    # Whether targets stay true of a part of a photo, and of its mirror image: else photos are
    # trained with whole and as they are.
    augments: ClassVar[bool] = True

    def __init__(self, task: Task) -> None:
        self.task = task

    def network(self, backbone: str, *, seed: int) -> Network:
        """A randomly initialised network on a backbone, with a head for the task."""
        raise NotImplementedError

    def study(self, targets: Any) -> None:
        """Look at all training targets once, for what the loss weighs by."""

    def batch(self, targets: Any, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Targets of some rows, for `loss`."""
        return torch.from_numpy(np.ascontiguousarray(targets[rows]))

    def loss(self, outputs: Tensors, targets: torch.Tensor, *, smoothing: float) -> torch.Tensor:
        """What training minimises: a scalar."""
        raise NotImplementedError

    def distil(self, wanted: Tensors, found: Tensors, temperature: float) -> torch.Tensor:
        """How far outputs are from those of another network, as a scalar to minimise."""
        squares = [(found[k] - v).square().sum() / v.square().sum() for k, v in wanted.items()]
        return torch.stack(squares).sum()

    def probe(
        self, features: npt.NDArray[np.float32], targets: Any, groups: list[str], *, seed: int
    ) -> Head | None:
        """A linear head on frozen features `(N, D)`; None where the task has no such thing."""
        return None


class TrainLogits(TrainTask):
    """Base of twins whose logits come from pooled features by one linear layer."""

    def network(self, backbone: str, *, seed: int) -> Network:
        """As many outputs as classes."""
        return build_network(backbone, len(self.task.labels), LOGITS, seed=seed)


TRAIN_TASKS: Registry[type[TrainTask]] = Registry(
    "trained task",
    "edgetl.train_tasks",
    {
        "classification": "edgetl.train.tasks.classification:TrainClassification",
        "multilabel": "edgetl.train.tasks.multilabel:TrainMultiLabel",
    },
    TrainTask,
)


def twin_of(task: Task) -> TrainTask:
    """The twin of a task; UnknownNameError where there is none."""
    return TRAIN_TASKS.find(task.name)(task)
