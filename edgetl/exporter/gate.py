"""The gate: what a candidate must reach on validation to be shipped."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgetl.metrics import (
    Logits,
    divergence,
    evaluate_logits,
    fit_temperature,
    paired_drop,
    softmax,
)
from edgetl.spec import Candidate, ClassDrop, Recipe

ACCEPTED = 0.95  # share of validation photos whose top probability reaches the rejection threshold
ROUNDING = 1e-9  # of means of ratios, where 0.01 lost may come out as 0.010000000000000009


def judge(
    candidate: Candidate,
    recipe: Recipe,
    logits: Logits,
    reference: Logits,
    truth: npt.NDArray[np.int64],
    *,
    labels: tuple[str, ...],
    max_drop: float,
) -> Candidate:
    """Fill in a candidate's scores from its logits `(N, classes)`, and refuse or pass it.

    Refused are: values that are not finite, agreement below the recipe's, and a drop of accuracy
    or macro-F1 above `max_drop`, unless so few photos cannot show it: one photo more or less of
    all, or of the smallest class, would move the figure further. Classes that lost photos are
    listed.
    """
    n = len(truth)
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        return msgspec.structs.replace(
            candidate, n=n, rejected=f"NaN or infinity in the logits of {bad} of {n} photos"
        )
    right = logits.argmax(axis=1) == truth
    reference_right = reference.argmax(axis=1) == truth
    drop, interval = paired_drop(reference_right, right)
    agreement = float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean())
    undecidable = max_drop > 0 and n < 1 / max_drop
    temperature = fit_temperature(logits, truth)
    scores = evaluate_logits(logits, truth, labels)
    macro_f1_drop = evaluate_logits(reference, truth, labels).macro_f1 - scores.macro_f1
    found: dict[str, Any] = {
        "n": n,
        "accuracy": scores.accuracy,
        "macro_f1": scores.macro_f1,
        "macro_f1_drop": macro_f1_drop,
        "regressions": regressions(right, reference_right, truth, labels),
        "reference_accuracy": float(reference_right.mean()),
        "drop": drop,
        "drop_interval": interval,
        "agreement": agreement,
        "divergence": divergence(reference, logits),
        "undecidable": undecidable,
        "temperature": temperature,
        "rejection_threshold": round(
            float(np.quantile(softmax(logits, temperature).max(axis=1), 1 - ACCEPTED)), 4
        ),
    }
    reason = None
    if agreement < recipe.min_agreement:
        reason = f"agreement {agreement:.4f} is below {recipe.min_agreement}"
    elif drop > max_drop and not undecidable:
        reason = f"accuracy drop {drop:.4f} is above {max_drop}"
    elif macro_f1_drop > max_drop + ROUNDING and not _coarse(truth, max_drop):
        reason = f"macro-F1 drop {macro_f1_drop:.4f} is above {max_drop}"
    return msgspec.structs.replace(candidate, rejected=reason, **found)


def _coarse(truth: npt.NDArray[np.int64], max_drop: float) -> bool:
    """Whether one photo of the smallest class moves macro-F1 by more than `max_drop`."""
    counts = np.unique(truth, return_counts=True)[1]
    return max_drop > 0 and 1 / (len(counts) * int(counts.min())) > max_drop


def regressions(
    right: npt.NDArray[np.bool_],
    reference_right: npt.NDArray[np.bool_],
    truth: npt.NDArray[np.int64],
    labels: tuple[str, ...],
) -> tuple[ClassDrop, ...]:
    """Classes with fewer photos right than the reference has, the largest share first."""
    lost = [
        ClassDrop(
            label=label,
            lost=int(reference_right[truth == i].sum()) - int(right[truth == i].sum()),
            n=int((truth == i).sum()),
        )
        for i, label in enumerate(labels)
    ]
    return tuple(sorted((c for c in lost if c.lost > 0), key=lambda c: -c.lost / c.n))
