"""The golden self-test passes on what was written, and fails on anything else."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.bundle import open_bundle
from edgetl.runtime.selftest import Check, difference, mending, self_test, verdict


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.fixture
def tampered(write_tiny: Callable[..., Path], tmp_path: Path) -> Callable[..., dict[str, Check]]:
    def check(members: dict[str, bytes], **changes: Any) -> dict[str, Check]:
        path = write_tiny(tmp_path / "t.edgetl", ("ort-fp32", "ort-int8"), None, members, **changes)
        with open_bundle(path) as opened:
            checks = self_test(opened)
        assert verdict(checks) is False
        return {item.name: item for item in checks}

    return check


def test_it_passes_on_every_candidate(tiny_bundle: Path) -> None:
    with open_bundle(tiny_bundle) as opened:
        checks = self_test(opened)
        names = [c.name for c in opened.manifest.candidates]
    assert [c.name for c in checks] == ["preprocessing", *names]
    assert all(c.passed for c in checks)
    assert verdict(checks) is True


@pytest.mark.parametrize("shift", [0.2, np.nan])
def test_other_logits_fail(tampered: Any, tiny_logits: Callable[[str], Any], shift: float) -> None:
    found = tampered(
        {"golden/ort-fp32/logits.npy": npy(tiny_logits("ort-fp32") + np.float32(shift))}
    )
    assert found["ort-fp32"].passed is False
    assert found["ort-int8"].passed is True
    assert found["preprocessing"].passed is True


@pytest.mark.parametrize("output", [0, 1, 2])
def test_a_fault_in_any_output_fails(
    tampered: Any, tiny_logits: Callable[[str], Any], output: int
) -> None:
    """However large the other outputs are; those of the candidate are as stated."""
    other = tiny_logits("ort-fp32").copy()
    other[-1, output] += 0.01 * np.ptp(other[:, output])
    found = tampered({"golden/ort-fp32/logits.npy": npy(other)})
    assert found["ort-fp32"].passed is False


def test_int8_may_not_move_further_than_int8_itself_did(
    write_tiny: Callable[..., Path], tiny_logits: Callable[[str], Any], tmp_path: Path
) -> None:
    """Where another engine gave the logits in its place, nothing is known of its rounding."""
    off = 0.1 * np.ptp(tiny_logits("ort-int8"), axis=0)
    members = {
        f"golden/{name}/logits.npy": npy((tiny_logits(name) + off).astype(np.float32))
        for name in ("ort-int8", "ort-fp32")
    }
    for scored_by, passes in (("", False), ("onnxruntime 1.2", False), ("tensorrt 10.3", True)):
        stated = {"ort-int8": {"checked_with": scored_by}}
        path = write_tiny(tmp_path / "t.edgetl", ("ort-fp32", "ort-int8"), stated, members)
        with open_bundle(path) as opened:
            found = {check.name: check for check in self_test(opened)}["ort-int8"]
        assert found.difference == pytest.approx(0.1, abs=1e-3)
        assert found.passed is passes
        assert ("× as far from the expected ones" in found.detail) is not passes


def test_advice_is_what_can_help() -> None:
    good, bad = Check(name="ort-fp32", passed=True), Check(name="ov-int8", passed=False)
    read = Check(name="preprocessing", passed=True)
    assert "use what passed, as `edgetl predict` does by itself: ort-fp32" in mending(
        [read, good, bad]
    )
    assert "another version of the engine" in mending([read, bad])
    assert "Pillow" in mending([Check(name="preprocessing", passed=False), good])


def test_a_large_output_hides_nothing(tiny_logits: Callable[[str], Any]) -> None:
    expected = tiny_logits("ort-fp32") * np.array([1e4, 1, 1], np.float32)
    found = expected.copy()
    found[2, 1] += 0.1 * np.ptp(expected[:, 1])
    assert np.abs(found - expected).max() < 1e-4 * np.ptp(expected)
    assert 0.01 < difference(found, expected) < 0.11


def test_an_output_that_never_moves_is_not_held_to_rounding() -> None:
    expected = np.array([[3.0, 1.0, -9.0], [3.0, 2.0, 4.0]], np.float32)
    assert difference(expected + np.float32(1e-7), expected) < 1e-6
    still = np.full((2, 2), 50, np.float32)
    assert difference(still * np.float32(1 + 1e-6), still) < 2e-3
    assert difference(still + 1, still) > 1


def test_other_pixels_fail(tampered: Any) -> None:
    found = tampered({"golden/pixels.npy": npy(np.zeros((32, 32, 3), np.uint8))})
    assert found["preprocessing"].passed is False
    assert found["preprocessing"].difference > 3
    assert found["ort-fp32"].passed is True


@pytest.mark.parametrize(
    ("member", "data", "check", "detail"),
    [
        (
            "ort-fp32/logits.npy",
            npy(np.zeros((2, 3), np.float32)),
            "ort-fp32",
            r"\(4, 3\)\}, not .*\(2, 3\)",
        ),
        (
            "ort-fp32/logits.npy",
            b"no array",
            "ort-fp32",
            "holds no array in golden/ort-fp32/logits.npy",
        ),
        ("inputs.npy", npy(np.zeros((4, 8, 8, 3), np.uint8)), "ort-int8", r"\(N, 32, 32, 3\)"),
        ("pixels.npy", npy(np.zeros((8, 8, 3), np.uint8)), "preprocessing", "not \\(8, 8, 3\\)"),
        ("image.jpg", b"no picture", "preprocessing", "not an image"),
    ],
)
def test_members_that_do_not_fit_fail(
    tampered: Any, member: str, data: bytes, check: str, detail: str
) -> None:
    import re

    found = tampered({f"golden/{member}": data})[check]
    assert found.passed is False
    assert re.search(detail, found.detail)


def test_pickles_are_not_loaded(tampered: Any) -> None:
    evil = npy(np.array([Path("x")], object))
    assert "holds no array" in tampered({"golden/ort-fp32/logits.npy": evil})["ort-fp32"].detail


def test_logits_may_not_be_left_out(
    write_tiny: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    import msgspec

    with open_bundle(tiny_bundle) as opened:
        golden = msgspec.structs.replace(opened.manifest.golden, outputs={})
    path = write_tiny(tmp_path / "t.edgetl", ("ort-fp32",), golden=golden)
    with open_bundle(path) as opened:
        checks = self_test(opened)
    assert verdict(checks) is False
    assert "no outputs to compare" in checks[1].detail


def test_nothing_is_verified_where_no_engine_is_here(
    jetson_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetl.engines import Missing, onnxruntime, tensorrt

    if tensorrt.missing() is None:
        pytest.skip("TensorRT runs here")
    monkeypatch.setattr(onnxruntime, "missing", lambda _: Missing("Away.", "get it"))
    with open_bundle(jetson_bundle) as opened:
        checks = self_test(opened)
    assert [c.passed for c in checks] == [True, None, None, None]
    assert all("skipped: " in c.detail for c in checks[1:])
    assert verdict(checks) is None
