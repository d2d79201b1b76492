"""`edgetl inspect` as a user runs it."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from edgetl.bundle import open_bundle

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_json_is_the_manifest(cli: Cli, tiny_bundle: Path) -> None:
    done = cli("inspect", tiny_bundle, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    with open_bundle(tiny_bundle) as opened:
        expected = msgspec.json.decode(msgspec.json.encode(opened.manifest))
        assert found.pop("sha256") == opened.sha256
    assert found == expected  # and no "verified" without --verify


def test_verify_runs_every_engine(cli: Cli, tiny_bundle: Path) -> None:
    done = cli("inspect", tiny_bundle, "--verify", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["verified"] is True
    names = [check["name"] for check in found["checks"]]
    assert names == ["preprocessing", *(c["recipe"] for c in found["candidates"])]
    assert all(check["passed"] for check in found["checks"])


def test_verify_fails_on_other_logits(
    cli: Cli, write_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    stream = io.BytesIO()
    np.save(stream, np.ones((4, 3), np.float32))
    path = write_tiny(
        tmp_path / "t.edgetl",
        ("ort-fp32",),
        None,
        {"golden/ort-fp32/logits.npy": stream.getvalue()},
    )
    done = cli("inspect", path, "--verify", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["verified"] is False
    assert "the self-test failed" in done.stderr
    assert "self-test ort-fp32: FAILED" in cli("inspect", path, "--verify").stdout


def test_the_table_tells_chosen_and_refused(
    cli: Cli, write_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    refused = {"ort-int8": {"rejected": "agreement 0.9 is below 0.95"}}
    path = write_tiny(tmp_path / "t.edgetl", ("ort-fp32", "ort-int8"), refused)
    done = cli("inspect", path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split("│")[1].strip(): line for line in done.stdout.splitlines() if "│" in line}
    assert "chosen" in lines["ort-fp32"]
    assert "refused: agreement 0.9 is below 0.95" in lines["ort-int8"]
    assert "bars, disc, square" in done.stdout


def test_probabilities_that_no_labels_fitted_are_named(
    cli: Cli, write_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    for calibrated in (False, True):
        stated = {"ort-fp32": {"calibrated": calibrated}}
        bundle = write_tiny(tmp_path / f"{calibrated}.edgetl", ("ort-fp32",), stated)
        shown = cli("inspect", bundle).stdout
        assert ("probabilities: uncalibrated" in shown) != calibrated
