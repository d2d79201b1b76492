"""The golden self-test: does this machine compute what the exporting one did?"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from edgetl.bundle import Bundle
from edgetl.engines import Session
from edgetl.errors import BundleError, EdgetlError
from edgetl.inputs.image import pixels
from edgetl.metrics import Logits
from edgetl.runtime.choose import shipped, unfit
from edgetl.runtime.session import open_session
from edgetl.spec import Candidate, Record

# Largest difference of a logit, as a share of its output's range. Integer and bfloat16 kernels
# round differently on other processors; float32 only in its last digits.
TOLERANCE = {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.06, "int8": 0.15}
LEAST_NOISE = 0.03  # of the logits' spread: placements that are nearly FP32 may still round
PREPROCESSING = "preprocessing"
PIXEL_TOLERANCE = 3  # JPEG decoders may differ by a few of 255


class Check(Record, frozen=True, kw_only=True):
    """One check; `skipped` says why it could not run, `passed` is then None."""

    name: str
    passed: bool | None
    difference: float | None = None
    detail: str = ""


def self_test(bundle: Bundle) -> list[Check]:
    """Run the preprocessing and every shipped candidate on the golden inputs and compare."""
    checks: list[Check] = []
    for candidate in (None, *shipped(bundle)):
        try:
            checks.append(_run(bundle, candidate) if candidate else _preprocessing(bundle))
        except EdgetlError as error:
            name = candidate.recipe if candidate else PREPROCESSING
            checks.append(Check(name=name, passed=False, detail=str(error)))
    return checks


def verdict(checks: list[Check]) -> bool | None:
    """True: all that ran here passed; False: something failed; None: no candidate could run."""
    if any(check.passed is False for check in checks):
        return False
    return True if any(c.passed for c in checks if c.name != PREPROCESSING) else None


def mending(checks: list[Check]) -> str:
    """What helps against the checks that failed."""
    if any(check.name == PREPROCESSING and check.passed is False for check in checks):
        return "install another version of Pillow: this one reads or resizes images otherwise."
    if holding := [c.name for c in checks if c.passed and c.name != PREPROCESSING]:
        return (
            f"use what passed, as `edgetl predict` does by itself: {', '.join(holding)}; for the "
            "others, run `edgetl export` on this machine, as they depend on its processor."
        )
    return "use another version of the engine, or run `edgetl export` on this machine."


def _run(bundle: Bundle, candidate: Candidate) -> Check:
    """One candidate on the golden inputs, against its own golden logits."""
    reason = unfit(candidate)
    if reason is not None:
        return Check(name=candidate.recipe, passed=None, detail=f"skipped: {reason}")
    session = open_session(bundle, candidate)
    try:
        return check_session(bundle, candidate, session)
    finally:
        session.close()


def check_session(bundle: Bundle, candidate: Candidate, session: Session) -> Check:
    """An opened candidate on the golden inputs, one at a time, against its own golden logits."""
    try:
        return _compared(bundle, candidate, session)
    except EdgetlError as error:  # the engine fails, or the bundle's arrays are none
        return Check(name=candidate.recipe, passed=False, detail=str(error))


def _compared(bundle: Bundle, candidate: Candidate, session: Session) -> Check:
    golden, name = bundle.manifest.golden, candidate.recipe
    if name not in golden.logits:
        return Check(name=name, passed=False, detail="the bundle holds no logits to compare with")
    inputs, expected = _array(bundle, golden.inputs), _array(bundle, golden.logits[name])
    found = np.concatenate([session.run(inputs[i : i + 1]) for i in range(len(inputs))])
    if found.shape != expected.shape:
        return Check(
            name=name, passed=False, detail=f"logits are {found.shape}, not {expected.shape}"
        )
    worst, limit = difference(found, expected), TOLERANCE[candidate.precision]
    detail = ""
    if not worst <= limit:  # NaN is not
        detail = f"logits are off by up to {worst:.3g} of their range, and {limit:g} is allowed"
    elif own := _own_noise(bundle, candidate, expected):
        moved = _rms(found - expected)
        if moved > own:
            detail = (
                f"logits are {moved / own:.3g} × as far from the expected ones as INT8 moved these "
                "from FP32"
            )
    return Check(name=name, passed=not detail, difference=round(worst, 6), detail=detail)


def _own_noise(bundle: Bundle, candidate: Candidate, expected: Logits) -> float | None:
    """How far INT8 itself moved the expected logits from those of FP32, as a root mean square.

    Kernels that are exact round a few values differently, and stay far within it. Those of x86
    processors without VNNI may overflow in 16 bits, and do not (MobileNetV2: 1.4 to 4.7 times).
    None where it says nothing: no INT8, no FP32 to compare with, or logits of a proxy.
    """
    proxy_engine = candidate.checked_with and candidate.checked_with.split()[0] != candidate.engine
    golden = bundle.manifest.golden
    exact = [c for c in shipped(bundle) if c.precision == "fp32" and c.recipe in golden.logits]
    if candidate.precision != "int8" or proxy_engine or not exact:
        return None
    reference = _array(bundle, golden.logits[exact[0].recipe])
    if reference.shape != expected.shape:
        return None
    return max(_rms(expected - reference), LEAST_NOISE * _rms(expected - expected.mean(axis=0)))


def _rms(values: Logits) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def difference(found: Logits, expected: Logits) -> float:
    """The largest difference of a logit, as a share of its own output's range over the inputs.

    So one large output hides no fault in the others. An output that hardly moves is held to the
    range that half of the outputs stay within, or to a hundredth of its largest value.
    """
    ranges, largest = np.ptp(expected, axis=0), np.abs(expected).max(axis=0)
    middle = max(float(np.sort(ranges)[(len(ranges) - 1) // 2]), 1e-6)
    scale = np.maximum(np.maximum(ranges, middle), 1e-2 * largest)
    return float((np.abs(found - expected) / scale).max())


def _preprocessing(bundle: Bundle) -> Check:
    golden = bundle.manifest.golden
    found = pixels(bundle.read(golden.jpeg), bundle.manifest.preprocess)
    expected = _array(bundle, golden.pixels)
    if found.shape != expected.shape:
        detail = f"pixels are {found.shape}, not {expected.shape}"
        return Check(name=PREPROCESSING, passed=False, detail=detail)
    worst = int(np.abs(found.astype(np.int16) - expected).max())
    return Check(name=PREPROCESSING, passed=worst <= PIXEL_TOLERANCE, difference=worst)


def _array(bundle: Bundle, member: str) -> Any:
    try:
        array = np.load(io.BytesIO(bundle.read(member)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise BundleError(
            f"Bundle {bundle.path} holds no array in {member}: {error}.",
            fix="export it again with `edgetl export`.",
        ) from error
    return array
