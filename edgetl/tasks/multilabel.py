"""Multi-label classification: any number of classes is true of each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from edgetl.data.found import SEPARATOR, Found, Scan
from edgetl.data.names import nfc
from edgetl.errors import DataError, UsageError
from edgetl.inputs.base import Geometry
from edgetl.metrics import average_precision, lowest, sigmoid
from edgetl.spec import Photo, Record
from edgetl.tasks.base import (
    ClassDrop,
    ClassScore,
    Evaluation,
    Flags,
    Metric,
    Mistake,
    Outputs,
    Task,
    Values,
)
from edgetl.tasks.logits import LOGITS, LogitTask, Temperature

EVEN = 0.5  # threshold of a class of which nothing is known
Truth = npt.NDArray[np.bool_]
Chance = Annotated[float, msgspec.Meta(ge=0, le=1)]


class MultiLabelSettings(Record, frozen=True, kw_only=True):
    """What turns logits into probabilities, and these into answers."""

    temperature: Temperature = 1.0  # that logits are divided by
    calibrated: bool = False  # whether labels fitted these numbers
    thresholds: tuple[Chance, ...] = ()  # by class; a class is present from there on; empty: 0.5


class LabelPrediction(Record, frozen=True, kw_only=True):
    """One class, its probability, and whether that reaches the class's threshold."""

    label: str  # the class
    probability: float  # 0…1
    present: bool  # whether the probability reaches the threshold


class MultiLabel(Record, LogitTask, frozen=True, kw_only=True, tag="multilabel"):
    """Logits `(N, classes)`; a sigmoid each; judged by mAP, macro-F1 and log-loss."""

    labels: tuple[str, ...]  # classes, in the order of the logits

    Settings: ClassVar[type[Record]] = MultiLabelSettings
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("map", "mAP", gated=1.0),
        Metric("macro_f1", "macro-F1", gated=1.0),
        Metric("loss", "log-loss", gated=2.0, rises=True),
    )

    # --- data ---------------------------------------------------------------------------------

    @classmethod
    def scan(cls, root: Path, table: str = "", **options: Any) -> Scan:
        """A CSV table with columns path and labels, these separated by |; nothing means none."""
        from edgetl.data.scan import scan

        if not table:
            raise UsageError(
                "A photo of several classes needs --labels: folders give each photo one.",
                fix="give a CSV file with columns path and labels, as a.jpg,shirt|hat.",
            )
        return scan(root, table, column="labels", **options)

    @classmethod
    def of(cls, found: Sequence[Found], root: Path) -> MultiLabel:
        """DataError where no class is named, or one is true of every sample."""
        labels = tuple(sorted({name for item in found for name in cls.classes_of(item)}))
        if not labels:
            raise DataError(
                f"No photo in {root} has a label.", fix="fill in the column labels of the table."
            )
        for label in labels:
            if all(label in cls.classes_of(item) for item in found):
                raise DataError(
                    f"Every photo in {root} has the label {label}: nothing can be learnt of it.",
                    fix="add photos without it, or remove the label.",
                )
        return cls(labels=labels)

    @staticmethod
    def classes_of(sample: Photo | Found) -> tuple[str, ...]:
        """What its label is made of."""
        return tuple(sample.label.split(SEPARATOR)) if sample.label else ()

    def targets(self, samples: Sequence[Photo | Found], geometries: Sequence[Geometry]) -> Truth:
        """Which classes are true, bool `(N, classes)`."""
        shown = [set(map(nfc, self.classes_of(sample))) for sample in samples]
        rows = [[nfc(label) in names for label in self.labels] for names in shown]
        return np.array(rows, bool).reshape(len(samples), len(self.labels))

    # --- outputs ------------------------------------------------------------------------------

    def evaluate(
        self, outputs: Outputs, targets: Truth, settings: MultiLabelSettings | None = None
    ) -> Evaluation:
        """mAP over the classes that are true of something, and macro-F1 by the thresholds."""
        chance = self.confidences(outputs, settings)
        called = self._called(chance, settings)
        right, shown = (called & targets).sum(axis=0), targets.sum(axis=0)
        precision = right / np.maximum(called.sum(axis=0), 1)
        recall = right / np.maximum(shown, 1)
        f1 = 2 * right / np.maximum(called.sum(axis=0) + shown, 1)
        ranked = average_precision(chance, targets)
        known = shown > 0
        return Evaluation(
            metrics={
                "map": float(ranked[known].mean()) if known.any() else 0.0,
                "macro_f1": float(f1[known].mean()) if known.any() else 0.0,
            },
            n=len(targets),
            labels=self.labels,
            per_class=tuple(
                ClassScore(
                    label=label,
                    precision=float(precision[i]),
                    recall=float(recall[i]),
                    f1=float(f1[i]),
                    n=int(shown[i]),
                    average_precision=float(ranked[i]) if known[i] else None,
                )
                for i, label in enumerate(self.labels)
            ),
        )

    def _called(self, chance: Values, settings: MultiLabelSettings | None) -> Truth:
        return np.asarray(chance >= self._thresholds(settings))

    def _thresholds(self, settings: MultiLabelSettings | None) -> Values:
        stated = settings.thresholds if settings else ()
        return np.array(stated or [EVEN] * len(self.labels), np.float64)

    def loss(self, outputs: Outputs, targets: Truth) -> float:
        """Binary cross-entropy in nats, the mean over samples and classes."""
        return float(_loss(outputs[LOGITS], targets).mean())

    def distance(self, reference: Outputs, outputs: Outputs) -> Values:
        """Kullback-Leibler divergence from the reference's answers in nats.

        The mean over classes, as mAP is one: a limit means the same for few classes and many.
        """
        p, q = (o[LOGITS].astype(np.float64) for o in (reference, outputs))
        likely = sigmoid(p)
        each = likely * (_log(p) - _log(q)) + (1 - likely) * (_log(-p) - _log(-q))
        return np.asarray(each.mean(axis=1))

    def agreement(
        self, reference: Outputs, outputs: Outputs, fitted: tuple[Any, Any] = (None, None)
    ) -> Flags:
        """The same classes are present."""
        before, after = (
            self._called(self.confidences(o, own), own)
            for o, own in zip((reference, outputs), fitted, strict=True)
        )
        return np.asarray((before == after).all(axis=1))

    def regressions(
        self,
        outputs: Outputs,
        reference: Outputs,
        targets: Truth,
        fitted: tuple[Any, Any] = (None, None),
    ) -> tuple[ClassDrop, ...]:
        """By whether a class is present."""
        both = zip((outputs, reference), fitted, strict=True)
        right, before = (self._called(self.confidences(o, own), own) == targets for o, own in both)
        lost = before.sum(axis=0) - right.sum(axis=0)
        drops = [
            ClassDrop(label=label, lost=int(lost[i]), n=len(targets))
            for i, label in enumerate(self.labels)
            if lost[i] > 0
        ]
        return tuple(sorted(drops, key=lambda drop: -drop.lost))

    def fit(self, outputs: Outputs, targets: Truth | None) -> MultiLabelSettings:
        """A temperature by log-loss, and for each class the threshold of the highest F1."""
        if targets is None or not len(targets):
            return MultiLabelSettings()
        logits = outputs[LOGITS].astype(np.float64)
        # of N labels each is 1 - 1/(N + 2) sure, as in metrics.fit_temperature
        doubt = 1 / (len(targets) + 2)
        soft = np.where(targets, 1 - doubt, doubt)
        best = lowest(
            lambda x: float(_loss(logits / math.exp(x), soft).mean()), math.log(0.05), math.log(20)
        )
        temperature = round(math.exp(best), 4)
        chance = sigmoid(logits / temperature)
        return MultiLabelSettings(
            temperature=temperature,
            calibrated=True,
            thresholds=tuple(
                _best_threshold(chance[:, i], targets[:, i]) for i in range(len(self.labels))
            ),
        )

    def accepts(self, settings: MultiLabelSettings) -> bool:
        """As many thresholds as classes, or none."""
        return len(settings.thresholds) in (0, len(self.labels))

    def settled(self, settings: MultiLabelSettings, theirs: Task) -> MultiLabelSettings:
        """Thresholds by label."""
        known = dict(zip(theirs.labels, settings.thresholds, strict=False))
        ours = tuple(known[label] for label in self.labels if known)
        return msgspec.structs.replace(settings, thresholds=ours)

    # --- results ------------------------------------------------------------------------------

    def decode(
        self, outputs: Outputs, settings: MultiLabelSettings, geometry: Geometry, *, top: int
    ) -> tuple[LabelPrediction, ...]:
        """Every class that is present, then the likeliest of the others, `top` or more."""
        chance = self.confidences(outputs, settings)[0]
        called = self._called(chance, settings)
        best = np.lexsort((-chance, ~called))[: max(top, int(called.sum()))]
        return tuple(
            LabelPrediction(
                label=self.labels[i], probability=float(chance[i]), present=bool(called[i])
            )
            for i in best
        )

    def answers(self, outputs: Outputs, settings: MultiLabelSettings) -> list[str]:
        """The classes that are present."""
        called = self._called(self.confidences(outputs, settings), settings)
        return [self._named(row) for row in called]

    def named(self, targets: Truth) -> list[str]:
        """Its classes."""
        return [self._named(row) for row in targets]

    def confidences(self, outputs: Outputs, settings: MultiLabelSettings | None) -> Values:
        """Probabilities `(N, classes)`."""
        temperature = settings.temperature if settings else 1.0
        return sigmoid(outputs[LOGITS].astype(np.float64) / temperature)

    def text(self, prediction: LabelPrediction) -> str:
        """Present classes with a mark."""
        mark = "+" if prediction.present else "-"
        return f"{mark}{prediction.label} {prediction.probability:.3f}"

    def mistakes(
        self, outputs: Outputs, targets: Truth, settings: MultiLabelSettings | None = None
    ) -> list[Mistake]:
        """By the class on the wrong side of its threshold whose answer is the surest."""
        chance = self.confidences(outputs, settings)
        called = self._called(chance, settings)
        sure = np.where(called != targets, np.where(targets, 1 - chance, chance), -1).max(axis=1)
        return [
            Mistake(
                row=int(row),
                truth=self._named(targets[row]),
                predicted=self._named(called[row]),
                confidence=float(sure[row]),
            )
            for row in np.argsort(-sure, kind="stable")
            if sure[row] >= 0
        ]

    def _named(self, flags: Any) -> str:
        return (
            ", ".join(label for label, flag in zip(self.labels, flags, strict=True) if flag) or "–"
        )


def _log(logits: Values) -> Values:
    """Logarithms of the sigmoid."""
    return np.asarray(-np.logaddexp(0, -logits))


def _loss(logits: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Values:
    """Binary cross-entropy of each sample and class, `(N, C)`."""
    wide = logits.astype(np.float64)
    return np.asarray(np.logaddexp(0, wide) - targets * wide)


def _best_threshold(chance: Values, truth: Truth) -> float:
    """Where F1 is highest, half-way to the next lower probability; 0.5 where all are alike."""
    if not truth.any() or truth.all():
        return EVEN
    order = np.argsort(-chance, kind="stable")
    right = np.cumsum(truth[order])
    f1 = 2 * right / (np.arange(1, len(truth) + 1) + truth.sum())
    last = np.append(np.diff(chance[order]) < 0, True)  # between equals there is no threshold
    place = int(np.where(last, f1, -1).argmax())
    below = chance[order][place + 1] if place + 1 < len(truth) else 0.0
    least = float(chance[order][place])
    middle = (least + float(below)) / 2
    return middle if middle > below else least  # between neighbours there is no number
