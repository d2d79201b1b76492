"""`edgetl build`: refusals in one line; a build itself needs a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetl.engines import tensorrt

Cli = Callable[..., Any]


def test_a_bundle_without_such_candidates_needs_no_build(
    cli: Cli, write_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiny(tmp_path / "cpu.edgetl", ("ort-fp32",))
    done = cli("build", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"edgetl: error: Nothing to build in {path}: ")
    assert "run as they are. Fix: run `edgetl bench" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_tensorrt_the_reason_is_one_line(cli: Cli, jetson_bundle: Path) -> None:
    if tensorrt.missing() is None:
        pytest.skip("TensorRT runs here")
    done = cli("build", jetson_bundle, "--engine", "tensorrt", "--precision", "fp16")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"edgetl: error: This machine cannot build trt-fp16-weak, trt-fp16-strong of "
        f"{jetson_bundle}: "
    )
    assert " Fix: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_json_errors_are_json(cli: Cli, jetson_bundle: Path) -> None:
    if tensorrt.missing() is None:
        pytest.skip("TensorRT runs here")
    done = cli("build", jetson_bundle, "--json")
    assert done.returncode == 1
    said = json.loads(done.stdout)["error"]
    assert said["type"] == "EngineMissingError"
    assert said["fix"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--batch", "2000"), "--batch 2000 is not possible"),
        (("--engine", "openvino"), "has no candidate for engine openvino"),
        (("--precision", "int8"), "has no candidate for engine auto, precision int8"),
    ],
)
def test_wrong_options_are_refused(
    cli: Cli, jetson_bundle: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = cli("build", jetson_bundle, *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_no_bundle(cli: Cli, tmp_path: Path) -> None:
    done = cli("build", tmp_path / "none.edgetl")
    assert done.returncode == 1
    assert "none.edgetl" in done.stderr
