"""The gate: what a candidate must reach on validation to be shipped."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgetl.metrics import (
    Logits,
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
    or macro-F1 above `max_drop`. Where one photo of all, or of the smallest class, is more than
    that, one photo is allowed, unless `max_drop` is 0. Classes that lost photos are listed.
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
        "undecidable": undecidable,
        "temperature": temperature,
        "rejection_threshold": round(
            float(np.quantile(softmax(logits, temperature).max(axis=1), 1 - ACCEPTED)), 4
        ),
    }
    reason = None
    if agreement < recipe.min_agreement:
        reason = f"agreement {agreement:.4f} is below {recipe.min_agreement}"
    elif drop > _allowed(max_drop, 1 / n):
        reason = f"accuracy drop {drop:.4f} is above {max_drop}"
    elif macro_f1_drop > _allowed(max_drop, _macro_step(truth)):
        reason = f"macro-F1 drop {macro_f1_drop:.4f} is above {max_drop}"
    return msgspec.structs.replace(candidate, rejected=reason, **found)


def _allowed(max_drop: float, step: float) -> float:
    """The limit, or what one photo amounts to if that is more."""
    return max(max_drop, step) + ROUNDING if max_drop > 0 else ROUNDING


def _macro_step(truth: npt.NDArray[np.int64]) -> float:
    """By how much one photo of the smallest class may move macro-F1."""
    counts = np.unique(truth, return_counts=True)[1]
    least = int(counts.min())
    # its own class loses 1/(2n - 1) of F1, the one that it is taken for 1/(2n + 1)
    return 4 * least / (4 * least**2 - 1) / len(counts)


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
