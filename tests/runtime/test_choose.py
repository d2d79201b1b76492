"""Which candidate runs: what was asked for, then what this machine measured, then the order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgetl.bundle import open_bundle
from edgetl.engines import onnxruntime, openvino
from edgetl.errors import EngineError, EngineMissingError
from edgetl.machine import this_machine
from edgetl.runtime.choose import best_candidate, matching, shipped
from edgetl.runtime.local import remember_p50_ms

RECIPES = ("ov-fp32", "ort-fp32", "ort-int8")


@pytest.fixture(autouse=True)
def _no_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def opened(write_tiny: Callable[..., Path], tmp_path: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def make(candidates: Any = None) -> Any:
            path = write_tiny(tmp_path / "b.edgetl", RECIPES, candidates)
            return stack.enter_context(open_bundle(path))

        yield make


def best(bundle: Any, **options: str) -> str:
    return best_candidate(bundle, **options).recipe


def test_the_profile_order_decides_where_nothing_was_measured(opened: Any) -> None:
    bundle = opened()
    assert best(bundle) == "ov-fp32"
    assert best(bundle, engine="onnxruntime") == "ort-fp32"
    assert best(bundle, precision="int8") == "ort-int8"


def test_the_export_decides_where_it_ran_on_this_machine(opened: Any) -> None:
    here = this_machine().fingerprint
    times = {"ov-fp32": 3.0, "ort-fp32": 2.0, "ort-int8": 4.0}
    rows = {name: {"p50_ms": ms, "measured_on": here} for name, ms in times.items()}
    assert best(opened(rows)) == "ort-fp32"
    other = {name: row | {"measured_on": "a board"} for name, row in rows.items()}
    assert best(opened(other)) == "ov-fp32"


def test_measurements_of_this_machine_decide(opened: Any) -> None:
    bundle = opened()
    remember_p50_ms(bundle.sha256, {"ov-fp32": 3.0, "ort-fp32": 2.0, "ort-int8": 1.0})
    assert best(bundle) == "ort-int8"
    assert best(bundle, precision="fp32") == "ort-fp32"
    assert best(bundle, engine="openvino") == "ov-fp32"  # never substituted


def test_an_engine_that_is_not_here_is_passed_over(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "missing", lambda _: "OpenVINO is away. Fix: get it")
    bundle = opened()
    assert best(bundle) == "ort-fp32"
    with pytest.raises(EngineMissingError, match=r"^OpenVINO is away\.") as error:
        best(bundle, engine="openvino")
    assert error.value.fix == "get it"
    monkeypatch.setattr(onnxruntime, "missing", lambda _: "So is the other. Fix: get both")
    with pytest.raises(EngineMissingError):
        best(bundle)


def test_a_refused_candidate_is_named_with_its_reason(opened: Any) -> None:
    bundle = opened({"ort-int8": {"rejected": "agreement 0.9 is below 0.95"}})
    assert [c.recipe for c in shipped(bundle)] == ["ov-fp32", "ort-fp32"]
    wanted = (
        r"no candidate for engine auto, precision int8; it has openvino fp32, onnxruntime fp32\. "
        r"ort-int8 was refused: agreement 0\.9 is below 0\.95\."
    )
    with pytest.raises(EngineError, match=wanted) as error:
        matching(bundle, precision="int8")
    assert error.value.fix
