"""What an export starts from: a network, its FP32 answers, and the samples that judge it."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from edgetl.bundle.manifest import Calibration, Provenance
from edgetl.inputs.base import Input, Pixels
from edgetl.spec import Normalize
from edgetl.tasks.base import Outputs, Task

UNLABELLED = "agreement"  # in place of a split's name: the samples that judge have no labels


class ValidationSet(NamedTuple):
    """The samples of the gate: uint8 `(N, H, W, 3)`, and what is true of them."""

    images: Pixels
    targets: Any | None  # of the task; None where nothing is known
    split: str  # "validation"; UNLABELLED without targets
    reference: Outputs | None = None  # of the images, where it is known already


class Source(Protocol):
    """A finished run, or somebody's ONNX file with photos."""

    task: Task
    input: Input
    normalize: Normalize

    def validation(self) -> ValidationSet:
        """The samples that decide what ships; none of them ever calibrates or trains."""

    def calibration(self, count: int) -> tuple[Pixels, Calibration]:
        """Up to `count` training samples, every class by its share, and their fingerprint.

        Fewer are always the first ones of more.
        """

    def held_out(self, count: int) -> Pixels:
        """Up to `count` training samples that `calibration` never gives: they choose ranges."""

    def reference(self, images: Pixels) -> Outputs:
        """FP32 outputs `(N, …)` of the network as it was given."""

    def canonical(self) -> bytes:
        """The network as the canonical ONNX that `check_onnx` accepts."""

    def provenance(self, versions: dict[str, str], max_drop: float) -> Provenance:
        """Where the network came from; `versions` are the tools that the export used."""
