"""What tasks have in common whose one output is a logit of each class."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np

from edgetl.tasks.base import Output, Outputs, Task

LOGITS = "logits"
Temperature = Annotated[float, msgspec.Meta(ge=1e-3, le=1e3)]  # that logits are divided by


class LogitTask(Task):
    """Base of tasks whose one output is a logit of each class."""

    __slots__ = ()

    def outputs(self) -> tuple[Output, ...]:
        """One: logits."""
        return (Output(name=LOGITS, shape=(len(self.labels),)),)

    def calibrated(self, outputs: Outputs, settings: Any) -> Outputs:
        """Logits divided by the temperature."""
        return {LOGITS: outputs[LOGITS] / np.float32(settings.temperature)}

    def aligned(self, outputs: Outputs, theirs: Task) -> Outputs:
        """Columns by label."""
        return {LOGITS: outputs[LOGITS][:, [theirs.labels.index(label) for label in self.labels]]}
