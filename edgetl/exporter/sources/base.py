"""What an export starts from: a network, its FP32 answers, and the photos that judge it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edgetl.inputs.image import Pixels
from edgetl.metrics import Logits
from edgetl.spec import Calibration, Normalize, Preprocess, Provenance

Truth = npt.NDArray[np.int64]
UNLABELLED = "agreement"  # in place of a split's name: the photos that judge have no labels


class ValidationSet(NamedTuple):
    """The photos of the gate: uint8 `(N, size, size, 3)` and their classes `(N,)`."""

    images: Pixels
    truth: Truth
    split: str  # "validation"; UNLABELLED when the photos have no labels: truth is the reference's


class Source(Protocol):
    """A finished run, or somebody's ONNX file with photos."""

    labels: tuple[str, ...]
    preprocess: Preprocess
    normalize: Normalize

    def validation(self) -> ValidationSet:
        """The photos that decide what ships; none of them ever calibrates or trains."""
        ...

    def calibration(self, count: int) -> tuple[Pixels, Calibration]:
        """Up to `count` training photos, every class by its share, and their fingerprint."""
        ...

    def held_out(self, count: int) -> Pixels:
        """Up to `count` training photos that `calibration` never gives: they choose ranges."""
        ...

    def reference(self, images: Pixels) -> Logits:
        """FP32 logits `(N, classes)` of the network as it was given."""
        ...

    def canonical(self) -> bytes:
        """The network as the canonical ONNX that `check_onnx` accepts."""
        ...

    def provenance(self, versions: dict[str, str], max_drop: float) -> Provenance:
        """Where the network came from; `versions` are the tools that the export used."""
        ...
