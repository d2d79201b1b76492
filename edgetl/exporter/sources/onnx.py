"""Somebody else's ONNX classifier as what an export starts from."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import edgetl
from edgetl.bundle.manifest import Calibration, Provenance
from edgetl.data.names import nfc, order_of_numbers
from edgetl.errors import DataError, UsageError
from edgetl.exporter.onnx.checks import UINT8
from edgetl.exporter.onnx.importing.given import read_given
from edgetl.exporter.onnx.importing.importer import AS_IT_IS, import_onnx
from edgetl.exporter.onnx.importing.run import Given, GivenNetwork
from edgetl.exporter.sources.base import UNLABELLED, ValidationSet
from edgetl.exporter.sources.folder import Folder
from edgetl.files import user_path
from edgetl.inputs.base import Input, Pixels
from edgetl.inputs.image import CROP, ImageInput
from edgetl.options import OnnxOptions
from edgetl.options.base import Colours
from edgetl.runs.samples import fingerprint
from edgetl.spec import Normalize, Photo, WeightsOrigin
from edgetl.tasks.base import DEFAULT_TASK, TASKS, Evaluation, Outputs

LICENCE = "unknown: the model was given"

_COMPARED = 8  # photos on which the canonical ONNX is compared with the given file

log = logging.getLogger("edgetl")


class OnnxSource:
    """The given network as canonical ONNX, its own answers as reference, and the user's photos.

    `warnings` are the sentences that were logged, `notes` what was changed in the graph.
    """

    def __init__(
        self,
        path: Path,
        calib: Path,
        options: OnnxOptions,
        *,
        seed: int = 0,
        progress: Callable[[str], None],
    ) -> None:
        """Read and rewrite the file, and check and split the photos of `calib`.

        `options` say how the file reads images. Raises UsageError for options that contradict the
        file or each other, TraceError for files that cannot become the canonical ONNX, DataError
        for photos or labels that do not fit.
        """
        self.warnings: list[str] = []
        progress(f"reading {path.name}")
        given = read_given(
            path, size=options.size, layout=options.layout or "auto", output=options.output
        )
        self.normalize = self._by_channel = self._normalization(given, options)
        if options.order == "bgr":  # the file's first channel is blue
            self._by_channel = Normalize(
                mean=self.normalize.mean[::-1], std=self.normalize.std[::-1]
            )
        self.input: Input = ImageInput(
            height=given.height,
            width=given.width,
            fit=options.fit or "crop",
            crop=options.crop_pct or CROP,
            interpolation=options.interpolation or "bilinear",
            order=options.order or "rgb",
        )
        stated = _read_labels(user_path(options.class_names), given) if options.class_names else ()
        progress(f"reading the photos in {calib}")
        self.folder = Folder(calib, self.input, labels=stated, seed=seed)
        self.warnings += self.folder.warnings
        names = stated or self._folder_labels(given)
        self.task = TASKS.find(DEFAULT_TASK)(labels=names)  # type: ignore[call-arg]
        self.labelled = bool(self.folder.classes) and set(self.folder.classes) <= set(names)
        progress(f"rewriting {given.name} and comparing it with the given file")
        photos, _ = self.folder.read(self.folder.of("calibration")[:_COMPARED])
        imported = import_onnx(given, normalize=self._by_channel, images=photos)
        self.given, self.notes, self._canonical = given, imported.notes, imported.canonical
        self._network = GivenNetwork(given)
        self._validation: ValidationSet | None = None

    def validation(self) -> ValidationSet:
        if self._validation is None:
            photos = self.folder.of("validation")
            images, geometries = self.folder.read(photos)
            self._validation = ValidationSet(images, None, UNLABELLED)
            if self.labelled:
                truth = self.task.targets(photos, geometries)
                known = self.reference(images)
                self._validation = ValidationSet(images, truth, "validation", known)
                self._doubt(self.task.evaluate(known, truth), photos)
        return self._validation

    def calibration(self, count: int) -> tuple[Pixels, Calibration]:
        chosen = self.folder.of("calibration")[:count]
        return self.folder.read(chosen)[0], Calibration(n=len(chosen), sha256=fingerprint(chosen))

    def held_out(self, count: int) -> Pixels:
        return self.folder.read(self.folder.of("held-out")[:count])[0]

    def reference(self, images: Pixels) -> Outputs:
        """Logits float32 of the given file itself; an end Softmax is left out."""
        return {self.task.outputs()[0].name: self._network.logits(images, self._by_channel)}

    def canonical(self) -> bytes:
        return self._canonical

    def provenance(self, versions: dict[str, str], max_drop: float) -> Provenance:
        return Provenance(
            edgetl=edgetl.__version__,
            created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            data_sha256=self.folder.sha256,
            weights=WeightsOrigin(
                source=self.given.name, sha256=self.given.sha256, licence=LICENCE
            ),
            config=None,
            versions=versions,
            strategy="given",
            max_drop=max_drop,
        )

    def _normalization(self, given: Given, options: OnnxOptions) -> Normalize:
        """What stands in front of the network, in units of 0…1."""
        mean, std, range_ = options.mean, options.std, options.range_ or 1
        if (mean is None) != (std is None):
            raise UsageError(
                f"--{'std' if mean is None else 'mean'} stands alone.",
                fix="give both --mean and --std, or neither.",
            )
        if given.dtype == UINT8:
            if mean in (None, (0, 0, 0)) and std in (None, (1, 1, 1)):
                return AS_IT_IS
            raise UsageError(
                f"{given.name} reads uint8, so pixels as they are; --mean and --std contradict it.",
                fix="leave --mean and --std away.",
            )
        if mean is None or std is None:
            if range_ == 255:
                return AS_IT_IS
            self._warn(
                f"{given.name} is fed with ImageNet's mean and deviation, because --mean and "
                "--std were not given."
            )
            return Normalize()
        _check_colours(mean, std, range_)
        red, green, blue = (value / range_ for value in mean)
        wide = [value / range_ for value in std]
        return Normalize(mean=(red, green, blue), std=(wide[0], wide[1], wide[2]))

    def _folder_labels(self, given: Given) -> tuple[str, ...]:
        """The class folders where they may be the outputs, else numbers."""
        classes = self.folder.classes
        if len(classes) == given.classes:
            for text in order_of_numbers(classes):
                self._warn(f"{text} --class-names FILE states another order of the outputs.")
            return classes
        self._warn(
            f"{given.name} has {given.classes} outputs and {self.folder.root} "
            f"{len(self.folder.classes) or 'no'} class folders: labels are numbers, and agreement "
            "with the given model decides instead of accuracy. --class-names FILE names them."
        )
        return tuple(f"class {number}" for number in range(given.classes))

    def _doubt(self, found: Evaluation, photos: list[Photo]) -> None:
        """Warn where the given model knows no more than the commonest class."""
        counts = Counter(photo.label for photo in photos)
        accuracy, most = found.primary, max(counts.values()) / counts.total()
        if accuracy <= most:
            self._warn(
                f"{self.given.name} is right on {accuracy:.1%} of the photos; always answering the "
                f"commonest class would be on {most:.1%}. Check --mean, --std, --range, --order "
                "and the order of the labels."
            )

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        log.warning(text)


def _check_colours(mean: Colours, std: Colours, range_: int) -> None:
    """UsageError for what cannot normalise RGB in 0…range_."""
    shown = f"--mean {_shown(mean)} --std {_shown(std)}"
    if not all(math.isfinite(v) for v in (*mean, *std)) or min(std) <= 0:
        raise UsageError(
            f"{shown} cannot normalise images.", fix="give finite numbers, and --std above 0."
        )
    if range_ == 1 and max(mean) > 1:
        raise UsageError(
            f"{shown} is not in units of 0…1.", fix="add --range 255, or divide them by 255."
        )
    if range_ == 255 and min(std) < 1:
        raise UsageError(
            f"{shown} is not in units of 0…255.", fix="leave --range away, or multiply by 255."
        )


def _shown(values: Colours) -> str:
    return ",".join(f"{value:g}" for value in values)


def _read_labels(path: Path, given: Given) -> tuple[str, ...]:
    """One label a line, in output order."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"Cannot read class names {path}: {getattr(error, 'strerror', None) or error}.",
            fix="give a UTF-8 text file with one label a line, in output order.",
        ) from error
    labels = tuple(nfc(line.strip()) for line in lines)
    while labels and not labels[-1]:
        labels = labels[:-1]
    if "" in labels:
        raise DataError(f"{path} line {labels.index('') + 1} is empty.", fix="remove the line.")
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        where = " and ".join(str(i) for i, label in enumerate(labels, 1) if label == twice[0])
        raise DataError(
            f"{path} names the class {twice[0]} in lines {where}.", fix="make labels distinct."
        )
    if len(labels) != given.classes:
        raise UsageError(
            f"{path} names {len(labels)} classes, but {given.name} has {given.classes} outputs.",
            fix="give one label a line, for every output and in its order.",
        )
    return labels
