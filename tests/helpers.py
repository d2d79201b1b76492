"""Short ways to what many tests need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from edgetl.cli.rows import candidate_row
from edgetl.inputs.base import Input, Pixels
from edgetl.metrics import divergences
from edgetl.tasks.base import Evaluation
from edgetl.tasks.classification import Classification
from edgetl.train.backbones import Network, build_network
from edgetl.train.tasks.base import TrainTask, twin_of


def evaluate_classes(predicted: Any, truth: Any, labels: Sequence[str]) -> Evaluation:
    """Scores of predicted classes `(N,)`."""
    logits = np.eye(len(labels), dtype=np.float32)[np.asarray(predicted)]
    return evaluate_logits(logits, np.asarray(truth), labels)


def evaluate_logits(logits: Any, truth: Any, labels: Sequence[str]) -> Evaluation:
    """Scores of logits `(N, C)`."""
    return Classification(labels=tuple(labels)).evaluate({"logits": logits}, truth)


def batch(sources: Iterable[Any], spec: Input) -> Pixels:
    """Images as one array `(N, H, W, 3)`."""
    return np.stack([spec.read(source).pixels for source in sources])


def pixels(source: Any, spec: Input) -> Pixels:
    """One image as `(H, W, 3)`."""
    return spec.read(source).pixels


def divergence(reference: Any, logits: Any) -> float:
    """Mean Kullback-Leibler divergence in nats of logits `(N, C)` from the reference's."""
    return float(divergences(reference, logits).mean())


def build_classifier(backbone: str, classes: int, *, seed: int) -> Network:
    """A network with one linear output."""
    return build_network(backbone, classes, "logits", seed=seed)


def twin(classes: int) -> TrainTask:
    """The twin of a classification of so many classes."""
    return twin_of(Classification(labels=tuple(f"class {i}" for i in range(classes))))


class Flat:
    """A candidate whose scores are attributes, as the rows of --json have them."""

    def __init__(self, candidate: Any, labels: Sequence[str]) -> None:
        self.candidate = candidate
        self.row = candidate_row(candidate, Classification(labels=tuple(labels)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.candidate, name) if hasattr(self.candidate, name) else self.row[name]
