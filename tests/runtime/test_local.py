"""What this machine found out is kept for this machine, this bundle and these engines alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgetl.bundle.manifest import Candidate
from edgetl.errors import StorageError
from edgetl.machine import this_machine
from edgetl.runtime import local
from edgetl.runtime.local import (
    Timing,
    Verdict,
    engine_version,
    instability,
    known,
    local_timings,
    local_verdict,
    merged,
    remember,
)

BUNDLE, OTHER = "a" * 64, "b" * 64
KIND: dict[str, Any] = {"precision": "fp32", "artifacts": ("x",)}
ORT = Candidate(name="ort-fp32", recipe="ort-fp32", engine="onnxruntime", **KIND)
OV = Candidate(name="ov-fp32", recipe="ov-fp32", engine="openvino", **KIND)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(local, "engine_version", {"onnxruntime": "1"}.get)
    return tmp_path / "cache"


def timed(p50_ms: float, **changes: Any) -> Timing:
    given: dict[str, Any] = {"engine_version": "1", "seconds": 3.0, "noise": 1.2}
    return Timing(p50_ms=p50_ms, **given | {"unstable": False} | changes)


def medians(bundle: str = BUNDLE) -> dict[str, float]:
    return {name: t.p50_ms for name, t in local_timings(bundle, [ORT, OV]).items()}


def become(fingerprint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = msgspec.structs.replace(this_machine(), fingerprint=fingerprint)
    monkeypatch.setattr(local, "this_machine", lambda: machine)


def test_what_is_found_is_kept_by_bundle() -> None:
    assert medians() == {}
    remember(BUNDLE, timings={"ort-fp32": timed(2.0)})
    assert medians() == {"ort-fp32": 2.0}
    assert medians(OTHER) == {}
    remember(BUNDLE, timings={"ov-fp32": timed(9.0)})
    assert known(BUNDLE).timings.keys() == {"ov-fp32"}


def test_medians_of_another_version_of_the_engine_count_as_none() -> None:
    remember(BUNDLE, timings={"ort-fp32": timed(2.0), "ov-fp32": timed(1.0)})
    assert medians() == {"ort-fp32": 2.0}  # no OpenVINO here
    remember(BUNDLE, timings={"ort-fp32": timed(2.0, engine_version="0.9")})
    assert medians() == {}


def test_self_tests_are_kept_for_this_engine_and_this_edgetl() -> None:
    import edgetl

    found = Verdict(engine_version="1", edgetl=edgetl.__version__, passed=False, detail="off")
    remember(BUNDLE, timings={"ort-fp32": timed(2.0)})
    remember(BUNDLE, verdicts={"ort-fp32": found})
    assert local_verdict(BUNDLE, ORT) == found
    assert medians() == {"ort-fp32": 2.0}
    for other in ({"engine_version": "2"}, {"edgetl": "0.0.1"}):
        remember(BUNDLE, verdicts={"ort-fp32": msgspec.structs.replace(found, **other)})
        assert local_verdict(BUNDLE, ORT) is None
    assert local_verdict(OTHER, ORT) is None


def test_machines_that_share_a_cache_keep_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(BUNDLE, timings={"ort-fp32": timed(2.0)})
    become("another machine #0123456789ab", monkeypatch)
    assert medians() == {}
    remember(BUNDLE, timings={"ort-fp32": timed(9.0)})
    assert medians() == {"ort-fp32": 9.0}


def test_a_file_of_another_machine_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(BUNDLE, timings={"ort-fp32": timed(2.0)})
    end = this_machine().fingerprint.rpartition("#")[2]
    become(f"another machine #{end}", monkeypatch)
    assert medians() == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"fingerprint": 3}', b"\xff"])
def test_a_damaged_file_counts_as_none(cache: Path, content: bytes) -> None:
    remember(BUNDLE, timings={"ort-fp32": timed(2.0)})
    (path,) = (cache / "measurements").iterdir()
    path.write_bytes(content)
    assert medians() == {}
    remember(BUNDLE, timings={"ort-fp32": timed(4.0)})
    assert medians() == {"ort-fp32": 4.0}


def test_a_cache_that_cannot_be_written_is_told_apart_from_an_empty_one(cache: Path) -> None:
    cache.write_text("a file where a folder should be")
    assert medians() == {}
    with pytest.raises(StorageError, match="Cannot write") as error:
        remember(BUNDLE, timings={"ort-fp32": timed(2.0)})
    assert "EDGETL_CACHE" in error.value.fix


def test_no_home_for_a_cache_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("EDGETL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", classmethod(unknown))
    assert medians() == {}
    with pytest.raises(StorageError, match="no home folder") as error:
        remember(BUNDLE, timings={"ort-fp32": timed(2.0)})
    assert "EDGETL_CACHE" in error.value.fix


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"seconds": 2.8}, ""),  # one run less
        ({"seconds": 30.0, "noise": 2.0}, ""),
        ({"seconds": 1.0}, "it took 1 s a candidate, and the earlier one 3 s"),
        (
            {"noise": 50.0, "unstable": True},
            "its p99 is up to 50 × p50, and the earlier one's 1.2 ×",
        ),
        ({"engine_version": "2", "seconds": 0.1, "noise": 50.0, "unstable": True}, ""),
    ],
)
def test_only_a_measurement_as_long_and_as_quiet_replaces_another(
    changes: dict[str, Any], told: str
) -> None:
    old = {"a": timed(2.0), "b": timed(3.0)}
    new = {"a": timed(9.0, **changes), "b": timed(8.0, **changes)}
    kept, why = merged(old, new)
    assert why == told
    assert kept == (old if told else new)


def test_of_two_noisy_measurements_the_quieter_one_stays() -> None:
    old = {"a": timed(2.0, noise=20.0, unstable=True)}
    assert merged(old, {"a": timed(1.0, noise=10.0, unstable=True)})[0]["a"].p50_ms == 1.0
    assert merged(old, {"a": timed(1.0, noise=30.0, unstable=True)})[0]["a"].p50_ms == 2.0


def test_a_candidate_that_was_never_measured_is_added_either_way() -> None:
    kept, why = merged({"a": timed(2.0)}, {"a": timed(9.0, seconds=0.1), "b": timed(1.0)})
    assert why
    assert {name: t.p50_ms for name, t in kept.items()} == {"a": 2.0, "b": 1.0}
    assert merged({}, {"a": timed(1.0, seconds=0.1)}) == ({"a": timed(1.0, seconds=0.1)}, "")


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ((1.0, 1.05, 1.3), ""),
        ((1.0, 1.4, 3.0), ""),
        ((1.0, 1.2, 50.0), "p99 is 50 × p50"),
        ((2.0, 4.2, 5.0), "p90 is 2.1 × p50"),
    ],
)
def test_a_median_among_scattered_times_is_unstable(
    times: tuple[float, float, float], told: str
) -> None:
    assert instability(*times) == told


def test_versions_are_those_that_the_engines_say(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgetl.engines import ENGINES, find_engine

    monkeypatch.undo()
    for name in ENGINES.own:
        engine = find_engine(name)
        if engine.missing() is None:
            assert engine_version(name) == engine.version()
