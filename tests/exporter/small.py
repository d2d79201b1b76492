"""A small network with every kind of part, as canonical ONNX and as given file, and its photos.

Its layers are those of a MobileNet: a stem, a squeeze-and-excite gate, depthwise layers, a sum. The
weights are random but for the classifier, which is fitted to drawn photos: it knows its classes.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgetl.bundle.manifest import Calibration, Provenance
from edgetl.exporter.context import BuildContext
from edgetl.exporter.onnx.checks import INPUT, NORMALIZED
from edgetl.exporter.onnx.importing.importer import OUTPUT
from edgetl.exporter.onnx.passes import finish, prepend, rename
from edgetl.exporter.sources.base import ValidationSet
from edgetl.files import sha256_bytes
from edgetl.inputs.image import sized
from edgetl.spec import Normalize
from edgetl.tasks.base import Outputs
from edgetl.tasks.classification import Classification

SIZE, WIDTH = 32, 16
LABELS = ("disc", "frame", "stripes")
NORMALIZE = Normalize()

Images = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]


def picture(label: int, seed: int) -> Images:
    """A bright shape of its class, anywhere, in any colour, on noise: uint8 `(SIZE, SIZE, 3)`."""
    rng = np.random.default_rng([seed, label])
    image = rng.integers(0, 90, (SIZE, SIZE, 3)).astype(np.float64)
    down, right = np.mgrid[:SIZE, :SIZE] - rng.integers(11, SIZE - 11, 2)[:, None, None]
    radius = int(rng.integers(7, 10))
    box = np.maximum(abs(down), abs(right)) <= radius
    shape = (
        down**2 + right**2 <= radius**2,
        box & (np.maximum(abs(down), abs(right)) > radius - 3),
        box & (right % 4 < 2),
    )[label]
    image[shape] = rng.integers(140, 256, 3)
    return image.astype(np.uint8)


def pictures(count: int, start: int = 0) -> Images:
    """Pictures `(count, SIZE, SIZE, 3)`, the classes in turn."""
    return np.stack([picture(i % 3, start + i) for i in range(count)])


def folder(root: Path, per_class: int = 12, start: int = 0) -> Path:
    """Class folders of pictures."""
    for number, label in enumerate(LABELS):
        (root / label).mkdir(parents=True)
        for index in range(per_class):
            image = Image.fromarray(picture(number, start + index))
            image.save(root / label / f"{index:02d}.png")
    return root


# --- the network ------------------------------------------------------------------------------


class Layers:
    """Nodes and weights in the making; every method returns the name of its result."""

    def __init__(self, source: str) -> None:
        self.source, self.nodes = source, list[onnx.NodeProto]()
        self.weights: dict[str, Array] = {}
        self.rng = np.random.default_rng(0)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        result = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [result], **attributes))
        return result

    def store(self, array: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array, np.float32)
        return name

    def conv(self, tensor: str, shape: tuple[int, ...], **attributes: Any) -> str:
        wide = self.rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        # Channels that differ in size, as trained ones do, are what makes 8 bits hurt.
        wide *= np.exp(self.rng.normal(0, 0.7, shape[:1]))[:, None, None, None]
        bias = 0.1 * self.rng.normal(size=shape[0])
        pads = [shape[2] // 2] * 4
        names = self.store(wide), self.store(bias)
        return self.add("Conv", tensor, *names, pads=pads, kernel_shape=shape[2:], **attributes)

    def gate(self, tensor: str) -> str:
        pooled = self.add("GlobalAveragePool", tensor)
        few = self.add("Relu", self.conv(pooled, (8, WIDTH, 1, 1)))
        opened = self.add("HardSigmoid", self.conv(few, (WIDTH, 8, 1, 1)), alpha=1 / 6)
        return self.add("Mul", tensor, opened)

    def block(self, tensor: str, kernel: int) -> str:
        deep = self.conv(tensor, (WIDTH, 1, kernel, kernel), group=WIDTH)
        six = self.store(0), self.store(6)
        active = self.add("Clip", deep, *six)
        return self.add("Add", tensor, self.conv(active, (WIDTH, WIDTH, 1, 1)))


@functools.cache
def layers(source: str = NORMALIZED, *, blocks: int = 4, fitted: bool = True) -> Layers:
    """The network from `source` `(N, 3, SIZE, SIZE)` to logits."""
    made = Layers(source)
    now = made.add("Relu", made.conv(source, (WIDTH, 3, 3, 3), strides=[2, 2]))
    for index in range(blocks):
        now = made.gate(now) if index == 1 else now
        now = made.block(now, 3 if index < 2 else 5)
    now = made.add("Relu", made.conv(now, (32, WIDTH, 3, 3), strides=[2, 2]))
    flat = made.add("Flatten", made.add("GlobalAveragePool", now))
    weight, bias = _head(blocks) if fitted else (np.eye(32), np.zeros(32))
    made.add("Gemm", flat, made.store(weight), made.store(bias), transB=1)
    made.nodes[-1].output[0] = OUTPUT
    return made


@functools.cache
def _head(blocks: int) -> tuple[Array, Array]:
    """A classifier by ridge regression on the features of pictures."""
    images = pictures(240, 5000)
    found = run(canonical(blocks=blocks, fitted=False), images).astype(np.float64)
    centre, spread = found.mean(axis=0), found.std(axis=0) + 1e-6
    inputs = (found - centre) / spread
    wanted = np.eye(3)[np.arange(len(images)) % 3] - 1 / 3
    weight = 8 * np.linalg.solve(inputs.T @ inputs + 5 * np.eye(32), inputs.T @ wanted).T
    weight = weight / spread
    return weight, -weight @ centre


@functools.cache
def canonical(*, blocks: int = 4, fitted: bool = True, normalize: Normalize = NORMALIZE) -> bytes:
    """The network as edgetl's canonical ONNX."""
    made = layers(blocks=blocks, fitted=fitted)
    model = _model(made, [helper.make_tensor_value_info(NORMALIZED, TensorProto.FLOAT, None)])
    rename(model.graph)
    prepend(model.graph, normalize)
    return finish(model.graph, (SIZE, SIZE, 3), {OUTPUT: (3 if fitted else 32,)})


@functools.cache
def given() -> bytes:
    """The same network as somebody's file: float32 `(N, 3, SIZE, SIZE)`, normalised, to logits."""
    value = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
    return bytes(_model(layers("pixels"), [value]).SerializeToString())


def _model(made: Layers, inputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        made.nodes,
        "small",
        inputs,
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", "classes"])],
        [numpy_helper.from_array(array, name) for name, array in made.weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: bytes, images: Images, output: str = OUTPUT) -> npt.NDArray[np.float32]:
    """What ONNX Runtime makes of images with such a file; `output` may be any tensor in it."""
    import onnxruntime

    config = onnxruntime.SessionOptions()
    config.log_severity_level = 3
    if output != OUTPUT:
        opened = onnx.load_model_from_string(model)
        opened.graph.output.append(helper.make_empty_tensor_value_info(output))
        model = opened.SerializeToString()
    session = onnxruntime.InferenceSession(model, config, providers=["CPUExecutionProvider"])
    result: npt.NDArray[np.float32] = session.run([output], {INPUT: images})[0]
    return result


@functools.cache
def backbone(name: str, size: int = 64) -> tuple[bytes, Any]:
    """(canonical, network) of a real backbone with random weights and the statistics of `noise`."""
    import torch

    from edgetl.exporter.onnx.trace import trace
    from edgetl.train.backbones import build_network

    network = build_network(name, 5, "logits", seed=0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for module in network.eval().modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train().momentum = None  # the mean of what it sees: one block of noise
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.uniform_(module.bias, -0.3, 0.3)
        mean, std = (255 * np.reshape(v, (1, 3, 1, 1)) for v in (NORMALIZE.mean, NORMALIZE.std))
        seen = (noise(8, size).transpose(0, 3, 1, 2) - mean) / std
        network(torch.from_numpy(seen.astype(np.float32)))
    return trace(network.eval(), sized(size), NORMALIZE), network


def noise(count: int, size: int = 64) -> Images:
    """Noise `(count, size, size, 3)`."""
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8)


# --- as a source ------------------------------------------------------------------------------


class SmallSource:
    """A canonical ONNX with pictures; every other member is as an export sees it."""

    task = Classification(labels=LABELS)
    input, normalize = sized(SIZE, "squash"), NORMALIZE

    def __init__(self, model: bytes, photos: int = 96, held: int = 24) -> None:
        self.model, self.asked = model, list[int]()
        self.photos, self.held = pictures(photos), pictures(held, 9000)

    def validation(self) -> ValidationSet:
        images = pictures(60, 7000)
        return ValidationSet(images, np.arange(60) % 3, "validation")

    def calibration(self, count: int) -> tuple[Images, Calibration]:
        self.asked.append(count)
        chosen = self.photos[:count]
        return chosen, Calibration(n=len(chosen), sha256=sha256_bytes(chosen.tobytes()))

    def held_out(self, count: int) -> Images:
        return self.held[:count]

    def reference(self, images: Images) -> Outputs:
        return {"logits": run(self.model, images)}

    def canonical(self) -> bytes:
        return self.model

    def provenance(self, versions: dict[str, str], max_drop: float) -> Provenance:
        raise NotImplementedError("no test of parts writes a bundle")


def context(*, photos: int = 96, model: bytes | None = None) -> BuildContext:
    """What candidates of the small network are made from."""
    model = model or canonical()
    return BuildContext(SmallSource(model, photos), model)
