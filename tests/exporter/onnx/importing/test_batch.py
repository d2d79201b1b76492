"""Files for one image, as torch exports by default, work for any number afterwards."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgetl.exporter.onnx.importing.given import read_given
from edgetl.telemetry import quiet
from tests.exporter.given import (
    CLASSES,
    SIZE,
    body,
    build,
    head,
    imported,
    kinds,
    node,
    pictures,
    run_canonical,
    same,
)


class Tokens(nn.Module):
    """A class token, position embeddings, and one attention over patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.out = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, CLASSES)
        self.token, self.place = (nn.Parameter(torch.randn(1, n, 16)) for n in (1, 17))
        self.mix, self.join = nn.Linear(16, 48), nn.Linear(16, 16)

    def embed(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place


class HeadsFirst(Tokens):
    """timm's way: query, key and value by one reshape, heads before tokens."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, count, width = x.shape
        q, k, v = self.mix(x).reshape(n, count, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        seen = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out((x + self.join(seen.transpose(1, 2).reshape(n, count, width)))[:, 0])


class TokensFirst(Tokens):
    """torch's own layer for sequences: tokens before images, images beside heads."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.embed(x).transpose(0, 1)).mean(0))


class Rows(Tokens):
    """Tokens of all images as rows of one matrix."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, count, width = x.shape
        return self.out(self.join(x.reshape(n * count, width)).reshape(n, count, width).mean(1))


class Windows(Tokens):
    """Swin's way: windows beside images."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        n, side, _, width = x.shape
        cut = x.view(n, 2, side // 2, 2, side // 2, width).permute(0, 1, 3, 2, 4, 5)
        rows = cut.reshape(n * 4, -1, width)
        rows = rows + self.join(rows.softmax(1))
        back = rows.view(n, 2, 2, side // 2, side // 2, width).permute(0, 1, 3, 2, 4, 5)
        return self.out(back.reshape(n, side, side, width).mean((1, 2)))


class Grown(Tokens):
    """An image enlarged to a stated size, and coordinates beside it."""

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.interpolate(self.patch(x), size=(7, 7), mode="bilinear")
        line = torch.linspace(-1, 1, 7)[None, None, :, None].expand(len(x), 1, 7, 7)
        return self.out(torch.cat([x[:, :15], line], 1).relu().mean((2, 3)))


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("kind", [HeadsFirst, TokensFirst, Rows, Windows, Grown])
def test_torchs_default_export(single: None, kind: type[nn.Module], dynamo: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, buffer = kind().eval(), io.BytesIO()
    example, options = torch.zeros(1, 3, SIZE, SIZE), dict[str, Any](input_names=["x"])
    with quiet():
        if dynamo:
            made = torch.onnx.export(network, (example,), verbose=False, dynamo=True, **options)
            data = made.model_proto.SerializeToString()
        else:
            torch.onnx.export(
                network, (example,), buffer, dynamo=False, opset_version=17, **options
            )
            data = buffer.getvalue()
    assert read_given(data).batch == 1
    same(data)


def test_a_constant_beside_the_image_is_repeated() -> None:
    """A plane of ones as a fourth channel, of which three are read."""
    joined = node("Concat", ["one", "x"], ["j"], axis=1)
    cut = node("Slice", ["j", "from", "until", "axes"], ["s"])
    extra = {"one": np.ones((1, 1, SIZE, SIZE), np.float32)}
    extra |= {k: np.array([v], np.int64) for k, v in (("from", 0), ("until", 3), ("axes", 1))}
    same(build([joined, cut, *body("s")], shape=(1, 3, SIZE, SIZE), extra=extra))


def test_a_batch_of_four_is_freed() -> None:
    """The file itself answers four at a time only; `import_onnx` has compared all."""
    data = build([*body()[:2], *head()], shape=(4, 3, SIZE, SIZE), extra={"to": np.array([4, 8])})
    result = imported(data)
    assert run_canonical(result, pictures()).shape == (5, CLASSES)
    assert kinds(result)[-2:] == ["Flatten", "Gemm"]
