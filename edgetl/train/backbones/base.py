"""What a backbone is: its facts, its body, and the network that a task puts a head on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from edgetl.errors import WeightsError
from edgetl.inputs.image import CROP
from edgetl.spec import Interpolation, Normalize, Record

MAX_PARAMETERS = 12_000_000  # of what is listed as compact


class BackboneInfo(Record, frozen=True, kw_only=True):
    """Facts of a backbone and of the weights that `--weights imagenet` means for it."""

    name: str  # as --backbone has it
    source: str  # "installed", "torchvision" or "timm"
    parameters: int  # with the head of those weights
    gflops: float | None = None  # of one image of `size`, a multiply-add being one
    imagenet_top1: float | None = None  # share right
    weights: str  # what their maker calls them
    url: str = ""  # where they are fetched
    licence: str  # of the weights, as their source states it
    normalize: Normalize
    size: int = 224  # pixels a side that the weights were scored with
    crop: float = CROP  # share of a photo's side, likewise
    interpolation: Interpolation = "bilinear"  # likewise
    only_size: bool = False  # whether it takes no other size
    sha256: str = ""  # of the file, or its first digits, where they are known
    package: str = ""  # Python's, that holds the file


class Body(NamedTuple):
    """A backbone without its head: float32 `(N, 3, H, W)` → features `(N, features)`."""

    module: nn.Module
    head_name: str  # under which a file keeps the head
    features: int
    other_heads: tuple[str, ...] = ()  # names of what else a file may hold and nobody needs


class Network(nn.Module):
    """A backbone without its ImageNet head, and a task's head on its features.

    Input float32 `(N, 3, H, W)`, normalised; returns outputs `(N, …)` by name.
    """

    def __init__(
        self,
        body: nn.Module,
        head: nn.Module,
        outputs: tuple[str, ...],
        head_name: str = "head",
        other_heads: tuple[str, ...] = (),
    ) -> None:
        """`head` returns one tensor for each of `outputs`; the names are those in a file."""
        super().__init__()
        self.body = body
        self.head: Any = head
        self.outputs, self.head_name, self.other_heads = outputs, head_name, other_heads

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return every output."""
        found = self.head(self.body(images))
        every = found if isinstance(found, (tuple, list)) else (found,)
        return dict(zip(self.outputs, every, strict=True))


def check_features(body: Body, info: BackboneInfo, side: int) -> None:
    """WeightsError unless a body gives pooled features of images of `side` pixels."""
    was = body.module.training
    with torch.inference_mode():
        found = body.module.eval()(torch.zeros(1, 3, side, side))
    body.module.train(was)
    shape = tuple(found.shape) if torch.is_tensor(found) else type(found).__name__
    if shape != (1, body.features):
        raise WeightsError(
            f"Backbone {info.name} does not end in pooled features: {shape}, not "
            f"(1, {body.features}).",
            fix="use another backbone.",
        )
