"""What candidates are made from: the canonical ONNX, and photos with their FP32 answers."""

from __future__ import annotations

from edgetl.bundle.manifest import Calibration
from edgetl.exporter.quantize.calibration import Ranges, activation_ranges, float_tensors
from edgetl.exporter.sources.base import Source
from edgetl.inputs.base import Pixels
from edgetl.spec import Calibrator, Recipe
from edgetl.tasks.base import Outputs

HELD_OUT = 64  # photos that choose among calibrations and placements


class BuildContext:
    """Everything that is computed once for all candidates of one canonical ONNX."""

    def __init__(self, source: Source, canonical: bytes) -> None:
        self.source, self.canonical = source, canonical
        self.trained: Ranges = {}  # by quantization-aware training, where there was any
        self.used: Calibration | None = None  # the largest set that calibrated something
        self._photos: dict[int, Pixels] = {}
        self._sets: dict[int, Calibration] = {}
        self._held: tuple[Pixels, Outputs] | None = None
        self._ranges: dict[tuple[int, frozenset[Calibrator]], dict[Calibrator, Ranges]] = {}

    def with_trained(self, canonical: bytes, ranges: Ranges) -> BuildContext:
        """The same photos for a canonical ONNX from quantization-aware training, and its ranges."""
        other = BuildContext(self.source, canonical)
        other._photos, other._sets = self._photos, self._sets
        other._held = self._held
        # a range of nothing but 0 was not rounded to in training; calibration may know better
        other.trained = {name: ends for name, ends in ranges.items() if ends[1] > ends[0]}
        return other

    def photos(self, count: int) -> Pixels:
        """Up to `count` training photos `(N, size, size, 3)` that may calibrate."""
        if count not in self._photos:
            self._photos[count], self._sets[count] = self.source.calibration(count)
        return self._photos[count]

    def calibrate(self, count: int) -> tuple[Pixels, Calibration]:
        """The same, put on record as having calibrated something; and their fingerprint."""
        images = self.photos(count)
        if self.used is None or self._sets[count].n > self.used.n:
            self.used = self._sets[count]
        return images, self._sets[count]

    def held_out(self) -> tuple[Pixels, Outputs]:
        """Training photos that never calibrate, and their FP32 outputs."""
        if self._held is None:
            images = self.source.held_out(HELD_OUT)
            self._held = images, self.source.reference(images)
        return self._held

    def ranges_of(self, recipe: Recipe) -> dict[Calibrator, Ranges]:
        """Ranges of all that the network computes in float32, by the methods that a recipe tries.

        Trained ones go first. All methods are collected together.
        """
        images, _ = self.calibrate(recipe.calibration_images)
        key = len(images), frozenset(self.methods(recipe))
        if key not in self._ranges:
            names = float_tensors(self.canonical)
            found = activation_ranges(self.canonical, images, names, methods=tuple(sorted(key[1])))
            self._ranges[key] = {method: found[method] | self.trained for method in found}
        return self._ranges[key]

    def methods(self, recipe: Recipe) -> tuple[Calibrator, ...]:
        """Calibration methods to try: of trained integers only what they were trained with."""
        return ("minmax",) if self.trained else recipe.calibration or ("minmax",)
