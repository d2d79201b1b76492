"""Errors of the command line: one line, one document, and an exit code that can be relied on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]
Damage = Callable[[Path], object]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def add_member(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("extra.txt", "extra")


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "run.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "is damaged (its SHA-256 is wrong)"),
        (truncate, "was cut off"),
        (add_member, "is damaged (its SHA-256 is wrong)"),
        (append, "has bytes added"),
        (to_folder, "is a folder or device, not a file"),
        (Path.unlink, "does not exist"),
        (lambda path: path.write_text("hello\n"), "is not an edgetl bundle"),
        (lambda path: path.write_bytes(b""), "is empty"),
    ],
    ids=["flip", "truncate", "add-member", "append", "folder", "missing", "text", "empty"],
)
def test_damaged_bundles(
    cli: Cli, tiny_bundle: Path, tmp_path: Path, damage: Damage, message: str
) -> None:
    path = Path(shutil.copy(tiny_bundle, tmp_path / "b.edgetl"))
    damage(path)
    done = cli("inspect", path, "--json")
    assert done.returncode == 1
    (document,) = [json.loads(done.stdout)]
    error = document["error"]
    assert document.keys() == {"error"}
    assert error.keys() == {"type", "message", "fix"}
    assert error["type"] == "BundleError"
    assert f"Bundle {path} " in error["message"]
    assert message in error["message"]
    assert error["fix"]
    assert done.stderr == f"edgetl: error: {error['message']} Fix: {error['fix']}\n"


def test_every_verb_refuses_what_is_no_bundle(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "text").write_text("hello")
    for arguments in (
        ("predict", "run", "x.jpg"),
        ("bench", "text"),
        ("unpack", "text", "out"),
        ("evaluate", "text", "run"),
    ):
        done = cli(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"edgetl: error: Bundle {arguments[1]} is ")
        assert len(done.stderr.splitlines()) == 1


def test_tracebacks_are_for_debug(cli: Cli) -> None:
    plain = cli("inspect", "no.edgetl")
    debug = cli("inspect", "no.edgetl", "--debug", "--json")
    assert plain.returncode == debug.returncode == 1
    assert "Traceback" not in plain.stderr
    assert debug.stderr.startswith("Traceback")
    assert debug.stderr.endswith(plain.stderr)
    assert json.loads(debug.stdout)["error"]["message"] in plain.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("bench", "b.edgetl", "--precision", "int3"), "int3"),
        (("predict", "b.edgetl", "x.jpg", "--engine", "tflite"), "tflite"),
        (("predict", "b.edgetl"), "images"),
        (("bench", "b.edgetl", "--threads", "many"), "--threads"),
        (("bogus",), "bogus"),
        (("inspect", "b.edgetl", "--bogus"), "--bogus"),
    ],
    ids=["precision", "engine", "missing", "number", "verb", "option"],
)
def test_what_the_parser_refuses_is_2(cli: Cli, arguments: tuple[str, ...], named: str) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert named in done.stderr.lower()


def test_a_full_disk_behind_stdout(tiny_bundle: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    for options in (["--json"], []):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "edgetl", "inspect", str(tiny_bundle), *options],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
                check=False,
            )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "No space left on device" in done.stderr


def test_any_terminal_encoding_will_do(cli: Cli, tiny_bundle: Path) -> None:
    """Texts hold dashes and file names that ASCII lacks."""
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = cli("inspect", tiny_bundle, env=ascii_only)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "tiny.edgetl" in done.stdout


def test_a_reader_of_a_table_may_leave(tmp_path: Path) -> None:
    """As in `edgetl devices | head -1`, where the reader is gone before anything is written."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "edgetl", "devices"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
