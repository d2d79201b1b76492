"""The golden self-test: does this machine compute what the exporting one did?"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from edgetl.bundle import Bundle
from edgetl.engines import find_engine
from edgetl.errors import BundleError, EdgetlError
from edgetl.metrics import Logits
from edgetl.preprocess import pixels
from edgetl.runtime.choose import shipped
from edgetl.runtime.model import open_session
from edgetl.spec import Record

# Largest difference of a logit, as a share of its output's range. Integer and bfloat16 kernels
# round differently on other processors; float32 only in its last digits.
TOLERANCE = {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.06, "int8": 0.15}
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
    for name in [PREPROCESSING, *(candidate.recipe for candidate in shipped(bundle))]:
        try:
            checks.append(_preprocessing(bundle) if name == PREPROCESSING else _run(bundle, name))
        except EdgetlError as error:
            checks.append(Check(name=name, passed=False, detail=str(error)))
    return checks


def verdict(checks: list[Check]) -> bool | None:
    """True: all that ran here passed; False: something failed; None: no candidate could run."""
    if any(check.passed is False for check in checks):
        return False
    return True if any(c.passed for c in checks if c.name != PREPROCESSING) else None


def _run(bundle: Bundle, recipe: str) -> Check:
    """One candidate on the golden inputs, against its own golden logits."""
    golden = bundle.manifest.golden
    candidate = next(c for c in shipped(bundle) if c.recipe == recipe)
    reason = find_engine(candidate.engine).missing(candidate.session)
    if reason is not None:
        return Check(name=recipe, passed=None, detail=f"skipped: {reason}")
    if recipe not in golden.logits:
        return Check(name=recipe, passed=False, detail="the bundle holds no logits to compare with")
    inputs, expected = _array(bundle, golden.inputs), _array(bundle, golden.logits[recipe])
    session = open_session(bundle, candidate)
    try:
        found = np.concatenate([session.run(inputs[i : i + 1]) for i in range(len(inputs))])
    finally:
        session.close()
    if found.shape != expected.shape:
        detail = f"logits are {found.shape}, not {expected.shape}"
        return Check(name=recipe, passed=False, detail=detail)
    worst = difference(found, expected)
    good = worst <= TOLERANCE[candidate.precision]  # NaN is not
    return Check(name=recipe, passed=good, difference=round(worst, 6))


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
