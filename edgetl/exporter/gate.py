"""The gate: what a candidate must reach on validation to be shipped."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgetl.metrics import Logits, evaluate_logits, fit_temperature, paired_drop, softmax
from edgetl.spec import Candidate, Recipe

ACCEPTED = 0.95  # share of validation photos whose top probability reaches the rejection threshold


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

    Refused are: values that are not finite, agreement below the recipe's, and an accuracy drop
    above `max_drop` unless so few photos cannot show it (n < 1 / max_drop).
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
    found: dict[str, Any] = {
        "n": n,
        "accuracy": scores.accuracy,
        "macro_f1": scores.macro_f1,
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
    elif drop > max_drop and not undecidable:
        reason = f"accuracy drop {drop:.4f} is above {max_drop}"
    return msgspec.structs.replace(candidate, rejected=reason, **found)
