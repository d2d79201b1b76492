"""The gate: what a candidate must reach on validation to be shipped.

A few hundred samples cannot tell a loss of one point of accuracy from chance, but they tell how far
a candidate's answers are from FP32's: the task's distance needs no labels and hardly varies. So the
mean distance has a hard limit, the same for all precisions, and a loss of one of the task's metrics
counts where chance does not explain it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgetl.bundle.manifest import Candidate
from edgetl.tasks.base import Metric, Outputs, Score, Task, finite

ROUNDING = 1e-9  # of means of ratios, where 0.01 lost may come out as 0.010000000000000009


def judge(
    candidate: Candidate,
    task: Task,
    outputs: Outputs,
    reference: Outputs,
    targets: Any | None,
    *,
    max_drop: float,
) -> Candidate:
    """Fill in a candidate's scores from its outputs `(N, …)`, and refuse or pass it.

    Refused are: values that are not finite; a mean distance from the reference above
    `distance_limit`; and a loss of one of the task's metrics above its share of `max_drop`, whose
    paired 95 % interval lies above 0. Without `targets` the distance decides alone, and the task's
    settings are fitted to nothing. Classes that lost samples are listed.
    """
    good = finite(outputs)
    n = len(good)
    if not good.all():
        what = f"NaN or infinity in the {' and '.join(outputs)} of {(~good).sum()} of {n} photos"
        return msgspec.structs.replace(candidate, n=n, rejected=what)
    fitted = task.fit(outputs, targets)
    pair = task.fit(reference, targets), fitted
    distance = float(task.distance(reference, outputs).mean())
    limit = distance_limit(task, candidate.precision, max_drop)
    far = f"divergence {distance:.2g} {task.unit} is above {limit:.2g}"
    found = msgspec.structs.replace(
        candidate,
        n=n,
        agreement=float(task.agreement(reference, outputs, pair).mean()),
        gate_divergence=distance,
        settings=fitted,
        rejected=far if distance > limit else None,
    )
    if targets is None:
        return found
    scores = task.compare(outputs, reference, targets)
    lost = (_lost(metric, scores[metric.name], max_drop) for metric in task.metrics)
    return msgspec.structs.replace(
        found,
        scores=scores,
        regressions=task.regressions(outputs, reference, targets, pair[::-1]),
        undecidable=max_drop > 0 and n < 1 / max_drop,
        rejected=found.rejected or next(filter(None, lost), None),
    )


def distance_limit(task: Task, precision: str, max_drop: float) -> float:
    """How far a candidate may be from FP32 where the primary metric may drop by `max_drop`."""
    return task.parity if precision == "fp32" else max(task.parity, task.per_drop * max_drop)


def _lost(metric: Metric, score: Score, max_drop: float) -> str | None:
    """Why a loss is refused, or None where it is allowed or within chance."""
    limit = metric.gated * max_drop
    low = score.interval[0] if score.interval else score.drop
    if not metric.gated or score.drop <= limit + ROUNDING or low <= 0:
        return None
    what = f"{metric.title} {'rise' if metric.rises else 'drop'}"
    return f"{what} {score.drop:.4f} is above {limit:g} (95 % interval from {low:.4f})"
