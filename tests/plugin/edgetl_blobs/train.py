"""The task's twin: a tiny network of its own, and its loss."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from edgetl.train.backbones import Network
from edgetl.train.tasks.base import Tensors, TrainTask
from edgetl_blobs.task import BOXES, KINDS


class Heads(nn.Module):
    """Two linear layers on the same features."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.boxes, self.kinds = nn.Linear(width, 4), nn.Linear(width, classes)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes and kinds."""
        return self.boxes(features).sigmoid(), self.kinds(features)


class TrainBlobs(TrainTask):
    """Places matter, so photos are neither cropped nor mirrored."""

    augments: ClassVar[bool] = False

    def network(self, backbone: str, *, seed: int) -> Network:
        """Four convolutions; whatever backbone is named, this one is small enough for a test."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[nn.Module] = []
            for wide, wider in ((3, 16), (16, 32), (32, 32), (32, 32)):
                layers += [nn.Conv2d(wide, wider, 3, 2, 1), nn.BatchNorm2d(wider), nn.ReLU()]
            body = nn.Sequential(*layers, nn.Flatten())
            head = Heads(32 * 4 * 4, len(self.task.labels))
            return Network(body, head, (BOXES, KINDS))

    def loss(self, outputs: Tensors, targets: torch.Tensor, *, smoothing: float) -> torch.Tensor:
        """Distance of corners, and cross-entropy of kinds."""
        place = nn.functional.smooth_l1_loss(outputs[BOXES], targets[:, :4], beta=0.05)
        kind = nn.functional.cross_entropy(outputs[KINDS], targets[:, 4].long())
        return 10 * place + kind
