"""run.json and metrics.jsonl: everything about a run but its weights."""

from __future__ import annotations

from typing import Any, Literal

from edgetl.inputs.base import Input
from edgetl.options import FinetuneConfig
from edgetl.spec import DataSummary, Normalize, Record, WeightsOrigin
from edgetl.tasks.base import Evaluation, Task

RUN_VERSION = 2


class EpochRow(Record, frozen=True, kw_only=True):
    """One line of metrics.jsonl."""

    stage: Literal["probe", "finetune", "scratch"]
    epoch: int
    loss: float
    learning_rate: float
    metrics: dict[str, float]  # on validation, the primary one first
    validation_loss: float
    images_per_s: float
    seconds: float


class Stage(Record, frozen=True, kw_only=True):
    """Outcome of one way of training, on validation."""

    name: Literal["probe", "finetune", "scratch"]
    metrics: dict[str, float]  # the primary one first
    loss: float
    seconds: float
    details: dict[str, Any] = {}

    @property
    def primary(self) -> float:
        """The value of the primary metric."""
        return next(iter(self.metrics.values()))


class RunRecord(Record, frozen=True, kw_only=True):
    """run.json: everything about a run but its weights."""

    edgetl_run: int
    status: Literal["running", "finished"]
    config: FinetuneConfig
    task: Task
    input: Input
    normalize: Normalize
    data: DataSummary
    weights_origin: WeightsOrigin
    created_utc: str
    versions: dict[str, str]
    threads: int
    strategy: str = ""  # what ships: probe, finetune or scratch
    stages: tuple[Stage, ...] = ()
    warnings: tuple[str, ...] = ()  # of framing and training; those of the photos are in `data`
    settings: Any = None  # of the task, fitted on validation
    validation: Evaluation | None = None
    test: Evaluation | None = None
    seconds: float = 0.0
    timings_s: dict[str, float] = {}
