"""Training with batch normalisation whose statistics stay fixed, as part of the convolutions.

Fixed normalisation is a scale and an offset for each channel: the scale is multiplied into the
filters and the offset is the convolution's bias, at each step anew, so that gradients reach the
parameters of both layers as they did. It spares two passes over all activations, there and back.
"""

from __future__ import annotations

import torch
from torch import fx, nn


class NormedConv(nn.Module):
    """A convolution and the normalisation of its outputs by fixed statistics, in one."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        """Both layers go on living where they are; this only reads them."""
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`(N, C, H, W)`, convolved and normalised."""
        conv, norm = self.conv, self.norm
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        scale = norm.weight * (variance + norm.eps).rsqrt()
        offset = norm.bias - mean * scale
        if conv.bias is not None:
            offset = offset + conv.bias * scale
        found: torch.Tensor = conv._conv_forward(
            images, conv.weight * scale[:, None, None, None], offset
        )
        return found


def with_fixed_norms(model: nn.Module) -> nn.Module:
    """The same network with the same parameters, normalising within its convolutions.

    Takes a model in the mode that it is trained in. One that torch.fx cannot follow is returned as
    it is, and so is normalisation that follows no convolution.
    """
    try:
        traced = fx.symbolic_trace(model)
    except Exception:  # whatever the model's code raises where it meets a stand-in for a tensor
        return model
    layers = dict(traced.named_modules())
    for node in traced.graph.nodes:
        norm = layers.get(str(node.target)) if node.op == "call_module" else None
        if type(norm) is not nn.BatchNorm2d or norm.running_var is None or norm.weight is None:
            continue
        before = node.args[0]
        conv = layers.get(str(before.target)) if before.op == "call_module" else None
        if type(conv) is not nn.Conv2d or len(before.users) > 1:
            continue
        name = f"normed_{len(traced._modules)}"
        traced.add_submodule(name, NormedConv(conv, norm))
        before.target = name
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.recompile()
    return traced
