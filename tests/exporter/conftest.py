"""A network like MobileNet's blocks as the canonical ONNX, for tests of quantizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from edgetl.exporter.onnx.trace import trace
from edgetl.inputs.image import sized
from edgetl.spec import Normalize

SIZE = 48


class Block(nn.Module):
    """MobileNet-like: expand, depthwise, project, add."""

    def __init__(self, width: int, act: type[nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o, k, g in ((width, 32, 1, 1), (32, 32, 3, 32), (32, width, 1, 1)):
            layers += [
                nn.Conv2d(i, o, k, 1, k // 2, groups=g, bias=False),
                nn.BatchNorm2d(o),
                act(),
            ]
        self.body = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def draw_pictures(count: int, seed: int = 0) -> np.ndarray:
    """Random smooth pictures, uint8 `(count, SIZE, SIZE, 3)`."""
    small = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(s).resize((SIZE, SIZE))) for s in small])


@pytest.fixture(scope="session")
def pictures() -> Callable[..., np.ndarray]:
    """`draw_pictures`: `pictures(24)`, `pictures(40, seed=1)`."""
    return draw_pictures


@pytest.fixture(scope="session")
def blocks_canonical() -> bytes:
    """The model of a stem, a block with ReLU6, one with HardSwish, and a classifier of 10."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stem = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
        end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
        model = nn.Sequential(*stem, Block(16, nn.ReLU6), Block(16, nn.Hardswish), *end)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    x = torch.from_numpy(draw_pictures(64)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        model.train()((x - 0.45) / 0.225)
    return trace(model.eval(), sized(SIZE), Normalize())


@pytest.fixture(scope="session")
def run_onnx() -> Callable[[bytes, np.ndarray], np.ndarray]:
    """Logits of an ONNX file by ONNX Runtime, whose integers overflow on no processor."""

    def run(data: bytes, images: np.ndarray) -> np.ndarray:
        config = onnxruntime.SessionOptions()
        config.add_session_config_entry("session.x64quantprecision", "1")
        session = onnxruntime.InferenceSession(data, config, providers=["CPUExecutionProvider"])
        return session.run(["logits"], {"images": images})[0]

    return run


@pytest.fixture(scope="session")
def deviation() -> Callable[[np.ndarray, np.ndarray], float]:
    """Mean deviation relative to how much the logits vary between images."""

    def of(ours: np.ndarray, reference: np.ndarray) -> float:
        return float(np.abs(ours - reference).mean() / (reference - reference.mean(0)).std())

    return of


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of the test's own for temporary files, which must be left empty."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield
    assert not list(tmp_path.iterdir())
