"""`edgetl compare` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetl.engines import find_engine

Cli = Callable[..., subprocess.CompletedProcess[str]]
NAMES = ("--candidates", "ort-fp32,ov-int8")


@pytest.fixture(scope="module")
def bundle(write_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two candidates and one that was refused."""
    if find_engine("openvino").missing():
        pytest.skip("OpenVINO is not here")
    path = tmp_path_factory.mktemp("compare") / "tiny.edgetl"
    refused = {"ov-fp32": {"rejected": "agreement 0.9 is below 0.997"}}
    return write_tiny(path, ("ort-fp32", "ov-int8", "ov-fp32"), refused)


def test_json_is_one_document(cli: Cli, bundle: Path, shapes: Path) -> None:
    done = cli("compare", bundle, *NAMES, "--images", shapes / "disc", "--top", "3", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["n"], found["known"], len(found["images"])) == (24, 24, 3)
    assert [side["recipe"] for side in found["sides"]] == ["ort-fp32", "ov-int8"]
    assert 0.5 < found["pairs"][0]["agreement"] <= 1
    assert {image["truth"] for image in found["images"]} == {"disc"}
    assert all(len(image["answers"]) == 2 for image in found["images"])


def test_plain_output_and_the_page(cli: Cli, bundle: Path, shapes: Path, tmp_path: Path) -> None:
    """A text file among the images is named, and the rest is compared."""
    text, page = tmp_path / "text.jpg", tmp_path / "new" / "page.html"
    text.write_text("not an image")
    images = ("--images", shapes / "disc", "--images", shapes / "bars" / "00.png")
    done = cli("compare", bundle, *NAMES, *images, "--images", text, "--html", page)
    assert done.returncode == 0
    assert "25 images, the class of 25 is known" in done.stdout
    assert "against ort-fp32" in done.stdout
    assert "worst first" in done.stdout
    assert done.stdout.count(".png") == 10
    assert f"skipped: Cannot read image {text}" in done.stderr
    assert done.stderr.endswith(f"edgetl: wrote {page}\n")
    html = page.read_text("utf-8")
    assert html.count("data:image/jpeg;base64,") == 10
    assert "text.jpg" in html


def test_the_agreement_may_fail(
    cli: Cli, bundle: Path, write_tiny: Callable[..., Path], shapes: Path, tmp_path: Path
) -> None:
    """Against the same network with the names of its classes exchanged."""
    other = write_tiny(tmp_path / "other.edgetl", ("ort-fp32",), labels=("disc", "square", "bars"))
    given = ("compare", bundle, other, "--images", shapes / "disc", "--json", "--fail-below")
    agreement = json.loads(cli(*given, "0").stdout)["pairs"][0]["agreement"]
    assert agreement < 1
    assert cli(*given, str(agreement)).returncode == 0
    done = cli(*given, "1.0")
    assert done.returncode == 1
    assert f"agreement of other: ort-fp32 is {agreement:.4f}, below 1.0." in done.stderr
    assert json.loads(done.stdout)["n"] == 24  # the document is whole all the same
    assert cli(*given, "1.5").returncode == 2


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--candidates", "ort-fp32,ov-fp32"), ("EngineError", "was refused: agreement 0.9")),
        (("--candidates", "ort-fp32"), ("UsageError", "Only ort-fp32 would be compared")),
        (("--engines", "onnxruntime,tvm"), ("UnknownNameError", "Unknown engine 'tvm'")),
        ((*NAMES, "--html", "."), ("UsageError", "--html . is a folder")),
        ((*NAMES, "--images", "."), ("DataError", "No images in folder .")),
    ],
)
def test_errors_are_one_line(
    cli: Cli, bundle: Path, shapes: Path, options: Any, error: tuple[str, str]
) -> None:
    done = cli("compare", bundle, "--images", shapes / "disc" / "00.png", *options, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert found["error"]["type"] == error[0]
    assert error[1] in found["error"]["message"]
    assert found["error"]["fix"]
    assert len(done.stderr.splitlines()) == 1


def test_the_page_needs_an_extra_and_says_which(bundle: Path, shapes: Path, tmp_path: Path) -> None:
    """Without jinja2 the comparison still runs; only `--html` is refused, before anything runs."""
    program = """
import sys
sys.modules["jinja2"] = None
from edgetl.cli import main
main()
"""
    command = [sys.executable, "-c", program, "compare", str(bundle), *NAMES]
    command += ["--images", str(shapes / "disc" / "00.png")]
    settings: dict[str, Any] = {"capture_output": True, "text": True, "cwd": tmp_path}
    done = subprocess.run(command, check=False, timeout=120, **settings)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*command, "--html", "a.html"], check=False, timeout=120, **settings)
    assert done.returncode == 1
    assert "needs packages that are not installed. Fix: pip install 'edgetl[train]'" in done.stderr
    assert not (tmp_path / "a.html").exists()


def test_a_page_that_cannot_be_written_fails_before_anything_runs(
    cli: Cli, tiny_bundle: Path, shapes: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    two = ("--candidates", "ort-fp32,ov-fp32")
    done = cli("compare", tiny_bundle, *two, "--images", shapes, "--html", "file/page.html")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Cannot write into " in done.stderr
    assert "--html" in done.stderr
    before = tiny_bundle.read_bytes()
    done = cli("compare", tiny_bundle, *two, "--images", shapes, "--html", tiny_bundle)
    assert "would write over a file of another kind" in done.stderr
    assert tiny_bundle.read_bytes() == before


def test_what_cannot_be_read_says_one_fix(cli: Cli, tiny_bundle: Path) -> None:
    two = ("--candidates", "ort-fp32,ov-fp32")
    done = cli("compare", tiny_bundle, *two, "--images", "nowhere", "--json")
    error = json.loads(done.stdout)["error"]
    assert error["message"].endswith("Cannot read image nowhere: no such file.")
    assert error["fix"] == "check the path and its permissions."
