"""Options of `edgetl finetune`, checked and filled in."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from edgetl.errors import UsageError
from edgetl.files import user_path
from edgetl.inputs.decode import DEPTHS, FULL_DEPTH
from edgetl.spec import FinetuneConfig, Fit, Strategy, TorchDevice


def resolve(
    *,
    data: str,
    backbone: str,
    weights: str | None,
    strategy: Strategy,
    epochs: int | None,
    size: int,
    fit: Fit,
    flip: bool,
    seed: int,
    device: TorchDevice,
    labels: str,
    depth: int = FULL_DEPTH,
    task: str = "classification",
) -> FinetuneConfig:
    """Check options and fill in what they leave open; UsageError for contradictions.

    `epochs` 0 stands for "by the number of photos".
    """
    for option, value, choices in (
        ("strategy", strategy, get_args(Strategy)),
        ("fit", fit, get_args(Fit)),
        ("device", device, get_args(TorchDevice)),
    ):
        if value not in choices:
            raise UsageError(
                f"--{option} {value} is not possible.", fix=f"choose among {', '.join(choices)}."
            )
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed {seed} is not possible.", fix="choose 0…4294967295.")
    if not 32 <= size <= 1024 or size % 8:
        raise UsageError(f"--size {size} is not possible.", fix="choose 32…1024, a multiple of 8.")
    if depth not in DEPTHS:
        raise UsageError(f"--depth {depth} is not possible.", fix="choose 8…16 bits.")
    _check_epochs(epochs, strategy)
    if weights is None:
        weights = "none" if strategy == "scratch" else "imagenet"
    if strategy == "scratch" and weights != "none":
        raise UsageError(
            f"--strategy scratch does not use --weights {weights}.",
            fix="leave --weights out, or choose another strategy.",
        )
    if weights == "none":
        if strategy in ("probe", "finetune"):
            raise UsageError(
                f"--strategy {strategy} needs pretrained weights.",
                fix="give --weights imagenet or a file, or choose --strategy scratch.",
            )
        strategy = "scratch"
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise UsageError("--device cuda: torch sees no CUDA device here.", fix="use --device cpu.")
    chosen: Literal["cpu", "cuda"] = "cuda" if device != "cpu" and cuda else "cpu"
    return FinetuneConfig(
        data=_absolute(data),
        backbone=backbone,
        weights=weights if weights in ("imagenet", "none") else _absolute(weights),
        strategy=strategy,
        epochs=epochs or 0,
        size=size,
        fit=fit,
        flip=flip,
        seed=seed,
        device=chosen,
        labels=_absolute(labels) if labels else "",
        depth=depth,
        task=task,
    )


def _absolute(path: str) -> str:
    return str(user_path(path).resolve())


def _check_epochs(epochs: int | None, strategy: str) -> None:
    if epochs is not None and epochs < 1:
        raise UsageError(f"--epochs {epochs} is not possible.", fix="choose 1 or more.")
    if epochs is not None and strategy == "probe":
        raise UsageError(
            "--strategy probe trains no epochs: it fits a head on fixed features.",
            fix="leave --epochs away, or choose --strategy finetune.",
        )
