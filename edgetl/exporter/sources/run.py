"""A finished run as what an export starts from."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np

import edgetl
from edgetl.bundle.manifest import Calibration, Provenance
from edgetl.exporter.onnx.trace import trace
from edgetl.exporter.sources.base import ValidationSet
from edgetl.inputs.base import Pixels
from edgetl.runs.folder import finished_run
from edgetl.runs.samples import RunPhotos, fingerprint
from edgetl.tasks.base import Outputs
from edgetl.train.backbones import fused
from edgetl.train.infer import load_network, reference_outputs

HELD_OUT = 64  # at most a quarter of the training photos, but at least one


class RunSource:
    """The run's network, and its photos from their own files."""

    def __init__(self, home: Path, moved_to: str = "") -> None:
        """Raises RunError for what is no finished run, DataError when photos are missing."""
        self.record = finished_run(home)
        self.task = self.record.task
        self.input, self.normalize = self.record.input, self.record.normalize
        self.photos = RunPhotos(home, self.record, moved_to)
        self.model = load_network(home, self.record)
        ranked = self.photos.ranked("train")
        out = min(HELD_OUT, max(1, len(ranked) // 4))
        self._kept, self._out = ranked[:-out] or ranked, ranked[-out:]
        self._read = self.photos.read([])[0]  # the first of `_kept`

    def validation(self) -> ValidationSet:
        chosen = self.photos.of("validation")
        images, geometries = self.photos.read(chosen)
        return ValidationSet(images, self.task.targets(chosen, geometries), "validation")

    def calibration(self, count: int) -> tuple[Pixels, Calibration]:
        chosen = self._kept[:count]
        if more := chosen[len(self._read) :]:
            self._read = np.concatenate([self._read, self.photos.read(more)[0]])
        return self._read[: len(chosen)], Calibration(n=len(chosen), sha256=fingerprint(chosen))

    def held_out(self, count: int) -> Pixels:
        return self.photos.read(self._out[:count])[0]

    def reference(self, images: Pixels) -> Outputs:
        return reference_outputs(self.model, self.record, images)

    def canonical(self) -> bytes:
        names = tuple(output.name for output in self.task.outputs())
        network = fused(self.model, self.record.config.backbone)
        return trace(network, self.input, self.normalize, names)

    def provenance(self, versions: dict[str, str], max_drop: float) -> Provenance:
        record = self.record
        return Provenance(
            edgetl=edgetl.__version__,
            created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            data_sha256=record.data.sha256,
            weights=record.weights_origin,
            # a bundle says nothing of the photos but counts and hashes, so not where they lay
            config=msgspec.structs.replace(
                record.config, data="", labels=None, weights=Path(record.config.weights).name
            ),
            versions=record.versions | versions,
            strategy=record.strategy,
            max_drop=max_drop,
            test=record.test,
        )
