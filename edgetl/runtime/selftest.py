"""The golden self-test: does this machine compute what the exporting one did?"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl.bundle import Bundle, Candidate
from edgetl.engines import Outputs, Session
from edgetl.errors import BundleError, EdgetlError
from edgetl.runtime.choose import shipped, unfit
from edgetl.runtime.session import open_session
from edgetl.spec import Record
from edgetl.tasks.base import join

Array = npt.NDArray[np.float32]

# Largest difference of a value, as a share of its output's range. Integer and bfloat16 kernels
# round differently on other processors; float32 only in its last digits.
TOLERANCE = {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.06, "int8": 0.15}
LEAST_NOISE = 0.03  # of the outputs' spread: placements that are nearly FP32 may still round
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
    first = _guarded(PREPROCESSING, _preprocessing, bundle)
    return [first, *(_guarded(c.name, _run, bundle, c) for c in shipped(bundle))]


def _guarded(name: str, run: Callable[..., Check], *given: Any) -> Check:
    """A check; one that failed, where the engine does, or the bundle's arrays are none."""
    try:
        return run(*given)
    except EdgetlError as error:
        return Check(name=name, passed=False, detail=str(error))


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
    """One candidate on the golden inputs, against its own golden outputs."""
    reason = unfit(candidate)
    if reason is not None:
        return Check(name=candidate.name, passed=None, detail=f"skipped: {reason}")
    with contextlib.closing(open_session(bundle, candidate)) as session:
        return check_session(bundle, candidate, session)


def check_session(bundle: Bundle, candidate: Candidate, session: Session) -> Check:
    """An opened candidate on the golden inputs, one at a time, against its own golden outputs."""
    return _guarded(candidate.name, _compared, bundle, candidate, session)


def _compared(bundle: Bundle, candidate: Candidate, session: Session) -> Check:
    golden, name = bundle.manifest.golden, candidate.name
    if name not in golden.outputs:
        return Check(name=name, passed=False, detail="the bundle holds no outputs to compare with")
    inputs, expected = _array(bundle, golden.inputs), _expected(bundle, name)
    found = join([session.run(inputs[i : i + 1]) for i in range(len(inputs))])
    shapes = [{key: values.shape for key, values in of.items()} for of in (found, expected)]
    if shapes[0] != shapes[1]:
        return Check(name=name, passed=False, detail=f"outputs are {shapes[0]}, not {shapes[1]}")
    apart = {output: difference(found[output], expected[output]) for output in expected}
    output = max(apart, key=lambda key: np.nan_to_num(apart[key], nan=np.inf))
    worst, limit = apart[output], TOLERANCE[candidate.precision]
    detail = ""
    if not worst <= limit:  # NaN is not
        detail = f"{output} are off by up to {worst:.3g} of their range, and {limit:g} is allowed"
    else:
        for output, own in _own_noise(bundle, candidate, expected).items():
            moved = _rms(found[output] - expected[output])
            if moved > own:
                detail = (
                    f"{output} are {moved / own:.3g} × as far from the expected ones as INT8 moved "
                    "these from FP32"
                )
    return Check(name=name, passed=not detail, difference=round(worst, 6), detail=detail)


def _expected(bundle: Bundle, name: str) -> Outputs:
    """A candidate's golden outputs."""
    members = bundle.manifest.golden.outputs[name]
    return {output: _array(bundle, member) for output, member in members.items()}


def _own_noise(bundle: Bundle, candidate: Candidate, expected: Outputs) -> dict[str, float]:
    """How far INT8 itself moved each expected output from FP32's, as a root mean square.

    Kernels that are exact round a few values differently, and stay far within it. Those of x86
    processors without VNNI may overflow in 16 bits, and do not (MobileNetV2: 1.4 to 4.7 times).
    Empty where it says nothing: no INT8, no FP32 to compare with, or outputs of a proxy.
    """
    proxy = candidate.checked_with and candidate.checked_with.split()[0] != candidate.engine
    golden = bundle.manifest.golden
    exact = [c for c in shipped(bundle) if c.precision == "fp32" and c.name in golden.outputs]
    if candidate.precision != "int8" or proxy or not exact:
        return {}
    reference = _expected(bundle, exact[0].name)
    return {
        output: max(
            _rms(values - reference[output]), LEAST_NOISE * _rms(values - values.mean(axis=0))
        )
        for output, values in expected.items()
        if output in reference and reference[output].shape == values.shape
    }


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def difference(found: Array, expected: Array) -> float:
    """The largest difference of a value of one output, as a share of its range over the inputs.

    So one large value hides no fault in the others. A value that hardly moves is held to the
    range that half of the values stay within, or to a hundredth of its largest size.
    """
    found, expected = (of.reshape(len(of), -1) for of in (found, expected))
    ranges, largest = np.ptp(expected, axis=0), np.abs(expected).max(axis=0)
    middle = max(float(np.sort(ranges)[(len(ranges) - 1) // 2]), 1e-6)
    scale = np.maximum(np.maximum(ranges, middle), 1e-2 * largest)
    return float((np.abs(found - expected) / scale).max())


def _preprocessing(bundle: Bundle) -> Check:
    golden = bundle.manifest.golden
    found = bundle.manifest.input.read(bundle.read(golden.jpeg)).pixels
    expected = _array(bundle, golden.pixels)
    if found.shape != expected.shape:
        return Check(
            name=PREPROCESSING,
            passed=False,
            detail=f"pixels are {found.shape}, not {expected.shape}",
        )
    worst = int(np.abs(found.astype(np.int16) - expected).max())
    return Check(name=PREPROCESSING, passed=worst <= PIXEL_TOLERANCE, difference=worst)


def _array(bundle: Bundle, member: str) -> Any:
    try:
        return np.load(io.BytesIO(bundle.read(member)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise BundleError(
            f"Bundle {bundle.path} holds no array in {member}: {error}.",
            fix="export it again with `edgetl export`.",
        ) from error
