"""Backbones of timm (Apache-2.0), the field's library: `timm/NAME` or `timm/NAME.TAG`.

timm's configuration states how images are read and what the licence is. What it does not hold,
parameters, multiply-adds and ImageNet accuracy, comes from timm.csv, which
`python -m benchmarks.timm_table` writes.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import importlib.resources
import os
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from edgetl.errors import UnknownNameError, WeightsError, missing_extra
from edgetl.spec import Interpolation, Normalize
from edgetl.train.backbones.base import BackboneInfo, Body

SOURCE, PREFIX = "timm", "timm/"
UNSTATED = "not stated by timm's configuration"
FILTERS = ("bilinear", "bicubic")
FILE = "model.safetensors"  # in each repository of timm's on the Hugging Face hub


class Row(NamedTuple):
    """A line of timm.csv."""

    parameters: int
    gflops: float | None
    imagenet_top1: float | None


@functools.cache
def library() -> Any:
    """timm itself; EngineMissingError where it is not installed."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when its hub client is imported
    try:
        import timm
    except ModuleNotFoundError as error:
        raise missing_extra("timm", "A backbone of timm") from error
    return timm


@functools.cache
def table() -> dict[str, Row]:
    """timm.csv by name with tag: the compact backbones, whether timm is installed or not."""
    text = importlib.resources.files("edgetl.train.backbones").joinpath("timm.csv").read_text()
    return {
        row["name"]: Row(
            int(row["parameters"]),
            float(row["gflops"]) if row["gflops"] else None,
            float(row["imagenet_top1"]) if row["imagenet_top1"] else None,
        )
        for row in csv.DictReader(text.splitlines())
    }


def names() -> tuple[str, ...]:
    """All under 12 M parameters that the table and the installed timm both know."""
    known = library().list_models(pretrained=True)
    return tuple(PREFIX + name for name in known if name in table())


@functools.cache
def find(name: str) -> BackboneInfo:
    """All about `timm/NAME` (its default weights) or `timm/NAME.TAG`, listed or not.

    UnknownNameError and WeightsError where timm has no such network or no such weights.
    """
    models = library().models
    arch, _, tag = name.removeprefix(PREFIX).partition(".")
    if not models.is_model(arch):
        known = (PREFIX + each for each in library().list_models())
        raise UnknownNameError("backbone", name, known, listing="edgetl backbones --source timm")
    tags = [key for key, one in models.get_arch_pretrained_cfgs(arch).items() if one.has_weights]
    stated = models.get_pretrained_cfg(arch)
    tag = tag or (stated.tag if stated else "") or ""
    full = f"{arch}.{tag}" if tag else arch
    if full not in tags:
        others = ", ".join(PREFIX + each for each in tags)
        raise WeightsError(
            f"timm has no weights {name}: "
            + (f"of {arch} it has {others}." if tags else f"it has none of {arch}."),
            fix=f"give --backbone {PREFIX}{tags[0]}." if tags else "use another backbone.",
        )
    return _info(full, models.get_pretrained_cfg(full))


def _info(full: str, stated: Any) -> BackboneInfo:
    name, (channels, *sides) = PREFIX + full, stated.input_size
    if channels != 3:
        raise WeightsError(
            f"Backbone {name} reads {channels} channels, not 3.", fix="use another backbone."
        )
    if stated.interpolation not in FILTERS:
        raise WeightsError(
            f"Backbone {name} was trained on images resized by {stated.interpolation}; edgetl has "
            f"{' and '.join(FILTERS)}.",
            fix="use another backbone.",
        )
    row = table().get(full) or Row(_count(full), None, None)
    mean, std = (cast(tuple[float, float, float], tuple(v)) for v in (stated.mean, stated.std))
    return BackboneInfo(
        name=name,
        source=SOURCE,
        parameters=row.parameters,
        gflops=row.gflops,
        imagenet_top1=row.imagenet_top1,
        weights=stated.hf_hub_id or stated.url or stated.file,
        url=_url(stated),
        licence=stated.license or UNSTATED,
        normalize=Normalize(mean=mean, std=std),
        size=sides[0],
        crop=stated.crop_pct,
        interpolation=cast(Interpolation, stated.interpolation),
        only_size=bool(stated.fixed_input_size),
    )


def _url(stated: Any) -> str:
    """Where the weights are fetched; HF_ENDPOINT names a mirror, as elsewhere."""
    if not stated.hf_hub_id:
        return str(stated.url or "")
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{hub}/{stated.hf_hub_id}/resolve/main/{stated.hf_hub_filename or FILE}"


def _count(full: str) -> int:
    """Parameters of a network with its head, without room for them."""
    with torch.device("meta"), _silent():
        made = library().create_model(full)
    return sum(each.numel() for each in made.parameters())


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def build(name: str) -> Body:
    """A randomly initialised body."""
    info, full = find(name), name.removeprefix(PREFIX)
    with _silent():
        body = library().create_model(full, num_classes=0, exportable=True)
    stated = library().models.get_pretrained_cfg(full).classifier
    heads = stated if isinstance(stated, tuple) else (stated,)
    with torch.inference_mode():
        found = body.eval()(torch.zeros(1, 3, info.size, info.size))
    width = found.shape[-1] if torch.is_tensor(found) else 0
    return Body(body.train(), heads[0], width, heads[1:])


def fused(body: nn.Module) -> nn.Module:
    """A copy whose branches of training (MobileOne, RepViT, RepVGG, FastViT) are one convolution.

    By timm's own methods; others come back as they are.
    """
    made: nn.Module = library().models.reparameterize_model(body, inplace=False)
    return made


def cached_file(name: str) -> str | None:
    """Path of the weights in the Hugging Face cache, if they are there."""
    from huggingface_hub import try_to_load_from_cache

    stated = library().models.get_pretrained_cfg(name.removeprefix(PREFIX))
    if not stated.hf_hub_id:
        return None
    found = try_to_load_from_cache(stated.hf_hub_id, stated.hf_hub_filename or FILE)
    return found if isinstance(found, str) else None
