"""`edgetl evaluate` on a bundle, as a user runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import edgetl

Cli = Callable[..., subprocess.CompletedProcess[str]]
THREE = {"bars": 12, "disc": 9, "square": 9}


def test_json_has_the_scores(
    cli: Cli, tiny_bundle: Path, drawn: Callable[..., Path], tmp_path: Path
) -> None:
    root = drawn(tmp_path / "d", THREE)
    (root / "bars" / "cut.png").write_bytes((root / "bars" / "00.png").read_bytes()[:99])
    options = ("--engine", "onnxruntime", "--precision", "fp32")
    done = cli("evaluate", tiny_bundle, root, *options, "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    scores = edgetl.evaluate(tiny_bundle, root, engine="onnxruntime", precision="fp32")
    assert found["accuracy"] == pytest.approx(scores.metrics["accuracy"])
    assert found["macro_f1"] == pytest.approx(scores.metrics["macro_f1"])
    assert found["n"] == 30
    assert [row["n"] for row in found["per_class"]] == [12, 9, 9]
    assert [sum(row) for row in found["confusion"]] == [12, 9, 9]  # rows are truth
    assert [item["path"] for item in found["skipped_files"]] == ["bars/cut.png"]
    assert done.stderr.startswith("edgetl: skipped bars/cut.png: ")


def test_a_candidate_is_chosen_by_name(cli: Cli, tiny_bundle: Path, shapes: Path) -> None:
    found = {}
    for name in ("ort-fp32", "ort-int8"):
        done = cli("evaluate", tiny_bundle, shapes, "--candidate", name, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        found[name] = json.loads(done.stdout)
        precision = name.removeprefix("ort-")
        scores = edgetl.evaluate(tiny_bundle, shapes, engine="onnxruntime", precision=precision)
        assert found[name]["confusion"] == [list(row) for row in scores.confusion]
    assert found["ort-fp32"]["confusion"] != found["ort-int8"]["confusion"]
    done = cli("evaluate", tiny_bundle, shapes, "--candidate", "nothing", "--json")
    assert json.loads(done.stdout)["error"]["type"] == "UnknownNameError"


def test_what_is_left_out_is_said(
    cli: Cli, tiny_bundle: Path, drawn: Callable[..., Path], tmp_path: Path
) -> None:
    root = tmp_path / "d"
    drawn(root / "Testing", {"bars": 4, "disc": 3})
    drawn(root / "holdout", {"bars": 2})
    drawn(root / "train", {"square": 2})
    (root / "Testing/@eaDir").mkdir()
    for index in range(3):
        (root / f"Testing/bars/{index}.dcm").write_bytes(b"scan")
    (root / "Testing/stray.png").write_bytes((root / "train/square/00.png").read_bytes())
    done = cli("evaluate", tiny_bundle, "d", "--json")
    found = json.loads(done.stdout)
    assert found["n"] == 7
    assert [(item["path"], item["n"]) for item in found["skipped_files"]] == [
        ("Testing/bars/0.dcm", 3)
    ]
    assert done.stderr.splitlines() == [
        "edgetl: Not used, because the name means no split: holdout (2 photos), beside Testing, "
        "train.",
        f"edgetl: Photos beside the class folders in {root}/Testing are not used: 1, stray.png "
        "for one.",
        "edgetl: skipped 3 files, Testing/bars/0.dcm for one: .dcm (DICOM), no photo",
    ]


def test_the_table_ends_in_the_scores(cli: Cli, tiny_bundle: Path, shapes: Path) -> None:
    done = cli("evaluate", tiny_bundle, shapes)
    assert (done.returncode, done.stderr) == (0, "")
    assert "truth \\ predicted" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("accuracy ")
    assert last.endswith("72 photos")


def test_an_unknown_class(
    cli: Cli, tiny_bundle: Path, drawn: Callable[..., Path], tmp_path: Path
) -> None:
    drawn(tmp_path / "d", {"disc": 2}).joinpath("disc").rename(tmp_path / "d" / "ring")
    done = cli("evaluate", tiny_bundle, "d", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "DataError"
    assert "The model does not know class ring" in error["message"]
    assert "bars, disc, square" in error["fix"]
