"""`edgetl export` that is interrupted or finds no room: whole or absent."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.bundle import open_bundle
from edgetl.runtime.selftest import self_test
from tests.cli.typed import COLOURS, ORT, RECIPE, Typed


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Typed]:
    """Type a command line while no file may grow beyond so many bytes."""

    def of(most: int, *arguments: Any) -> Typed:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            return Typed(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return of


@pytest.mark.parametrize("when", ["at once", "measuring", "after the search"])
def test_a_full_disk(
    when: str, full: Callable[..., Typed], *, model: Path, photos: Path, home: Path, quick: None
) -> None:
    """The quantizer's files do not fit, or the bundle, or only the one with what was found."""
    out = home / "x.edgetl"
    given = (model, "--calib", photos, *COLOURS, *ORT, "--max-drop", "0.9", "--recipe")
    given += (model.with_name("mine.toml"), "--out", out)
    model.with_name("mine.toml").write_text(RECIPE)  # it passes, whatever its agreement is
    assert Typed(*given, "--search", "never").code == 0
    most = {"at once": 4096, "measuring": 40_000, "after the search": out.stat().st_size + 1000}
    out.write_bytes(b"the old bundle")
    done = full(most[when], *given, "--search", "always", "--budget", "5s")
    assert "Cannot write" in done.error()
    assert "File too large" in done.error()
    assert ("search: trial" in done.err) == (when == "after the search")
    assert out.read_bytes() == b"the old bundle"
    assert [p.name for p in home.iterdir()] == ["x.edgetl"]


@pytest.fixture
def searching_process(
    model: Path, photos: Path, home: Path, scratch: Path, tmp_path: Path
) -> Iterator[subprocess.Popen[str]]:
    """An export in a process of its own that searches for a long time."""
    command = ["export", model, "--calib", photos, *COLOURS, *ORT, "--out", home / "x.edgetl"]
    command += ["--search", "always", "--max-drop", "0.9", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "edgetl", *map(str, command)],
        env=os.environ | {"TMPDIR": str(scratch), "EDGETL_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def interrupt(process: subprocess.Popen[str], at: str) -> list[str]:
    """Ctrl-C, as a terminal sends it, once a line holds `at`; returns the lines until then."""
    seen: list[str] = []
    assert process.stderr is not None
    for line in process.stderr:
        seen.append(line)
        if at in line:
            os.killpg(process.pid, signal.SIGINT)
            return seen
    raise AssertionError(f"no line held {at!r}: {seen}")


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_search_and_not_the_export(
    searching_process: subprocess.Popen[str], home: Path
) -> None:
    seen = interrupt(searching_process, "search: trial 8")
    shown, said = searching_process.communicate(timeout=120)
    assert searching_process.returncode == 0, said
    assert "Traceback" not in said
    found = json.loads(shown)
    begun = "".join([*seen, said]).count("search: trial")
    assert begun < 12  # it ended soon; a trial that was running is no placement
    finished = int(found["notes"][-1].split()[1])
    assert begun - 1 <= finished <= begun
    assert found["notes"][-1].endswith("; Ctrl-C ended it")
    with open_bundle(home / "x.edgetl") as opened:
        mixed = [c for c in opened.manifest.candidates if "mixed" in c.name]
        # none when the whole network in INT8 was the fastest and the nearest of the few trials
        assert f" {len(mixed)} built in full" in found["notes"][-1]
        for candidate in mixed:
            assert candidate.quantization is not None
            assert candidate.quantization.kept_float
            assert candidate.rejected is not None or candidate.p50_ms is not None
        assert all(check.passed is not False for check in self_test(opened))
    assert [p.name for p in home.iterdir()] == ["x.edgetl"]


@pytest.mark.usefixtures("interruptible")
def test_a_second_ctrl_c_ends_the_export(
    searching_process: subprocess.Popen[str], home: Path
) -> None:
    interrupt(searching_process, "search: trial 8")
    try:
        seen = interrupt(searching_process, "-mixed")
    except AssertionError:
        assert searching_process.wait(120) == 0  # nothing else ended it
        pytest.skip("no trial beat the whole network in INT8, so that nothing is built after them")
    _, said = searching_process.communicate(timeout=120)
    assert searching_process.returncode == 130, said
    assert said.endswith("edgetl: interrupted\n")
    assert "Traceback" not in "".join([*seen, said])
    assert not list(home.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_finished_trials_are_there_after_ctrl_c(
    searching_process: subprocess.Popen[str], tmp_path: Path
) -> None:
    interrupt(searching_process, "search: trial 4")
    searching_process.communicate(timeout=120)
    (stored,) = (tmp_path / "cache" / "search").iterdir()
    rows = [json.loads(line) for line in stored.read_text().splitlines()]
    assert len(rows) >= 3
    assert np.isfinite([[row["ratio"], row["divergence"]] for row in rows]).all()
