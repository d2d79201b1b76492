"""Backbones come from torchvision's registry; every one loses its head the same way."""

from __future__ import annotations

import pytest
import torch
import torchvision

from edgetl.errors import UnknownNameError, WeightsError
from edgetl.train.backbones import all_backbones, find_backbone
from edgetl.train.backbones.torchvision import cut_head
from edgetl.train.weights import assign
from tests.helpers import build_classifier

NAMED = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "mnasnet0_5",
    "mnasnet1_0",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "squeezenet1_0",
    "squeezenet1_1",
)


def test_the_list_holds_what_is_compact_and_has_weights() -> None:
    known = all_backbones("torchvision")
    assert set(NAMED) <= set(known)
    assert all(info.parameters < 12_000_000 for info in known.values())
    assert not {"alexnet", "resnet50", "vit_b_16", "maskrcnn_resnet50_fpn"} & set(known)


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "squeezenet1_1"])
def test_facts_are_those_of_the_default_weights(name: str) -> None:
    info = find_backbone(name)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    assert info.weights == str(weights)
    assert info.url == weights.url
    assert 0.5 < info.imagenet_top1 < 0.85
    assert list(info.normalize.mean) == weights.transforms().mean


@pytest.mark.parametrize("name", sorted(all_backbones("installed") | all_backbones("torchvision")))
def test_every_backbone_ends_in_features_and_a_linear_head(name: str) -> None:
    model = build_classifier(name, 3, seed=0).eval()
    width = model.head.in_features
    with torch.inference_mode():
        images = torch.zeros(1, 3, 64, 64)
        assert model.body(images).shape == (1, width)
        assert model(images)["logits"].shape == (1, 3)
    assert not [p for p in model.body.parameters() if 1000 in p.shape]
    left = sum(p.numel() for p in model.body.parameters())
    assert left + 1000 * (width + 1) == find_backbone(name).parameters


def test_the_seed_decides_the_random_start_and_nothing_else_is_drawn() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (
        build_classifier("squeezenet1_1", 3, seed=seed).head.weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("mobilnet_v2", "mobilenet_v2"),
        ("efficientnet-b0", "efficientnet_b0"),
        ("MobileNet_V3_Small", "mobilenet_v3_small"),
        ("squeezenet", "squeezenet1_1"),
    ],
)
def test_an_unknown_name_brings_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Unknown backbone '{wrong}': did you mean") as got:
        find_backbone(wrong)
    assert near in got.value.nearest
    assert "edgetl backbones" in got.value.fix


def test_a_network_without_a_known_head_is_refused() -> None:
    with pytest.raises(WeightsError, match="Backbone odd has no head"):
        cut_head(torch.nn.Sequential(torch.nn.Linear(4, 7)), "odd")


def test_auxiliary_heads_are_left_out_and_their_input_change_is_kept() -> None:
    """GoogLeNet as published, two more heads and an inner normalisation, gives the same logits."""
    torch.manual_seed(0)
    whole = torchvision.models.get_model(
        "googlenet", weights=None, aux_logits=True, transform_input=True, init_weights=False
    ).eval()
    for module in whole.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    model = build_classifier("googlenet", 1000, seed=1).eval()
    assign(model, whole.state_dict(), source="whole")
    model.head.load_state_dict(whole.fc.state_dict())
    photo = torch.rand(2, 3, 96, 96)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    ours = find_backbone("googlenet").normalize
    own_mean, own_std = torch.tensor(ours.mean), torch.tensor(ours.std)
    with torch.inference_mode():
        theirs = whole((photo - mean[:, None, None]) / std[:, None, None])
        found = model((photo - own_mean[:, None, None]) / own_std[:, None, None])["logits"]
    assert float(theirs.std()) > 0.01
    assert torch.allclose(found, theirs, atol=1e-3 * float(theirs.abs().max()))
