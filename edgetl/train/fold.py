"""A network with normalisation and activations computed within its convolutions; it answers alike.

In training, batch normalisation whose statistics stay fixed is a scale and an offset for each
channel: the scale is multiplied into the filters and the offset is the convolution's bias, at each
step anew, so that gradients reach the parameters of both layers as they did. For inference on a CPU
activations join their convolutions too. Each spares passes over all activations.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any, Literal, TypeGuard, TypeVar

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# oneDNN's names of what it can do to a convolution's outputs before it writes them, with constants.
# Its ReLUs make numbers of NaN, which then nobody would hear of. Of ReLU6 that is harmless: where
# weights are no larger than LARGEST, what is never above 6 cannot overflow on its way to the next.
ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
    nn.SiLU: ("swish", []),
}
LARGEST = 1e6
M = TypeVar("M", bound=nn.Module)


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


class ActiveConv(nn.Module):
    """A convolution with the activation that follows, for inference on a CPU."""

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        """`activation` is of a type that ACTIVATIONS has."""
        super().__init__()
        self.conv, self.activation = conv, ACTIVATIONS[type(activation)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`(N, C, H, W)`, convolved and activated."""
        conv, (name, constants) = self.conv, self.activation
        shape: Any = conv.padding, conv.stride, conv.dilation, conv.groups
        found: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            images, conv.weight, conv.bias, *shape, name, constants, ""
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
    for conv_node, conv, node, norm in _followed(traced):
        if _is_fixed(norm) and norm.affine:
            _join(traced, conv_node, node, NormedConv(conv, norm))
    traced.recompile()
    return traced


def folded(model: nn.Module, device: Literal["cpu", "cuda"] = "cpu") -> nn.Module:
    """A copy for inference on a device, channels-last: equal up to rounding.

    Networks that torch.fx cannot follow stay as they are.
    """
    plain = copy.deepcopy(model).eval()
    with contextlib.suppress(Exception):  # as in `with_fixed_norms`
        traced = fx.symbolic_trace(plain)
        for conv_node, conv, node, norm in _followed(traced):
            if _is_fixed(norm):
                _join(traced, conv_node, node, fuse_conv_bn_eval(conv, norm))
        traced.delete_all_unused_submodules()
        plain = _activated(traced) if device == "cpu" and _joins_activations() else traced
        traced.recompile()
    return channels_last(plain)


def channels_last(model: M) -> M:
    """Lay out filters and all else with four axes as oneDNN wants them; the model itself returns.

    `Module.to` does so too, but fails where a layer has weights of five axes, as timm's lambda
    layers do.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model


def _is_fixed(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    kind = type(norm) is nn.BatchNorm2d
    return kind and not norm.training and norm.running_var is not None


def _activated(traced: fx.GraphModule) -> fx.GraphModule:
    small = all(bool((p.abs() <= LARGEST).all()) for p in traced.parameters())
    for conv_node, conv, node, activation in _followed(traced):
        kind = type(activation)
        if (
            kind in ACTIVATIONS
            and (small or kind is not nn.ReLU6)
            and not isinstance(conv.padding, str)
        ):
            _join(traced, conv_node, node, ActiveConv(conv, activation))
    return traced


def _followed(traced: fx.GraphModule) -> Iterator[tuple[fx.Node, nn.Conv2d, fx.Node, nn.Module]]:
    """Convolutions, each with the layer that is the only reader of its output."""
    layers = dict(traced.named_modules())
    for node in traced.graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1:
            conv = layers.get(str(before.target))
            if type(conv) is nn.Conv2d and conv.padding_mode == "zeros":
                yield before, conv, node, layers[str(node.target)]


def _join(traced: fx.GraphModule, conv_node: fx.Node, node: fx.Node, both: nn.Module) -> None:
    name = f"joined_{conv_node.name}"
    traced.add_submodule(name, both)
    conv_node.target = name
    node.replace_all_uses_with(conv_node)
    traced.graph.erase_node(node)


@functools.cache
def _joins_activations() -> bool:
    """Whether this torch has the call, which is private to it, and it computes what we expect."""
    with torch.random.fork_rng(devices=[]):
        conv = nn.Conv2d(2, 2, 3, stride=2, padding=1, groups=2).requires_grad_(False)
    conv.weight.fill_(1.0)
    images = torch.linspace(-4, 4, 64).view(1, 2, 4, 8)  # sums are from -36 to 36
    with torch.inference_mode(), contextlib.suppress(Exception):
        return all(
            torch.allclose(ActiveConv(conv, kind())(images), kind()(conv(images)), atol=1e-4)
            for kind in ACTIVATIONS
        )
    return False
