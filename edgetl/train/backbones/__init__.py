"""Backbones by name: installed ones, torchvision's and timm's."""

from __future__ import annotations

import copy
import importlib.util
from types import ModuleType

import torch
from torch import nn

from edgetl.errors import UnknownNameError, WeightsError
from edgetl.train.backbones import lite, timm, torchvision
from edgetl.train.backbones.base import BackboneInfo, Network, check_features

__all__ = [
    "SOURCES",
    "BackboneInfo",
    "Network",
    "all_backbones",
    "build_network",
    "find_backbone",
    "fused",
    "timm_is_here",
]

QUICK_SIDE = 64  # pixels that show what a network of any size ends in
FUSED = 1e-3  # how far a fused network may be from its original, of its largest output
SOURCES: dict[str, ModuleType] = {m.SOURCE: m for m in (lite, torchvision, timm)}


def all_backbones(source: str = "") -> dict[str, BackboneInfo]:
    """Compact ones by name: of one source, or of all but timm where that is not installed."""
    return {
        name: module.find(name)
        for module in ([SOURCES[source]] if source else _here())
        for name in module.names()
    }


def timm_is_here() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec("timm") is not None


def _here() -> list[ModuleType]:
    return [module for module in SOURCES.values() if module is not timm or timm_is_here()]


def source_of(name: str) -> ModuleType:
    """The module that knows a backbone; UnknownNameError suggests the nearest names."""
    if name.startswith(timm.PREFIX):
        return timm
    for module in (lite, torchvision):
        if name in module.names():
            return module
    here = _here()
    known = (each for module in here for each in module.names())
    note = f" Searched: {', '.join(module.SOURCE for module in here)}"
    note += "." if timm in here else "; timm is not here: pip install 'edgetl[timm]'"
    raise UnknownNameError("backbone", name, known, listing="edgetl backbones", note=note)


def find_backbone(name: str) -> BackboneInfo:
    """All about a backbone; UnknownNameError, WeightsError or EngineMissingError for others."""
    found: BackboneInfo = source_of(name).find(name)
    return found


def build_network(name: str, width: int, output: str, *, seed: int) -> Network:
    """A randomly initialised network on backbone `name` with one linear output `(N, width)`."""
    source = source_of(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = source.build(name)
        head = nn.Linear(body.features, width)
    info = source.find(name)
    check_features(body, info, info.size if source is timm else QUICK_SIDE)
    return Network(body.module, head, (output,), body.head_name, body.other_heads)


def fused(network: Network, name: str) -> Network:
    """A copy for inference, branches that only training needs being one convolution.

    WeightsError where it does not answer noise as the network itself does.
    """
    if source_of(name) is not timm:
        return network
    plain = copy.deepcopy(network).eval()
    plain.body = timm.fused(plain.body)
    size = find_backbone(name).size
    noise = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = plain(noise)
        for key, wanted in network.eval()(noise).items():
            difference = float((found[key] - wanted).abs().max() / wanted.abs().max())
            if not difference <= FUSED:
                raise WeightsError(
                    f"{name}, its branches fused, answers otherwise: by {difference:.1e} of the "
                    f"largest of {key}.",
                    fix="update timm, or use another backbone.",
                )
    return plain
