"""Single-label classification: one class is true of each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgetl.data.found import Found, Scan
from edgetl.data.names import nfc
from edgetl.inputs.base import Geometry
from edgetl.metrics import (
    cross_entropy,
    divergences,
    evaluate_logits,
    fit_temperature,
    paired_drop,
    paired_macro_f1_drop,
    paired_rise,
    softmax,
)
from edgetl.spec import Photo, Record
from edgetl.tasks.base import (
    ClassDrop,
    ClassScore,
    Evaluation,
    Flags,
    Metric,
    Mistake,
    Outputs,
    Prediction,
    Score,
    Values,
)
from edgetl.tasks.logits import LOGITS, LogitTask, Temperature

Truth = npt.NDArray[np.int64]


class ClassificationSettings(Record, frozen=True, kw_only=True):
    """What turns a network's logits into probabilities."""

    temperature: Temperature = 1.0  # that logits are divided by
    calibrated: bool = False  # whether labels fitted the temperature; else probabilities are raw


class Classification(Record, LogitTask, frozen=True, kw_only=True, tag="classification"):
    """Logits `(N, classes)`; softmax; judged by accuracy, macro-F1 and log-loss."""

    labels: tuple[str, ...]  # classes, in the order of the logits

    Settings: ClassVar[type[Record]] = ClassificationSettings
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "accuracy", gated=1.0, share=True),
        Metric("macro_f1", "macro-F1", gated=1.0),
        Metric("loss", "log-loss", gated=2.0, rises=True),
    )
    # `per_drop`: on 1,000 test photos and more of blood cells and digits, no candidate within 0.3
    # nats for a whole accuracy lost more accuracy than --max-drop (benchmarks/gate.py).

    # --- data ---------------------------------------------------------------------------------

    @classmethod
    def scan(cls, root: Path, table: str = "", **options: Any) -> Scan:
        """Class folders, or a CSV table with columns path and label."""
        from edgetl.data.scan import scan

        return scan(root, table, **options)

    @classmethod
    def of(cls, found: Sequence[Found], root: Path) -> Classification:
        """DataError for fewer than two classes."""
        from edgetl.data.checks import check_classes

        labels = tuple(sorted({item.label for item in found}))
        check_classes(list(labels), root)
        return cls(labels=labels)

    def targets(self, samples: Sequence[Photo | Found], geometries: Sequence[Geometry]) -> Truth:
        """Class numbers `(N,)`."""
        column = {nfc(label): i for i, label in enumerate(self.labels)}
        return np.array([column[nfc(sample.label)] for sample in samples], np.int64)

    # --- outputs ------------------------------------------------------------------------------

    def evaluate(self, outputs: Outputs, targets: Truth, settings: Any = None) -> Evaluation:
        """Accuracy, macro-F1 (over the classes present in `targets`), per class, confusion."""
        scores = evaluate_logits(outputs[LOGITS], targets, len(self.labels))
        return Evaluation(
            metrics={"accuracy": scores.accuracy, "macro_f1": scores.macro_f1},
            n=len(targets),
            labels=self.labels,
            per_class=tuple(
                ClassScore(label=label, precision=p, recall=r, f1=f1, n=n)
                for label, p, r, f1, n in zip(self.labels, *scores.by_class(), strict=True)
            ),
            confusion=tuple(tuple(row) for row in scores.confusion.tolist()),
        )

    def loss(self, outputs: Outputs, targets: Truth) -> float:
        """Cross-entropy in nats."""
        return cross_entropy(outputs[LOGITS], targets)

    def distance(self, reference: Outputs, outputs: Outputs) -> Values:
        """Kullback-Leibler divergence from the reference's probabilities, in nats."""
        return divergences(reference[LOGITS], outputs[LOGITS])

    def agreement(
        self, reference: Outputs, outputs: Outputs, fitted: tuple[Any, Any] = (None, None)
    ) -> Flags:
        """The same class comes first."""
        return np.asarray(outputs[LOGITS].argmax(axis=1) == reference[LOGITS].argmax(axis=1))

    def compare(self, outputs: Outputs, reference: Outputs, targets: Truth) -> dict[str, Score]:
        """Accuracy, macro-F1 and log-loss, with the intervals of metrics.py."""
        logits, other = outputs[LOGITS], reference[LOGITS]
        top, before = logits.argmax(axis=1), other.argmax(axis=1)
        drop, interval = paired_drop(before == targets, top == targets)
        f1_drop, f1_interval = paired_macro_f1_drop(before, top, targets, len(self.labels))
        rise, rise_interval = paired_rise(other, logits, targets)
        scores, was = (evaluate_logits(o, targets, len(self.labels)) for o in (logits, other))
        loss = cross_entropy(logits, targets)
        return {
            "accuracy": Score(
                value=scores.accuracy, reference=was.accuracy, drop=drop, interval=interval
            ),
            "macro_f1": Score(
                value=scores.macro_f1, reference=was.macro_f1, drop=f1_drop, interval=f1_interval
            ),
            "loss": Score(value=loss, reference=loss - rise, drop=rise, interval=rise_interval),
        }

    def regressions(
        self,
        outputs: Outputs,
        reference: Outputs,
        targets: Truth,
        fitted: tuple[Any, Any] = (None, None),
    ) -> tuple[ClassDrop, ...]:
        """By the class that comes first."""
        right = outputs[LOGITS].argmax(axis=1) == targets
        before = reference[LOGITS].argmax(axis=1) == targets
        lost = [
            ClassDrop(
                label=label,
                lost=int(before[targets == i].sum()) - int(right[targets == i].sum()),
                n=int((targets == i).sum()),
            )
            for i, label in enumerate(self.labels)
        ]
        return tuple(sorted((c for c in lost if c.lost > 0), key=lambda c: -c.lost / c.n))

    def fit(self, outputs: Outputs, targets: Truth | None) -> ClassificationSettings:
        """The temperature."""
        if targets is None:
            return ClassificationSettings()
        return ClassificationSettings(
            temperature=fit_temperature(outputs[LOGITS], targets), calibrated=True
        )

    # --- results ------------------------------------------------------------------------------

    def decode(
        self,
        outputs: Outputs,
        settings: ClassificationSettings,
        geometry: Geometry,
        *,
        top: int,
    ) -> tuple[Prediction, ...]:
        """The `top` likeliest classes."""
        chance = softmax(outputs[LOGITS], settings.temperature)[0]
        best = np.argsort(-chance, kind="stable")[:top]
        return tuple(Prediction(label=self.labels[i], probability=float(chance[i])) for i in best)

    def answers(self, outputs: Outputs, settings: ClassificationSettings) -> list[str]:
        """The likeliest class."""
        return [self.labels[i] for i in outputs[LOGITS].argmax(axis=1)]

    def named(self, targets: Truth) -> list[str]:
        """Its class."""
        return [self.labels[i] for i in targets]

    def truth_by_folders(self, folders: Sequence[str]) -> str | None:
        """The first folder that is called as a class is."""
        known = {nfc(label): label for label in self.labels}
        return next((known[nfc(name)] for name in folders if nfc(name) in known), None)

    def confidences(self, outputs: Outputs, settings: ClassificationSettings) -> Values:
        """Probabilities `(N, classes)`."""
        return np.asarray(softmax(outputs[LOGITS].astype(np.float64), settings.temperature))

    def mistakes(self, outputs: Outputs, targets: Truth, settings: Any = None) -> list[Mistake]:
        """By the probability of the class that comes first."""
        chance = softmax(outputs[LOGITS])
        predicted = chance.argmax(axis=1)
        wrong = np.nonzero(predicted != targets)[0]
        worst = wrong[np.argsort(-chance[wrong, predicted[wrong]], kind="stable")]
        return [
            Mistake(
                row=int(row),
                truth=self.labels[targets[row]],
                predicted=self.labels[predicted[row]],
                confidence=float(chance[row, predicted[row]]),
            )
            for row in worst
        ]
