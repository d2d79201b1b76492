"""A backbone with random weights as the start of an export: for latency, never for accuracy."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from edgetl.bundle.manifest import Calibration, Provenance
from edgetl.data.walk import images_in
from edgetl.errors import DataError
from edgetl.exporter.onnx.trace import trace
from edgetl.exporter.sources.base import UNLABELLED, ValidationSet
from edgetl.inputs.base import Input, Pixels
from edgetl.inputs.image import ImageInput
from edgetl.spec import Normalize, WeightsOrigin
from edgetl.tasks.base import Outputs, Task
from edgetl.tasks.classification import Classification
from edgetl.train.backbones import build_network
from edgetl.train.infer import forward_rows

CLASSES = 10
PHOTOS = 448


class RandomSource:
    """The network, and photos that only stand in for inputs."""

    def __init__(self, backbone: str, data: Path) -> None:
        self.task: Task = Classification(labels=tuple(f"class {i}" for i in range(CLASSES)))
        self.input: Input = ImageInput()
        self.normalize = Normalize()
        self.model = build_network(backbone, CLASSES, "logits", seed=0).eval()
        found = images_in(data / "train")
        if len(found) < PHOTOS:
            raise DataError(f"{data} holds {len(found)} training photos.", fix=f"{PHOTOS} at least")
        chosen = found[:: len(found) // PHOTOS][:PHOTOS]
        self.images = np.stack([self.input.read(path).pixels for path in chosen])

    def validation(self) -> ValidationSet:
        return ValidationSet(self.images[:20], None, UNLABELLED)

    def calibration(self, count: int) -> tuple[Pixels, Calibration]:
        images = self.images[84:][:count]
        digest = hashlib.sha256(images.tobytes()).hexdigest()
        return images, Calibration(n=len(images), sha256=digest)

    def held_out(self, count: int) -> Pixels:
        return self.images[20:84][:count]

    def reference(self, images: Pixels) -> Outputs:
        rows = np.arange(len(images), dtype=np.int64)
        return forward_rows(self.model, images, rows, self.normalize, device="cpu", fold=False)

    def canonical(self) -> bytes:
        return trace(self.model, self.input, self.normalize)

    def provenance(self, versions: dict[str, str], max_drop: float) -> Provenance:
        return Provenance(
            edgetl="benchmark",
            created_utc="",
            data_sha256="0" * 64,
            weights=WeightsOrigin(source="random initialisation"),
            config=None,
            versions=versions,
            strategy="random",
            max_drop=max_drop,
        )
