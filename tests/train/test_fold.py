"""Normalisation and activations as part of the convolutions: the same answers and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgetl.train.backbones import build_network
from edgetl.train.fold import ActiveConv, NormedConv, channels_last, folded, with_fixed_norms


def settle(model: nn.Module) -> nn.Module:
    """Training mode, but statistics that are fixed and nothing drawn."""
    torch.manual_seed(0)
    for module in model.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.get_buffer("running_mean").normal_(0, 0.1)
            module.get_buffer("running_var").uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def answers(model: nn.Module, owner: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    owner.zero_grad(set_to_none=True)
    found = model(images)
    found = found["logits"] if isinstance(found, dict) else found
    (found * torch.linspace(-1, 1, found.numel()).view(found.shape)).sum().backward()
    return [found.detach(), *(p.grad.clone() for p in owner.parameters() if p.grad is not None)]


def same(model: nn.Module, images: torch.Tensor) -> nn.Module:
    quick = with_fixed_norms(model)
    ours, theirs = (answers(each, model, images) for each in (quick, model))
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).norm() <= 1e-4 * other.norm()
    return quick


def normed(model: nn.Module) -> int:
    return sum(isinstance(module, NormedConv) for module in model.modules())


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite0", "mobilenet_v3_small"])
def test_backbones_answer_and_learn_alike(name: str) -> None:
    model = settle(build_network(name, 5, "logits", seed=0))
    for parameter in list(model.parameters())[:6]:
        parameter.requires_grad_(False)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert normed(same(model, torch.randn(2, 3, 64, 64))) == norms


def test_steps_of_an_optimiser_reach_both() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    quick, images = with_fixed_norms(model), torch.randn(2, 3, 8, 8)
    before = quick(images).detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    quick(images).square().mean().backward()
    optimizer.step()
    assert not torch.allclose(before, quick(images))
    torch.testing.assert_close(quick(images), model(images), rtol=1e-4, atol=1e-5)


class Twice(nn.Module):
    """What the convolution answers is used beside the normalisation too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.conv(images)
        return self.norm(found) + found


class Branching(Twice):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.norm(self.conv(images))
        return found if found.sum() > 0 else -found


@pytest.mark.parametrize(
    "model",
    [Twice(), Branching(), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()),
     nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False))],
    ids=["twice used", "no graph", "no convolution", "no scale"],
)  # fmt: skip
def test_others_stay_as_they_are(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    assert normed(with_fixed_norms(model)) == 0
    torch.testing.assert_close(with_fixed_norms(model)(images), model(images))


def test_weights_of_five_axes_stay_as_they_are() -> None:
    """timm's lambda layers have a Conv3d among their Conv2d."""

    class Lambda(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.deep = nn.Conv2d(3, 4, 3), nn.Conv3d(1, 2, (1, 3, 3))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.deep(self.flat(images).unsqueeze(1))
            return found

    model, images = Lambda().eval(), torch.rand(2, 3, 8, 8)
    wanted = model(images)
    torch.testing.assert_close(folded(model)(images), wanted)
    torch.testing.assert_close(channels_last(model)(images), wanted)
    assert model.flat.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.deep.weight.is_contiguous()


def test_bias_of_the_convolution_counts() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4), nn.ReLU6()))
    assert normed(same(model, torch.randn(2, 3, 8, 8))) == 1


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"])
def test_activations_join_for_inference(name: str) -> None:
    model = settle(build_network(name, 5, "logits", seed=0)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        wanted, quick = model(images)["logits"], folded(model)
        assert (quick(images)["logits"] - wanted).norm() <= 1e-4 * wanted.norm()
    kinds = [type(module) for module in quick.modules()]
    assert ActiveConv in kinds
    assert nn.BatchNorm2d not in kinds
    assert ActiveConv not in [type(module) for module in folded(model, "cuda").modules()]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mobilenet_v2", float("nan")),
        ("mobilenet_v3_small", float("nan")),
        ("regnet_x_400mf", float("nan")),
        ("regnet_x_400mf", 1e38),
    ],
)
def test_what_is_not_finite_stays_so(name: str, value: float) -> None:
    model = build_network(name, 5, "logits", seed=0).eval()
    with torch.no_grad():
        next(model.parameters()).fill_(value)
    images = torch.randn(2, 3, 64, 64) * 9
    with torch.inference_mode():
        assert not model(images)["logits"].isfinite().any()
        assert not folded(model)(images)["logits"].isfinite().any()


class Shared(nn.Module):
    """One convolution, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = (
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.BatchNorm2d(4),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.first(self.conv(images)) + self.second(self.conv(images / 2))


def test_a_convolution_that_is_used_twice() -> None:
    model, images = settle(Shared()), torch.randn(2, 3, 8, 8)
    assert normed(same(model, images)) == 2
    torch.testing.assert_close(folded(model)(images), model(images), rtol=1e-4, atol=1e-5)


def test_statistics_that_are_learnt_are_not_taken_for_fixed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    assert normed(with_fixed_norms(model)) == 0


def test_an_activation_joins_only_what_it_alone_reads() -> None:
    class Skipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU6()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found = self.conv(images)
            return self.act(found) + found

    for model in (
        Skipped(),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU()),
    ):
        quick, images = folded(model), torch.randn(2, 3, 8, 8)
        torch.testing.assert_close(quick(images), model(images))
        assert not any(isinstance(module, ActiveConv) for module in quick.modules())
