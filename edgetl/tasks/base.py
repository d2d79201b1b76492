"""What differs between tasks: targets, outputs, results, scores. Nothing here needs torch.

A task is a frozen struct with a `type` tag, which a run and a bundle store whole. What training
adds to it is its twin in edgetl/train/tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from edgetl.data.found import Found, Scan
from edgetl.data.names import nfc
from edgetl.errors import DataError
from edgetl.inputs.base import INPUTS, Geometry, Input
from edgetl.inputs.image import sized
from edgetl.metrics import Interval, bootstrap_rows
from edgetl.registry import Registry
from edgetl.spec import Fit, Photo, Record, Size
from edgetl.tasks.drawing import write_on
from edgetl.tasks.scores import (
    ClassDrop,
    ClassScore,
    Evaluation,
    Metric,
    Mistake,
    Output,
    Prediction,
    Result,
    Score,
)

__all__ = [
    "DEFAULT_TASK",
    "TASKS",
    "ClassDrop",
    "ClassScore",
    "Evaluation",
    "Flags",
    "Metric",
    "Mistake",
    "Output",
    "Outputs",
    "Prediction",
    "Result",
    "Score",
    "Task",
    "Values",
    "counted",
    "decode_stored",
    "finite",
    "join",
    "take",
]

Outputs = Mapping[str, npt.NDArray[np.float32]]  # arrays (N, …) by output
Values = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
RESAMPLES = 200


class Unit(Record, frozen=True, kw_only=True):
    """Settings of a task that fits none."""


class Task:
    """Base of all tasks; what raises NotImplementedError has to be defined."""

    __slots__ = ()

    Settings: ClassVar[type[Record]] = Unit  # what `fit` returns and a candidate stores
    metrics: ClassVar[tuple[Metric, ...]]  # the primary one first
    unit: ClassVar[str] = "nats"  # of `distance`
    per_drop: ClassVar[float] = 0.3  # distance that one whole unit of --max-drop allows
    parity: ClassVar[float] = 1e-4  # distance that FP32 rounding explains
    labels: tuple[str, ...]  # its classes

    @property
    def name(self) -> str:
        """How the registries call it."""
        return str(self.__struct_config__.tag)  # type: ignore[attr-defined]  # of every struct

    # --- data ---------------------------------------------------------------------------------

    @classmethod
    def scan(cls, root: Path, table: str = "", **options: Any) -> Scan:
        """Find samples and targets in a data folder, or by a table; options of data.scan.scan."""
        raise NotImplementedError

    @classmethod
    def of(cls, found: Sequence[Found], root: Path) -> Task:
        """The task of what was found; DataError where nothing can be learnt from it."""
        raise NotImplementedError

    @classmethod
    def reads(cls, size: Size, fit: Fit, depth: int) -> Input:
        """The input that a network for it is trained with, of `finetune`'s options."""
        return sized(size, fit, depth)

    @staticmethod
    def classes_of(sample: Photo | Found) -> tuple[str, ...]:
        """The classes that a sample shows."""
        return (sample.label,)

    def targets(self, samples: Sequence[Photo | Found], geometries: Sequence[Geometry]) -> Any:
        """What is true of samples, as an array or list by row, in the input's own pixels."""
        raise NotImplementedError

    # --- outputs ------------------------------------------------------------------------------

    def outputs(self) -> tuple[Output, ...]:
        """What the network returns; a file's outputs have these names."""
        raise NotImplementedError

    def evaluate(self, outputs: Outputs, targets: Any, settings: Any = None) -> Evaluation:
        """Every metric, over all samples."""
        raise NotImplementedError

    def loss(self, outputs: Outputs, targets: Any) -> float:
        """Mean loss, which decides among equals: lower is better."""
        raise NotImplementedError

    def rank(self, metrics: Mapping[str, float], loss: float) -> tuple[float, float]:
        """What is greater where a network is better: the primary metric, then the loss."""
        first = self.metrics[0]
        return metrics[first.name] * (-1 if first.rises else 1), -loss

    def distance(self, reference: Outputs, outputs: Outputs) -> Values:
        """How far outputs are from the reference's, by sample `(N,)`, in `unit`; 0 is the same."""
        raise NotImplementedError

    def agreement(
        self, reference: Outputs, outputs: Outputs, fitted: tuple[Any, Any] = (None, None)
    ) -> Flags:
        """Whether a user gets the same answer, by sample `(N,)`; `fitted` are their settings."""
        raise NotImplementedError

    def compare(self, outputs: Outputs, reference: Outputs, targets: Any) -> dict[str, Score]:
        """Each metric beside the reference's, with paired intervals: by bootstrap, where no
        formula is known."""
        pair = [(found, self.fit(found, targets)) for found in (outputs, reference)]
        mine, other = (self._values(found, targets, fitted) for found, fitted in pair)
        samples: dict[str, list[float]] = {metric.name: [] for metric in self.metrics}
        for rows in bootstrap_rows(len(targets), RESAMPLES):
            part = targets[rows] if isinstance(targets, np.ndarray) else [targets[i] for i in rows]
            one, two = (self._values(take(found, rows), part, fitted) for found, fitted in pair)
            for metric in self.metrics:
                samples[metric.name].append(_drop(metric, one, two))
        return {
            metric.name: Score(
                value=mine[metric.name],
                reference=other[metric.name],
                drop=_drop(metric, mine, other),
                interval=_quantiles(samples[metric.name]),
            )
            for metric in self.metrics
        }

    def _values(self, outputs: Outputs, targets: Any, settings: Any) -> dict[str, float]:
        found = dict(self.evaluate(outputs, targets, settings).metrics)
        if any(metric.name == "loss" for metric in self.metrics):
            found["loss"] = self.loss(outputs, targets)
        return found

    def regressions(
        self,
        outputs: Outputs,
        reference: Outputs,
        targets: Any,
        fitted: tuple[Any, Any] = (None, None),
    ) -> tuple[ClassDrop, ...]:
        """Classes with fewer samples right than the reference has, the largest share first.

        `fitted` are the settings of the two.
        """
        return ()

    def fit(self, outputs: Outputs, targets: Any | None) -> Any:
        """Settings, fitted on held-out samples; `targets` is None where nothing is known of them.

        They are a `Settings`, and belong to the network that gave these outputs.
        """
        return self.Settings()

    def accepts(self, settings: Any) -> bool:
        """Whether stored settings fit this task's classes."""
        return True

    # --- results ------------------------------------------------------------------------------

    def decode(
        self, outputs: Outputs, settings: Any, geometry: Geometry, *, top: int
    ) -> tuple[Any, ...]:
        """What a user gets for one image, whose outputs are `(1, …)`: up to `top` predictions.

        They are structs, whose fields --json shows, with at least a `label` and a `probability`.
        """
        raise NotImplementedError

    def calibrated(self, outputs: Outputs, settings: Any) -> Outputs:
        """The outputs as the settings correct them, for `distance` between what users see."""
        return outputs

    def confidences(self, outputs: Outputs, settings: Any) -> Values | None:
        """Calibrated probabilities `(N, K)` to compare between networks, if the task has such."""
        return None

    def answers(self, outputs: Outputs, settings: Any) -> list[str]:
        """What each sample is taken for, in words."""
        raise NotImplementedError

    def aligned(self, outputs: Outputs, theirs: Task) -> Outputs:
        """Outputs of a task of the same classes in another order, in the order of this one."""
        return outputs

    def settled(self, settings: Any, theirs: Task) -> Any:
        """Settings of a task of the same classes in another order, as this one holds them."""
        return settings

    def named(self, targets: Any) -> list[str]:
        """What is true of each sample, in the words of `answers`; empty where that says nothing."""
        return []

    def truth_by_folders(self, folders: Sequence[str]) -> str | None:
        """The class that names of folders, the nearest first, state of the images in them."""
        return None

    def text(self, prediction: Any) -> str:
        """A prediction in a few words."""
        return f"{prediction.label} {prediction.probability:.3f}"

    def draw(self, image: Image.Image, predictions: Sequence[Any]) -> Image.Image:
        """A copy of a photo in RGB with its predictions on it: here, their texts in a corner."""
        return write_on(image, [self.text(prediction) for prediction in predictions])

    def mistakes(self, outputs: Outputs, targets: Any, settings: Any = None) -> list[Mistake]:
        """Samples with wrong answers, the surest first."""
        return []


TASKS: Registry[type[Task]] = Registry(
    "task",
    "edgetl.tasks",
    {
        "classification": "edgetl.tasks.classification:Classification",
        "multilabel": "edgetl.tasks.multilabel:MultiLabel",
    },
    Task,
)


DEFAULT_TASK = "classification"


def take(outputs: Outputs, rows: Any) -> dict[str, npt.NDArray[np.float32]]:
    """Some rows of every output."""
    return {name: values[rows] for name, values in outputs.items()}


def finite(outputs: Outputs) -> Flags:
    """Whether all that is said of a sample is finite, by sample `(N,)`."""
    flags = [np.isfinite(v.reshape(len(v), -1)).all(axis=1) for v in outputs.values()]
    return np.asarray(np.all(flags, axis=0))


def join(parts: Sequence[Outputs]) -> dict[str, npt.NDArray[np.float32]]:
    """Outputs of several runs, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def counted(samples: Sequence[Photo], task: Task) -> dict[str, dict[str, int]]:
    """Samples that show each class, by split; splits without samples are left out."""
    found: dict[str, dict[str, int]] = {}
    for split in ("train", "validation", "test"):
        chosen = [sample for sample in samples if sample.split == split]
        if chosen:
            shown = [name for sample in chosen for name in task.classes_of(sample)]
            found[split] = {label: shown.count(label) for label in task.labels}
    return found


def check_known(task: Task, samples: Sequence[Found], where: str, fix: str) -> None:
    """DataError for samples of classes that the task does not have."""
    known = {nfc(label) for label in task.labels}
    if unknown := sorted({name for one in samples for name in task.classes_of(one)} - known):
        raise DataError(
            f"The model does not know class {', '.join(unknown)} of {where}.",
            fix=f"its classes are {', '.join(task.labels)}; {fix}",
        )


def _drop(metric: Metric, mine: dict[str, float], reference: dict[str, float]) -> float:
    lost = reference[metric.name] - mine[metric.name]
    return -lost if metric.rises else lost


def _quantiles(samples: list[float]) -> Interval:
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def decode_stored(kind: type[Any], value: Any) -> Any:
    """msgspec's `dec_hook`: a task or an input by its `type`, from the registries.

    ValueError for a type that this edgetl does not know.
    """
    for base, registry in ((Task, TASKS), (Input, INPUTS)):
        if kind is base:
            tag = value.get("type") if isinstance(value, dict) else None
            if tag not in registry:
                raise ValueError(f"the package that adds its {registry.kind} {tag!r} is not here")
            return msgspec.convert(value, registry.find(str(tag)))
    raise NotImplementedError
