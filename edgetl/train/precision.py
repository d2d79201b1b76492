"""The arithmetic of training: bfloat16 where it is native, but for gradients that it makes slow.

oneDNN has quick bfloat16 kernels for the outputs of depthwise convolutions and slow ones for their
gradients: with 5x5 filters they take four to thirty times as long as the float32 kernels and both
conversions. Training EfficientNet-Lite0 on two cores is twice as fast this way (torch 2.14).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode

from edgetl.machine import this_machine


def bf16_pays(device: Literal["cpu", "cuda"]) -> bool:
    """Whether bfloat16 arithmetic is native on the device."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return this_machine().bf16


@contextlib.contextmanager
def quickest(device: Literal["cpu", "cuda"]) -> Iterator[None]:
    """A block for forward passes that are trained: in bfloat16 where that pays."""
    if not bf16_pays(device):
        yield
        return
    apart = QuickDepthwise() if device == "cpu" else contextlib.nullcontext()
    with torch.autocast(device, torch.bfloat16), apart:
        yield


class QuickDepthwise(TorchFunctionMode):
    """Within this block, depthwise convolutions of a forward pass get float32 gradients."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Every call of torch's; all but depthwise convolutions go on as they are."""
        if func is not torch.conv2d:
            return func(*args, **(kwargs or {}))
        return _convolve(*args, **(kwargs or {}))


def _convolve(  # noqa: PLR0917 (torch's own signature, and names)
    input: torch.Tensor,  # noqa: A002
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    given = input, weight, bias, stride, padding, dilation, groups
    if groups == 1 or input.dim() != 4 or groups != input.shape[1] or isinstance(padding, str):
        return torch.conv2d(*given)
    return _Depthwise.apply(*given)


class _Depthwise(torch.autograd.Function):
    """Computed as torch.conv2d does, its gradients in float32."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weight: torch.Tensor, *rest: Any) -> torch.Tensor:
        ctx.save_for_backward(images, weight)
        ctx.rest = rest
        return torch.conv2d(images, weight, *rest)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        images, weight = ctx.saved_tensors
        bias, stride, padding, dilation, groups = ctx.rest
        found = torch.ops.aten.convolution_backward(
            gradient.float(),
            images.float(),
            weight.float(),
            None if bias is None else list(bias.shape),
            _pair(stride),
            _pair(padding),
            _pair(dilation),
            False,  # not transposed, so without padding of its output
            [0, 0],
            groups,
            ctx.needs_input_grad[:3],
        )
        given = images, weight, bias
        cast = [g if g is None else g.to(t.dtype) for g, t in zip(found, given, strict=True)]
        return (*cast, None, None, None, None)


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
