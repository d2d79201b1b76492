"""The golden self-test: does this machine compute what the exporting one did?"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from edgetl.bundle import Bundle
from edgetl.engines import find_engine
from edgetl.errors import EdgetlError
from edgetl.preprocess import pixels
from edgetl.runtime.choose import shipped
from edgetl.runtime.model import open_session
from edgetl.spec import Record

# Largest difference of logits, as a share of their range. Integer and bfloat16 kernels round
# differently on other processors; float32 only in its last digits.
TOLERANCE = {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.06, "int8": 0.15}
PIXEL_TOLERANCE = 3  # JPEG decoders may differ by a few of 255


class Check(Record, frozen=True, kw_only=True):
    """One check; `skipped` says why it could not run, `passed` is then None."""

    name: str
    passed: bool | None
    difference: float | None = None
    detail: str = ""


def self_test(bundle: Bundle) -> list[Check]:
    """Run the preprocessing and every shipped candidate on the golden inputs and compare."""
    golden = bundle.manifest.golden
    checks = [_preprocessing(bundle)]
    inputs = _array(bundle, golden.inputs)
    for candidate in shipped(bundle):
        expected = _array(bundle, golden.logits[candidate.recipe])
        reason = find_engine(candidate.engine).missing(candidate.session)
        if reason is not None:
            checks.append(Check(name=candidate.recipe, passed=None, detail=f"skipped: {reason}"))
            continue
        try:
            session = open_session(bundle, candidate)
            found = np.concatenate([session.run(inputs[i : i + 1]) for i in range(len(inputs))])
            session.close()
        except EdgetlError as error:
            checks.append(Check(name=candidate.recipe, passed=False, detail=str(error)))
            continue
        span = max(float(np.ptp(expected)), 1e-6)
        worst = float(np.abs(found - expected).max()) / span
        good = bool(np.isfinite(found).all()) and worst <= TOLERANCE[candidate.precision]
        checks.append(Check(name=candidate.recipe, passed=good, difference=round(worst, 6)))
    return checks


def _preprocessing(bundle: Bundle) -> Check:
    golden = bundle.manifest.golden
    found = pixels(bundle.read(golden.jpeg), bundle.manifest.preprocess)
    expected = _array(bundle, golden.pixels)
    if found.shape != expected.shape:
        return Check(name="preprocessing", passed=False, detail=f"shape {found.shape}")
    worst = int(np.abs(found.astype(np.int16) - expected).max())
    return Check(name="preprocessing", passed=worst <= PIXEL_TOLERANCE, difference=worst)


def _array(bundle: Bundle, member: str) -> Any:
    return np.load(io.BytesIO(bundle.read(member)), allow_pickle=False)
