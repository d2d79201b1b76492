"""The task: two outputs, boxes that go back to the photo's own pixels, a score of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from edgetl.data.found import Found, Scan
from edgetl.errors import DataError
from edgetl.inputs.base import Geometry
from edgetl.metrics import divergences, softmax
from edgetl.spec import Fit, Photo, Record, Split
from edgetl.tasks.base import Evaluation, Metric, Output, Outputs, Task
from edgetl_blobs.read import Grey

BOXES, KINDS = "boxes", "kinds"  # corners as shares of the input's sides; logits
TABLE = "boxes.json"
SIDE = 64


Box = tuple[float, float, float, float]
WRITE = f"write {TABLE}: a list of rows with path, label, box and, if you like, split."


class Row(Record, frozen=True, kw_only=True):
    """What is true of a photo."""

    path: str
    label: str
    box: Box
    split: Split | None = None


class Blob(Record, frozen=True, kw_only=True):
    """A result: where it is in the photo's pixels (left, top, right, bottom), and what it is."""

    label: str
    probability: float
    box: Box


class Blobs(Record, Task, frozen=True, kw_only=True, tag="blobs"):
    """`boxes` `(N, 4)` and `kinds` `(N, classes)`; judged by how far boxes overlap (IoU)."""

    labels: tuple[str, ...]
    side: int  # of the square input, in pixels

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("iou", "IoU", gated=1.0),)
    unit: ClassVar[str] = "of a side and nats"
    per_drop: ClassVar[float] = 1.0
    parity: ClassVar[float] = 1e-3

    @classmethod
    def scan(cls, root: Path, table: str = "", **_: Any) -> Scan:
        """The rows of boxes.json."""
        try:
            rows = msgspec.json.decode((root / TABLE).read_bytes(), type=list[Row])
        except OSError as error:
            raise DataError(f"{root} has no {TABLE}: {error.strerror}.", fix=WRITE) from error
        except msgspec.DecodeError as error:
            raise DataError(f"{root / TABLE}: {error}.", fix=WRITE) from error
        return Scan(
            photos=tuple(
                Found(path=r.path, label=r.label, split=r.split, target=r.box) for r in rows
            )
        )

    @classmethod
    def reads(cls, size: int, fit: Fit, depth: int) -> Grey:
        """All of each photo, always at one size: the network is made for it."""
        return Grey(side=SIDE)

    @classmethod
    def of(cls, found: Sequence[Found], root: Path) -> Blobs:
        """Its labels."""
        return cls(labels=tuple(sorted({item.label for item in found})), side=SIDE)

    def targets(
        self, samples: Sequence[Photo | Found], geometries: Sequence[Geometry]
    ) -> npt.NDArray[np.float32]:
        """`(N, 5)`: the box as shares of the input's sides, and the number of the kind."""
        rows = []
        for sample, geometry in zip(samples, geometries, strict=True):
            corners = geometry.to_input(np.reshape(sample.target, (2, 2)).astype(np.float64))
            rows.append([*(corners / self.side).ravel(), self.labels.index(sample.label)])
        return np.array(rows, np.float32)

    def outputs(self) -> tuple[Output, ...]:
        """Two."""
        return (
            Output(name=BOXES, shape=(4,)),
            Output(name=KINDS, shape=(len(self.labels),)),
        )

    def evaluate(self, outputs: Outputs, targets: Any, settings: Any = None) -> Evaluation:
        """Mean IoU."""
        return Evaluation(
            metrics={"iou": float(overlap(outputs[BOXES], targets[:, :4]).mean())},
            n=len(targets),
            labels=self.labels,
        )

    def loss(self, outputs: Outputs, targets: Any) -> float:
        """Mean distance of corners."""
        return float(np.abs(outputs[BOXES] - targets[:, :4]).mean())

    def distance(self, reference: Outputs, outputs: Outputs) -> npt.NDArray[np.float64]:
        """How far corners moved, and kinds by divergence."""
        moved = np.abs(outputs[BOXES] - reference[BOXES]).mean(axis=1).astype(np.float64)
        return np.asarray(moved + divergences(reference[KINDS], outputs[KINDS]))

    def agreement(
        self, reference: Outputs, outputs: Outputs, fitted: tuple[Any, Any] = (None, None)
    ) -> npt.NDArray[np.bool_]:
        """The same kind, at nearly the same place."""
        same = outputs[KINDS].argmax(axis=1) == reference[KINDS].argmax(axis=1)
        return np.asarray(same & (overlap(outputs[BOXES], reference[BOXES]) > 0.5))

    def decode(
        self, outputs: Outputs, settings: Any, geometry: Geometry, *, top: int
    ) -> tuple[Blob, ...]:
        """One blob."""
        corners = geometry.to_photo(outputs[BOXES].reshape(2, 2) * float(self.side))
        box: Any = tuple(corners.ravel().tolist())
        chance = softmax(outputs[KINDS])[0]
        best = int(chance.argmax())
        return (Blob(label=self.labels[best], probability=float(chance[best]), box=box),)

    def answers(self, outputs: Outputs, settings: Any) -> list[str]:
        """Its kind."""
        return [self.labels[i] for i in outputs[KINDS].argmax(axis=1)]

    def draw(self, image: Image.Image, predictions: Sequence[Blob]) -> Image.Image:
        """Boxes with their labels."""
        drawn = image.convert("RGB").copy()
        pen = ImageDraw.Draw(drawn)
        for blob in predictions:
            pen.rectangle(blob.box, outline="red", width=2)
            pen.text(blob.box[:2], blob.label, "red")
        return drawn


def overlap(boxes: Any, other: Any) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes `(N, 4)`, by row."""
    low, high = np.maximum(boxes[:, :2], other[:, :2]), np.minimum(boxes[:, 2:], other[:, 2:])
    both = np.maximum(high - low, 0).prod(axis=1)
    areas = [np.maximum(b[:, 2:] - b[:, :2], 0).prod(axis=1) for b in (boxes, other)]
    return np.asarray(both / np.maximum(areas[0] + areas[1] - both, 1e-9), np.float64)
