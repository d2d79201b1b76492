"""Compact backbones, found in torchvision's own registry."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
import torchvision
from torch import nn

from edgetl.errors import WeightsError
from edgetl.registry import look_up
from edgetl.spec import Normalize, Record

MAX_PARAMETERS = 12_000_000


class BackboneInfo(Record, frozen=True, kw_only=True):
    """What the registry says about a backbone; accuracies are ImageNet top-1 fractions."""

    name: str
    parameters: int
    gflops: float
    imagenet_top1: float
    weights: str  # the enum's member, e.g. MobileNet_V2_Weights.IMAGENET1K_V2
    url: str
    normalize: Normalize


@functools.lru_cache(maxsize=1)
def all_backbones() -> dict[str, BackboneInfo]:
    """Every torchvision classification model with ImageNet weights and under 12 M parameters."""
    found: dict[str, BackboneInfo] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        weights = torchvision.models.get_model_weights(name).DEFAULT
        meta = weights.meta
        if len(meta.get("categories", ())) != 1000 or meta["num_params"] >= MAX_PARAMETERS:
            continue
        transforms = weights.transforms()
        found[name] = BackboneInfo(
            name=name,
            parameters=meta["num_params"],
            gflops=meta["_ops"],
            imagenet_top1=round(meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100, 5),
            weights=str(weights),
            url=weights.url,
            normalize=_normalize(name, tuple(transforms.mean), tuple(transforms.std)),
        )
    return found


def _builder_says(name: str, word: str) -> bool:
    return word in inspect.getsource(inspect.unwrap(torchvision.models.get_model_builder(name)))


def _normalize(name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Normalize:
    """What the layers are given: `transform_input` turns ImageNet's figures into 0.5 and 0.5."""
    if _builder_says(name, "transform_input"):
        mean = std = (0.5, 0.5, 0.5)
    return Normalize(mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))


def find_backbone(name: str) -> BackboneInfo:
    """Look a backbone up; UnknownNameError suggests the nearest names."""
    return look_up(name, all_backbones(), "backbone", listing="edgetl backbones")


class Network(nn.Module):
    """A backbone without its ImageNet head, and a task's head on its features.

    Input float32 `(N, 3, H, W)`, normalised; returns outputs `(N, …)` by name.
    """

    def __init__(
        self, body: nn.Module, head: nn.Module, outputs: tuple[str, ...], head_name: str = "head"
    ) -> None:
        """`head` returns one tensor for each of `outputs`; `head_name` is its name in a file."""
        super().__init__()
        self.body = body
        self.head: Any = head
        self.outputs, self.head_name = outputs, head_name

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return every output."""
        found = self.head(self.body(images))
        every = found if isinstance(found, (tuple, list)) else (found,)
        return dict(zip(self.outputs, every, strict=True))


def build_network(name: str, width: int, output: str, *, seed: int) -> Network:
    """A randomly initialised network on backbone `name` with one linear output `(N, width)`.

    The backbone's own head is found generically: the last Linear or 1x1 convolution with 1000
    outputs. It is replaced by nothing, so that the body ends in its pooled features.
    """
    info = find_backbone(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Auxiliary heads only helped the original training, and make its output no plain tensor.
        plain = {"aux_logits": False, "init_weights": False}
        options = plain if _builder_says(name, "aux_logits") else {}
        body = torchvision.models.get_model(name, weights=None, **options)
        head_name, features = _cut_head(body, info.name)
        model = Network(body, nn.Linear(features, width), (output,), head_name)
    _check_features(model, features, info.name)
    return model


def _cut_head(body: nn.Module, name: str) -> tuple[str, int]:
    head_name, width = "", 0
    for path, module in body.named_modules():
        if isinstance(module, nn.Linear) and module.out_features == 1000:
            head_name, width = path, module.in_features
        elif isinstance(module, nn.Conv2d) and module.out_channels == 1000:
            head_name, width = path, module.in_channels
    if not head_name:
        raise WeightsError(
            f"Backbone {name} has no head that edgetl recognises.", fix="use another."
        )
    body.set_submodule(head_name, nn.Identity())
    return head_name, width


def _check_features(model: Network, width: int, name: str) -> None:
    was = model.training
    model.eval()
    with torch.inference_mode():
        shape = tuple(model.body(torch.zeros(1, 3, 64, 64)).shape)
    model.train(was)
    if shape != (1, width):
        raise WeightsError(
            f"Backbone {name} does not end in pooled features: {shape}, not (1, {width}).",
            fix="use another backbone.",
        )
