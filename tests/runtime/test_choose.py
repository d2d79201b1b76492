"""Which candidate runs: what was asked for, then what this machine measured, then the order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgetl.bundle import open_bundle
from edgetl.engines import Missing, onnxruntime, openvino
from edgetl.errors import EngineError, EngineMissingError, UnknownNameError
from edgetl.machine import this_machine
from edgetl.runtime.choose import TIE, matching, named, ranked, shipped, unfit
from edgetl.runtime.local import Timing, engine_version, remember

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
    return ranked(bundle, **options)[0].recipe


def measured(bundle: Any, p50_ms: dict[str, float], **changes: Any) -> None:
    """Keep medians as `bench` does."""
    remember(
        bundle.sha256,
        timings={
            c.name: Timing(
                **{"engine_version": engine_version(c.engine), "p50_ms": p50_ms[c.name]}
                | {"seconds": 3.0, "noise": 1.2, "unstable": False}
                | changes
            )
            for c in bundle.manifest.candidates
            if c.name in p50_ms
        },
    )


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
    measured(bundle, {"ov-fp32": 3.0, "ort-fp32": 2.0, "ort-int8": 1.0})
    assert best(bundle) == "ort-int8"
    assert best(bundle, precision="fp32") == "ort-fp32"
    assert best(bundle, engine="openvino") == "ov-fp32"  # never substituted


def test_measurements_with_another_version_of_an_engine_do_not(opened: Any) -> None:
    bundle = opened()
    times = {"ov-fp32": 3.0, "ort-fp32": 2.0, "ort-int8": 1.0}
    measured(bundle, times, engine_version="0.0.1")
    assert best(bundle) == "ov-fp32"


def test_candidates_are_ranked_to_the_last(opened: Any) -> None:
    bundle = opened()
    assert [c.name for c in ranked(bundle)] == list(RECIPES)
    measured(bundle, {"ov-fp32": 3.0, "ort-int8": 1.0})
    assert [c.name for c in ranked(bundle)] == ["ort-int8", "ov-fp32", "ort-fp32"]


def test_an_engine_that_is_not_here_is_passed_over(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "missing", lambda _: Missing("OpenVINO is away.", "get it"))
    bundle = opened()
    assert best(bundle) == "ort-fp32"
    with pytest.raises(EngineMissingError, match=r"^OpenVINO is away\.") as error:
        best(bundle, engine="openvino")
    assert error.value.fix == "get it"
    monkeypatch.setattr(onnxruntime, "missing", lambda _: Missing("So is the other.", "get both"))
    with pytest.raises(EngineMissingError):
        best(bundle)


def test_a_refused_candidate_is_named_with_its_reason(opened: Any) -> None:
    bundle = opened({"ort-int8": {"rejected": "agreement 0.9 is below 0.95"}})
    assert [c.name for c in shipped(bundle)] == ["ov-fp32", "ort-fp32"]
    wanted = (
        r"no candidate for engine auto, precision int8; it has openvino fp32, onnxruntime fp32\. "
        r"ort-int8 was refused: agreement 0\.9 is below 0\.95\."
    )
    with pytest.raises(EngineError, match=wanted) as error:
        matching(bundle, precision="int8")
    assert error.value.fix


OTHER = "aarch64" if this_machine().arch == "x86_64" else "x86_64"


def test_a_candidate_for_another_processor_is_passed_over(opened: Any) -> None:
    """The order puts it first, but its files are not meant for this machine."""
    bundle = opened({"ov-fp32": {"arch": (OTHER,)}})
    first = named(bundle, "ov-fp32")
    reason = unfit(first)
    assert reason is not None
    assert f"meant for {OTHER}, and this machine is {this_machine().arch}." in reason.message
    assert best(bundle) == "ort-fp32"
    with pytest.raises(EngineMissingError, match=f"It is meant for {OTHER}") as error:
        best(bundle, engine="openvino")
    assert error.value.fix == "run it there"


def test_a_candidate_for_several_processors_fits(opened: Any) -> None:
    both = opened({"ov-fp32": {"arch": (OTHER, this_machine().arch)}})
    assert unfit(named(both, "ov-fp32")) is None
    assert best(both) == "ov-fp32"
    rows = {c.name: unfit(c) for c in shipped(opened())}
    assert rows["ov-fp32"] is None


def test_measurements_of_others_do_not_make_a_processor_fit(opened: Any) -> None:
    bundle = opened({"ov-fp32": {"arch": (OTHER,)}})
    measured(bundle, {"ov-fp32": 1.0, "ort-fp32": 2.0})
    assert best(bundle) == "ort-fp32"


def test_of_equal_medians_the_nearest_to_fp32_runs(opened: Any) -> None:
    near = {"ort-int8": {"divergence": 0.2}, "ov-fp32": {"divergence": 1e-6}}
    bundle = opened(near)
    measured(bundle, {"ort-int8": 1.0, "ov-fp32": 0.999 * TIE, "ort-fp32": 3.0})
    assert best(bundle) == "ov-fp32"
    measured(bundle, {"ort-int8": 1.0, "ov-fp32": 1.001 * TIE, "ort-fp32": 3.0})
    assert best(bundle) == "ort-int8"


def test_a_candidate_by_name(opened: Any) -> None:
    bundle = opened({"ort-int8": {"rejected": "agreement 0.9 is below 0.95"}})
    assert named(bundle, "ort-fp32").recipe == "ort-fp32"
    with pytest.raises(UnknownNameError, match=r"Unknown candidate 'ort-fp3': did you") as unknown:
        named(bundle, "ort-fp3")
    assert "edgetl inspect" in unknown.value.fix
    with pytest.raises(EngineError, match=r"ort-int8 of .* was refused: agreement 0\.9") as refused:
        named(bundle, "ort-int8")
    assert refused.value.fix
