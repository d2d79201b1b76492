"""Options of finetune: defaults, contradictions, and values that are not possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgetl.errors import UsageError
from edgetl.options import FinetuneConfig, FinetuneOptions
from edgetl.train.backbones import find_backbone
from edgetl.train.finetune import resolve


def resolved(**changes: Any) -> FinetuneConfig:
    given: dict[str, Any] = {
        "data": "photos",
        "backbone": "mobilenet_v2",
        "weights": None,
        "strategy": "auto",
        "epochs": None,
        "size": 224,
        "fit": "crop",
        "flip": True,
        "seed": 0,
        "device": "cpu",
        "labels": "",
    }
    given |= changes
    data, options = given.pop("data"), FinetuneOptions.of(None, given)
    return resolve(data, options, find_backbone(options.backbone))


def test_defaults() -> None:
    config = resolved()
    assert (config.weights, config.strategy, config.epochs) == ("imagenet", "auto", None)
    assert config.data == str(Path("photos").resolve())
    assert config.crop_pct == 1


def test_paths_become_absolute_and_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    config = resolved(data="~/a", weights="~/w.pth", labels="~/l.csv")
    assert (config.data, config.weights, config.labels) == (
        "/nowhere/a",
        "/nowhere/w.pth",
        "/nowhere/l.csv",
    )
    assert resolved(weights="w.pth").weights == str(Path("w.pth").resolve())


def test_no_weights_means_from_scratch_and_the_reverse() -> None:
    assert resolved(weights="none").strategy == "scratch"
    assert resolved(strategy="scratch").weights == "none"
    assert resolved(strategy="scratch", weights="none").strategy == "scratch"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "scratch", "weights": "w.pth"}, "--strategy scratch does not use --weights"),
        ({"strategy": "scratch", "weights": "imagenet"}, "--strategy scratch does not use"),
        ({"strategy": "probe", "weights": "none"}, "--strategy probe needs pretrained weights"),
        ({"strategy": "finetune", "weights": "none"}, "--strategy finetune needs pretrained"),
        ({"size": 24}, "--size 24 is not possible"),
        ({"size": 1032}, "--size 1032 is not possible"),
        ({"size": 102}, "--size 102 is not possible"),
        ({"epochs": 0}, "--epochs 0 is not possible"),
        ({"epochs": -3}, "--epochs -3 is not possible"),
        ({"crop_pct": 0.9, "fit": "pad"}, "--crop-pct crops, and --fit pad shows all"),
        ({"epochs": 3, "strategy": "probe"}, "--strategy probe trains no epochs"),
        ({"seed": -1}, "--seed -1 is not possible"),
        ({"seed": 2**32}, "--seed 4294967296 is not possible"),
        ({"strategy": "best"}, "--strategy best is not possible"),
        ({"fit": "stretch"}, "--fit stretch is not possible"),
        ({"device": "tpu"}, "--device tpu is not possible"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as got:
        resolved(**changes)
    assert got.value.fix


@pytest.mark.parametrize("depth", [0, 7, 17, 32])
def test_a_depth_that_no_file_has_is_refused(depth: int) -> None:
    with pytest.raises(UsageError, match=rf"--depth {depth} is not possible"):
        resolved(depth=depth)
    assert resolved().depth == 16
    assert resolved(depth=12).depth == 12


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="torch sees no CUDA device"):
        resolved(device="cuda")
    assert resolved(device="auto").device == "cpu"


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolved(device="auto").device == "cuda"
    assert resolved(device="cpu").device == "cpu"
