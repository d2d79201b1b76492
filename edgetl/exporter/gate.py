"""The gate: what a candidate must reach on validation to be shipped.

A few hundred photos cannot tell a loss of one point of accuracy from chance, but they tell how far
a candidate's probabilities are from FP32's: the mean Kullback-Leibler divergence needs no labels
and hardly varies. So the divergence has a hard limit, the same for all precisions, and a loss of
accuracy, macro-F1 or log-loss counts where chance does not explain it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgetl.metrics import (
    Interval,
    Logits,
    divergence,
    evaluate_logits,
    fit_temperature,
    paired_drop,
    paired_macro_f1_drop,
    paired_rise,
    softmax,
)
from edgetl.spec import Candidate, ClassDrop

ACCEPTED = 0.95  # share of validation photos whose top probability reaches the rejection threshold
ROUNDING = 1e-9  # of means of ratios, where 0.01 lost may come out as 0.010000000000000009
# Nats of divergence that cost one whole accuracy. On 1,000 test photos and more of blood cells and
# digits, no candidate within the limit lost more accuracy than `max_drop` (benchmarks/gate.py).
NATS_PER_ACCURACY = 0.3
LOSS_PER_ACCURACY = 2.0  # nats of log-loss that may be lost for one whole accuracy
PARITY = 1e-4  # nats that FP32 rounding explains; an FP32 candidate further away is another network


def judge(
    candidate: Candidate,
    logits: Logits,
    reference: Logits,
    truth: npt.NDArray[np.int64] | None,
    *,
    labels: tuple[str, ...],
    max_drop: float,
) -> Candidate:
    """Fill in a candidate's scores from its logits `(N, classes)`, and refuse or pass it.

    Refused are: values that are not finite; a mean divergence from the reference above
    `divergence_limit`; and a drop of accuracy or macro-F1 above `max_drop`, or a rise of log-loss
    above twice that, whose paired 95 % interval lies above 0. Without `truth` the divergence
    decides alone, and probabilities stay uncalibrated. Classes that lost photos are listed.
    """
    n = len(logits)
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        return msgspec.structs.replace(
            candidate, n=n, rejected=f"NaN or infinity in the logits of {bad} of {n} photos"
        )
    distance = divergence(reference, logits)
    limit = divergence_limit(candidate.precision, max_drop)
    far = f"divergence {distance:.2g} nats is above {limit:.2g}" if distance > limit else None
    agreement = float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean())
    found = msgspec.structs.replace(
        candidate, n=n, agreement=agreement, gate_divergence=distance, rejected=far
    )
    if truth is None:
        return found
    return _by_truth(found, logits, reference, truth, labels=labels, max_drop=max_drop)


def divergence_limit(precision: str, max_drop: float) -> float:
    """Nats that a candidate may be from FP32 where accuracy may drop by `max_drop`."""
    return PARITY if precision == "fp32" else max(PARITY, NATS_PER_ACCURACY * max_drop)


def _by_truth(
    candidate: Candidate,
    logits: Logits,
    reference: Logits,
    truth: npt.NDArray[np.int64],
    *,
    labels: tuple[str, ...],
    max_drop: float,
) -> Candidate:
    """The scores that need labels, and a refusal where nothing else refused the candidate."""
    right, reference_right = logits.argmax(axis=1) == truth, reference.argmax(axis=1) == truth
    drop, interval = paired_drop(reference_right, right)
    f1_drop, f1_interval = paired_macro_f1_drop(
        reference.argmax(axis=1), logits.argmax(axis=1), truth, len(labels)
    )
    rise, rise_interval = paired_rise(reference, logits, truth)
    temperature = fit_temperature(logits, truth)
    scores = evaluate_logits(logits, truth, labels)
    certain = softmax(logits, temperature).max(axis=1)
    found: dict[str, Any] = {
        "accuracy": scores.accuracy,
        "macro_f1": scores.macro_f1,
        "macro_f1_drop": f1_drop,
        "regressions": regressions(right, reference_right, truth, labels),
        "reference_accuracy": float(reference_right.mean()),
        "drop": drop,
        "drop_interval": interval,
        "loss_rise": rise,
        "loss_rise_interval": rise_interval,
        "undecidable": max_drop > 0 and len(truth) < 1 / max_drop,
        "temperature": temperature,
        "calibrated": True,
        "rejection_threshold": round(float(np.quantile(certain, 1 - ACCEPTED)), 4),
    }
    lost = (
        _lost("accuracy drop", drop, interval, max_drop)
        or _lost("macro-F1 drop", f1_drop, f1_interval, max_drop)
        or _lost("log-loss rise", rise, rise_interval, LOSS_PER_ACCURACY * max_drop)
    )
    return msgspec.structs.replace(candidate, rejected=candidate.rejected or lost, **found)


def _lost(what: str, value: float, interval: Interval, limit: float) -> str | None:
    """Why a loss is refused, or None where it is allowed or within chance."""
    if value <= limit + ROUNDING or interval[0] <= 0:
        return None
    return f"{what} {value:.4f} is above {limit:g} (95 % interval from {interval[0]:.4f})"


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
