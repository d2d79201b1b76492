"""Somebody else's ONNX classifier in ONNX Runtime, as it was given."""

from __future__ import annotations

import copy
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx

from edgetl.engines.base import first_line
from edgetl.errors import TraceError
from edgetl.exporter.onnx.checks import FLOAT, FLOAT16, UINT8, host_runtime
from edgetl.exporter.onnx.importing.file import called
from edgetl.exporter.onnx.passes import refill
from edgetl.inputs.base import Pixels
from edgetl.metrics import Logits
from edgetl.spec import Normalize

TYPES = {FLOAT: np.float32, FLOAT16: np.float16, UINT8: np.uint8}

_BATCH = 16


class Given(NamedTuple):
    """An image classifier as it was given; only a Softmax at its end is cut off."""

    model: onnx.ModelProto  # as `read_file` gives it
    name: str  # of the file, for messages
    sha256: str  # of the file, and of its external data after it
    opset: int
    input: str
    output: str  # as the file calls it
    dtype: int  # of the input, ONNX's number
    layout: Literal["nchw", "nhwc"]
    batch: int  # 0 where any is possible
    height: int
    width: int
    classes: int
    notes: tuple[str, ...]


class GivenNetwork:
    """The given file in ONNX Runtime, in its own types and layout."""

    def __init__(self, given: Given) -> None:
        """Raises TraceError when ONNX Runtime cannot load the file."""
        opened = host_runtime("A given ONNX model")
        self.given = given
        try:
            self._session = opened(given.model.SerializeToString())
        except Exception as error:  # its exceptions share no public base class
            raise TraceError(
                f"ONNX Runtime cannot load {given.name}: {first_line(error)}",
                fix="export the model again, self-contained and at opset 17.",
            ) from error

    def logits(self, images: Pixels, normalize: Normalize) -> Logits:
        """Logits float32 `(N, classes)` of images uint8 `(N, H, W, 3)`.

        Raises TraceError when the file fails on them.
        """
        step = self.given.batch or _BATCH
        parts = [images[i : i + step] for i in range(0, len(images), step)]
        rows = np.concatenate([self.answer(part, normalize) for part in parts])
        return rows.reshape(len(rows), -1).astype(np.float32)

    def answer(self, images: Pixels, normalize: Normalize) -> Any:
        """What the file itself returns for a few images: an array, of a classifier."""
        result = self.answers(images, normalize)[0]
        return result[: len(images)] if isinstance(result, np.ndarray) else result

    def answers(self, images: Pixels, normalize: Normalize) -> list[Any]:
        """All outputs for a few images, which a fixed batch fills up with the last one."""
        if self.given.batch:
            rows = np.minimum(np.arange(self.given.batch), len(images) - 1)
            images = images[rows]
        block: Any = images
        if self.given.dtype != UINT8:
            mean, std = np.asarray(normalize.mean), np.asarray(normalize.std)
            block = (images - (255 * mean).astype(np.float32)) / (255 * std).astype(np.float32)
        if self.given.layout == "nchw":
            block = block.transpose(0, 3, 1, 2)
        block = np.ascontiguousarray(block, TYPES[self.given.dtype])
        try:
            return list(self._session.run(None, {self.given.input: block}))
        except Exception as error:
            raise TraceError(
                f"{self.given.name} fails on {self.given.height}x{self.given.width} pixels: "
                f"{first_line(error)}",
                fix="give the --size and --layout that the model was made for.",
            ) from error


def first_not_finite(given: Given, image: Pixels, normalize: Normalize) -> str:
    """The first node whose result is NaN, else infinite, on an image `(1, H, W, 3)`."""
    watched = copy.deepcopy(given.model)
    graph = watched.graph
    nodes = {output: node for node in graph.node for output in node.output if output}
    refill(graph.output, [onnx.ValueInfoProto(name=name) for name in nodes])
    values = GivenNetwork(given._replace(model=watched)).answers(image, normalize)
    for bad in (np.isnan, np.isinf):
        for node, value in zip(nodes.values(), values, strict=True):
            if getattr(value, "dtype", np.dtype(int)).kind == "f" and bad(value).any():
                return called(node)
    return called(graph.node[-1])
