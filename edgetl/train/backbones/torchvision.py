"""Backbones of torchvision's own registry."""

from __future__ import annotations

import functools
import inspect

import torchvision
from torch import nn

from edgetl.errors import WeightsError
from edgetl.spec import Normalize
from edgetl.train.backbones.base import MAX_PARAMETERS, BackboneInfo, Body

SOURCE = "torchvision"
LICENCE = (
    "Weights published by torchvision (BSD-3-Clause) and trained on ImageNet-1k, whose terms of "
    "use may bind what is derived from it; check them for your use."
)


def names() -> tuple[str, ...]:
    """Every classification model with ImageNet weights and under 12 M parameters."""
    return tuple(_all())


def find(name: str) -> BackboneInfo:
    """All about one of `names()`."""
    return _all()[name]


@functools.lru_cache(maxsize=1)
def _all() -> dict[str, BackboneInfo]:
    found: dict[str, BackboneInfo] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        weights = torchvision.models.get_model_weights(name).DEFAULT
        meta = weights.meta
        if len(meta.get("categories", ())) != 1000 or meta["num_params"] >= MAX_PARAMETERS:
            continue
        transforms = weights.transforms()
        found[name] = BackboneInfo(
            name=name,
            source=SOURCE,
            parameters=meta["num_params"],
            gflops=meta["_ops"],
            imagenet_top1=round(meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100, 5),
            weights=str(weights),
            url=weights.url,
            licence=LICENCE,
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


def build(name: str) -> Body:
    """A randomly initialised body.

    The backbone's own head is found generically: the last Linear or 1x1 convolution with 1000
    outputs. It is replaced by nothing, so that the body ends in its pooled features.
    """
    # Auxiliary heads only helped the original training, and make its output no plain tensor.
    plain = {"aux_logits": False, "init_weights": False}
    options = plain if _builder_says(name, "aux_logits") else {}
    return cut_head(torchvision.models.get_model(name, weights=None, **options), name)


def cut_head(body: nn.Module, name: str) -> Body:
    """The body of a whole network; WeightsError where it has no head that is recognised."""
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
    return Body(body, head_name, width)
