"""The arithmetic of training: where bfloat16 pays, and gradients of depthwise convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgetl.train.precision import QuickDepthwise, bf16_pays


def gradients(
    layer: nn.Conv2d, images: torch.Tensor, *, quick: bool, bf16: bool
) -> list[torch.Tensor]:
    images = images.clone().requires_grad_(True)
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        if quick:
            with QuickDepthwise():
                found = layer(images)
        else:
            found = layer(images)
    (found.float() * torch.linspace(-1, 1, found.numel()).view(found.shape)).sum().backward()
    assert images.grad is not None
    return [images.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]


LAYERS = {
    "3x3": nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
    "5x5, stride 2, bias": nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=8),
    "two filters a channel": nn.Conv2d(8, 16, 3, groups=8),
    "dilated": nn.Conv2d(8, 8, 3, dilation=2, padding=2, groups=8),
    "oblong": nn.Conv2d(8, 8, (3, 5), (2, 1), (1, 2), (1, 2), groups=8),
    "padding by name": nn.Conv2d(8, 8, 3, padding="same", groups=8),
    "groups": nn.Conv2d(8, 8, 3, groups=4),
    "plain": nn.Conv2d(8, 4, 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_torch(name: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 8, 13, 11).to(memory_format=torch.channels_last)
    exact = gradients(LAYERS[name], images, quick=False, bf16=False)
    for quick, bf16, close in ((True, False, 1e-6), (True, True, 2e-2)):
        found = gradients(LAYERS[name], images, quick=quick, bf16=bf16)
        assert len(found) == len(exact)
        for mine, theirs in zip(found, exact, strict=True):
            assert mine.dtype == theirs.dtype
            assert (mine - theirs).norm() <= close * theirs.norm()


def test_gradients_of_weights_are_not_rounded() -> None:
    layer, images = nn.Conv2d(8, 8, 3, groups=8, bias=False), torch.randn(4, 8, 13, 11).bfloat16()
    with torch.autocast("cpu", torch.bfloat16), QuickDepthwise():
        layer(images).sum().backward()
    found = layer.weight.grad
    layer.weight.grad = None
    layer(images.float()).sum().backward()
    assert found is not None
    assert layer.weight.grad is not None
    assert (found - layer.weight.grad).norm() <= 1e-6 * found.norm()


def test_frozen_layers_get_none() -> None:
    layer = nn.Conv2d(8, 8, 3, groups=8).requires_grad_(False)
    images = torch.randn(1, 8, 5, 5, requires_grad=True)
    with QuickDepthwise():
        layer(images).sum().backward()
    assert images.grad is not None
    assert layer.weight.grad is None


def test_emulated_bf16_on_a_gpu_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert not bf16_pays("cuda")
