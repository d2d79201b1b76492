"""What every family of backbones must do, with random weights: one small member of each.

    python -m benchmarks.backbone_contract [NAME…]

Built, with pooled features; written as the canonical ONNX with the answers of the network, branches
of training fused; then ONNX Runtime's FP32 and INT8, OpenVINO's INT8 and TensorRT's INT8 built and
judged by the gate, the last by TensorRT's rules and in ONNX Runtime. INT8 of random weights may be
too far from FP32 and is then refused: what counts is that it is built, or refused with a reason.
Writes results/backbone_contract.jsonl.
"""

from __future__ import annotations

import atexit
import functools
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from benchmarks.common import read_rows, write_rows
from benchmarks.random_source import CLASSES, RandomSource
from edgetl.bundle.manifest import Calibration
from edgetl.data.samples import parts
from edgetl.data.walk import images_in
from edgetl.errors import EdgetlError
from edgetl.exporter.job import ExportJob
from edgetl.exporter.onnx.trace import trace
from edgetl.exporter.plan import Plan, plan
from edgetl.exporter.sources.base import UNLABELLED, ValidationSet
from edgetl.inputs.base import Pixels
from edgetl.inputs.image import sized
from edgetl.recipes import find_recipe
from edgetl.spec import Recipe
from edgetl.tasks.classification import Classification
from edgetl.train.backbones import build_network, find_backbone, fused

NAME = "backbone_contract"
FAMILIES = {
    "MobileNetV4, convolutions": "timm/mobilenetv4_conv_small",
    "MobileNetV4, hybrid": "timm/mobilenetv4_hybrid_medium",
    "MobileNetV3": "timm/mobilenetv3_small_100",
    "EfficientNet-Lite": "efficientnet_lite0",
    "EfficientNet": "timm/efficientnet_b0",
    "GhostNetV2": "timm/ghostnetv2_100",
    "MobileOne": "timm/mobileone_s0",
    "RepViT": "timm/repvit_m0_9",
    "FastViT": "timm/fastvit_t8",
    "EfficientViT (MIT)": "timm/efficientvit_b0",
    "EfficientViT (MSRA)": "timm/efficientvit_m0",
    "EdgeNeXt": "timm/edgenext_xx_small",
    "StarNet": "timm/starnet_s1",
    "LCNet": "timm/lcnet_050",
    "TinyNet": "timm/tinynet_e",
    "MNASNet": "timm/mnasnet_small",
    "RegNet": "timm/regnetx_002",
    "ConvNeXt": "timm/convnext_atto",
    "ViT": "timm/vit_tiny_patch16_224",
}
RECIPES = ("ort-fp32", "ort-int8", "ov-int8-symmetric", "trt-int8-weak")
EACH = 12  # photos of each of five kinds
CALIBRATION, HELD_OUT, VALIDATION = 32, 8, 16  # photos


@functools.cache
def drawn() -> Path:
    """Some drawn photos of each kind, in a folder that lives as long as this process."""
    folder = tempfile.TemporaryDirectory(prefix="edgetl-contract-")
    atexit.register(folder.cleanup)
    parts.draw(Path(folder.name), EACH)
    return Path(folder.name)


class RandomBackbone(RandomSource):
    """A backbone with random weights whose batch norm fits drawn photos, which also judge it."""

    def __init__(self, backbone: str, size: int = 0) -> None:
        info = find_backbone(backbone)
        self.backbone, self.normalize = info.name, info.normalize
        self.task = Classification(labels=tuple(f"class {i}" for i in range(CLASSES)))
        self.input = sized(size or info.size).seen(1.0, info.interpolation)
        self.images = np.stack([self.input.read(path).pixels for path in images_in(drawn())])
        self.model = build_network(backbone, CLASSES, "logits", seed=0)
        self._fit_batch_norm()

    def _fit_batch_norm(self) -> None:
        """One pass in training mode: without it, random networks answer every photo alike."""
        for module in self.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        mean, std = (
            torch.tensor(v)[:, None, None] for v in (self.normalize.mean, self.normalize.std)
        )
        batch = (torch.from_numpy(self.images[:CALIBRATION]).permute(0, 3, 1, 2) / 255 - mean) / std
        torch.manual_seed(0)  # of dropout and stochastic depth
        with torch.no_grad():
            self.model.train()(batch.float())
        self.model.eval()

    def validation(self) -> ValidationSet:
        return ValidationSet(self.images[-VALIDATION:], None, UNLABELLED)

    def calibration(self, count: int) -> tuple[Pixels, Calibration]:
        images = self.images[: min(count, CALIBRATION)]
        return images, Calibration(n=len(images), sha256="0" * 64)

    def held_out(self, count: int) -> Pixels:
        return self.images[CALIBRATION:][: min(count, HELD_OUT)]

    def canonical(self) -> bytes:
        return trace(fused(self.model, self.backbone), self.input, self.normalize)


def contract(backbone: str, size: int = 0, recipes: tuple[str, ...] = RECIPES) -> dict[str, Any]:
    """What became of one backbone; EdgetlError where it is refused as a whole."""
    source = RandomBackbone(backbone, size)
    tried: list[Recipe] = [find_recipe(name) for name in recipes]
    job = ExportJob(
        source,
        Plan(plan("cpu").devices, tuple(tried)),
        engine="auto",
        precision="auto",
        max_drop=0.01,
        progress=lambda _: None,
    )
    job.try_recipes(tried)
    proto = onnx.load_from_string(job.context.canonical)
    return {
        "backbone": source.backbone,
        "size": source.input.shape[0],
        "opset": proto.opset_import[0].version,
        "operators": dict(Counter(node.op_type for node in proto.graph.node)),
        "candidates": {
            name: {"divergence": c.gate_divergence, "refused": c.rejected}
            for name, c in job.candidates.items()
        },
    }


def main() -> None:
    """All families, or those named."""
    rows = read_rows(NAME)
    for family, backbone in FAMILIES.items():
        if sys.argv[1:] and backbone not in sys.argv[1:]:
            continue
        try:
            found = contract(backbone)
        except EdgetlError as error:
            found = {"backbone": backbone, "refused": str(error)}
        row = {"family": family} | found
        print({k: v for k, v in row.items() if k != "operators"}, flush=True)
        rows = [r for r in rows if r["family"] != family] + [row]
        write_rows(NAME, rows, keep=len(rows) - 1)
        rows = read_rows(NAME)


if __name__ == "__main__":
    main()
