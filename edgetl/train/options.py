"""Options of `edgetl finetune`, with what they leave open filled in."""

from __future__ import annotations

from typing import Any

import msgspec
import torch

from edgetl.errors import UsageError
from edgetl.files import user_path
from edgetl.options import FinetuneConfig, FinetuneOptions


def resolve(data: str, options: FinetuneOptions) -> FinetuneConfig:
    """What a run on the photos in `data` is to be; UsageError where torch sees no such device."""
    weights = options.weights or ("none" if options.strategy == "scratch" else "imagenet")
    cuda = torch.cuda.is_available()
    if options.device == "cuda" and not cuda:
        raise UsageError("--device cuda: torch sees no CUDA device here.", fix="use --device cpu.")
    chosen: dict[str, Any] = {
        "data": _absolute(data),
        "weights": weights if weights in ("imagenet", "none") else _absolute(weights),
        "strategy": "scratch" if weights == "none" else options.strategy,
        "device": "cuda" if options.device != "cpu" and cuda else "cpu",
        "labels": _absolute(options.labels) if options.labels else None,
    }
    return FinetuneConfig(**msgspec.structs.asdict(options) | chosen)


def _absolute(path: str) -> str:
    return str(user_path(path).resolve())
