"""The canonical ONNX equals the eager network, and every target can read it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F  # noqa: N812

from edgetl.errors import TraceError
from edgetl.exporter.onnx.checks import check_onnx, output_shapes
from edgetl.exporter.onnx.trace import trace
from edgetl.inputs.image import ImageInput, sized
from edgetl.spec import Normalize

NORMAL = Normalize()
SIZE = 64
FAST = ("mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "resnet18")
SLOW = (
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mnasnet0_5",
    "efficientnet_b0",
    "regnet_y_400mf",
    "densenet121",
)
NETWORKS = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


class BodyAndHead(nn.Module):
    """How edgetl joins a backbone without classifier to its own linear head."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class Tiny(nn.Module):
    """One convolution, then whatever `tail` does to its 8 channels."""

    def __init__(self, tail: Any) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.tail = tail

    def forward(self, x: torch.Tensor) -> Any:
        return self.tail(self, F.relu(self.norm(self.conv(x))))


def network(name: str) -> nn.Module:
    """Random weights, with batch statistics of noise: then logits differ between images."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None, num_classes=10)
    if name == "squeezenet1_1":
        model.classifier[1] = nn.Identity()
        model = BodyAndHead(model, 512)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    with torch.no_grad():
        model.train()(normalised(pictures(8)))
    return model.eval()


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def normalised(images: np.ndarray) -> torch.Tensor:
    norm = Normalize()
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    return (x - torch.tensor(norm.mean).view(3, 1, 1)) / torch.tensor(norm.std).view(3, 1, 1)


def assert_same(model: nn.Module, data: bytes) -> None:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 3):
        images = pictures(batch)
        with torch.no_grad():
            eager = model(normalised(images)).numpy()
        logits = session.run(["logits"], {"images": images})[0]
        assert logits.shape == eager.shape
        assert logits.dtype == np.float32
        assert np.abs(logits - eager).max() <= 1e-4 * np.ptp(eager)


@pytest.mark.parametrize("name", NETWORKS)
def test_network_equals_eager(name: str) -> None:
    """Ten backbones: equal logits at three batch sizes, plain operators only."""
    model = network(name)
    data = trace(model, sized(SIZE), Normalize())
    assert_same(model, data)
    check_onnx(data, max_opset=17, max_ir=8)
    graph = onnx.load_model_from_string(data).graph
    kinds = [n.op_type for n in graph.node]
    assert not {"Shape", "Gather", "Range", "Unsqueeze", "ReduceMean", "Identity"} & set(kinds)
    assert kinds.count("Flatten") == 1
    made_by = {n.output[0]: n.op_type for n in graph.node}
    norms = [n for n in graph.node if n.op_type == "BatchNormalization"]
    assert all(made_by[n.input[0]] != "Conv" for n in norms)
    assert name == "densenet121" or not norms


def test_starts_with_named_preprocessing() -> None:
    """TensorRT allows nothing but a cast on UINT8, and quantizers exclude by these names."""
    data = trace(network("squeezenet1_1"), sized(SIZE), Normalize())
    nodes = onnx.load_model_from_string(data).graph.node[:4]
    assert [n.op_type for n in nodes] == ["Cast", "Transpose", "Sub", "Mul"]
    steps = ("cast", "transpose", "subtract", "multiply")
    assert [n.name for n in nodes] == [f"preprocess/{s}" for s in steps]
    assert list(nodes[3].output) == ["normalized"]


def test_same_bytes_no_chatter_and_model_unchanged(capfd: pytest.CaptureFixture[str]) -> None:
    """A second trace gives the same file, nothing is printed, the caller's model is as it was."""
    model = network("squeezenet1_1").train()
    before = copy.deepcopy(model.state_dict())
    first = trace(model, sized(SIZE), Normalize())
    assert first == trace(model, sized(SIZE), Normalize())
    assert capfd.readouterr() == ("", "")
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert first != trace(model, sized(SIZE), Normalize(mean=(0.5, 0.5, 0.5)))


@pytest.mark.parametrize(
    "tail",
    [
        lambda m, x: m.head(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1)),
        lambda m, x: m.head(x.mean((2, 3))),
        lambda m, x: m.head(x.mean((-1, -2), keepdim=True).reshape(x.shape[0], -1)),
        lambda m, x: m.head(x.amax((2, 3)) + x.flatten(2).mean(2)),
        lambda m, x: m.head(torch.cat(x.chunk(2, 1)[::-1], 1).mean((2, 3))),
        lambda m, x: m.head(torch.cat(x.split([3, 5], 1)[::-1], 1).mean((2, 3))),
    ],
    ids=["adaptive", "mean", "mean-keepdim", "max-and-mean", "chunk", "split"],
)
def test_pooling_and_splitting(tail: Any) -> None:
    """Every usual way to pool or split is rewritten for opset 17 without changing the result."""
    torch.manual_seed(0)
    model = Tiny(tail).eval()
    assert_same(model, trace(model, sized(SIZE), Normalize()))


def test_refuses_what_opset_17_lacks() -> None:
    """A layer whose meaning changed after opset 17 is named, not miswritten."""
    model = Tiny(lambda m, x: m.head(F.interpolate(x, scale_factor=2.0).mean((2, 3)))).eval()
    with pytest.raises(TraceError, match=r"Resize .* changed between opset 17 and 18.*Fix: "):
        trace(model, sized(SIZE), Normalize())


def test_refuses_other_outputs_than_the_task_has() -> None:
    """One too many, and one too few."""
    model = Tiny(lambda m, x: (m.head(x.mean((2, 3))), x)).eval()
    with pytest.raises(TraceError, match="The network returns 2 tensors, not 1: logits"):
        trace(model, sized(SIZE), Normalize())
    model = Tiny(lambda m, x: m.head(x.mean((2, 3)))).eval()
    with pytest.raises(TraceError, match="The network returns 1 tensors, not 2: one, two"):
        trace(model, sized(SIZE), Normalize(), ("one", "two"))


def test_several_outputs_keep_their_names_and_shapes() -> None:
    """Of a tuple and of a dict, in the order that is asked for."""
    for tail in (
        lambda m, x: (m.head(x.mean((2, 3))), x),
        lambda m, x: {"logits": m.head(x.mean((2, 3))), "map": x},
    ):
        data = trace(
            Tiny(tail).eval(), ImageInput(height=SIZE, width=96), NORMAL, ("logits", "map")
        )
        graph = onnx.load_model_from_string(data).graph
        shapes = output_shapes(onnx.load_model_from_string(data))
        assert list(shapes) == ["logits", "map"]
        assert len(shapes["map"]) == 3
        assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim][1:3] == [SIZE, 96]


def test_refuses_control_flow_on_values() -> None:
    """What torch cannot export is a TraceError that names the network."""
    model = Tiny(lambda m, x: m.head(x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3)))).eval()
    with pytest.raises(TraceError, match="torch cannot export Tiny at 64x64 pixels"):
        trace(model, sized(SIZE), Normalize())


def test_refuses_a_fixed_batch() -> None:
    """A network that only works for one batch size is refused."""
    model = Tiny(lambda m, x: m.head(x.mean((2, 3)).reshape(2, 8))).eval()
    with pytest.raises(TraceError, match="for any N"):
        trace(model, sized(SIZE), Normalize())
