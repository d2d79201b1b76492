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


REFUSED = {
    "precision": (("bench", "b.edgetl", "--precision", "int3"), "'int3' is not one of 'auto'"),
    "engine": (("predict", "b.edgetl", "x.jpg", "--engine", "tflite"), "'tflite' is not one of"),
    "missing": (("predict", "b.edgetl"), "Missing argument 'images'"),
    "missing option": (("export", "run", "--out", "x"), "Missing option '--target'"),
    "number": (("bench", "b.edgetl", "--threads", "many"), "Invalid value for '--threads'"),
    "range": (("compare", "b.edgetl", "--images", "x", "--fail-below", "2"), "'--fail-below'"),
    "verb": (("bogus",), "No such command 'bogus'"),
    "option": (("inspect", "b.edgetl", "--bogus"), "No such option: --bogus"),
    "too many": (("inspect", "b.edgetl", "c.edgetl"), "(c.edgetl)"),
    "no value": (("bench", "b.edgetl", "--duration"), "'--duration' requires an argument"),
    "a value": (("bench", "b.edgetl", "--json=yes"), "'--json' does not take a value"),
    "brackets": (("inspect", "b", "[red]x[/red]"), "([red]x[/red])"),
}


@pytest.mark.parametrize(("arguments", "what"), REFUSED.values(), ids=list(REFUSED))
def test_what_the_parser_refuses_is_2_and_one_error(
    cli: Cli, arguments: tuple[str, ...], what: str
) -> None:
    plain = cli(*arguments)
    assert plain.returncode == 2
    assert plain.stderr.startswith("edgetl: error: ")
    assert plain.stderr.count("\n") == 1
    assert what in plain.stderr
    with_json = cli(arguments[0], "--json", *arguments[1:])
    assert (with_json.returncode, with_json.stderr) == (2, plain.stderr)
    document = json.loads(with_json.stdout)
    assert document.keys() == {"error"}
    assert document["error"]["type"] == "UsageError"
    assert what in document["error"]["message"]
    verb = f" {arguments[0]}" if arguments != ("bogus",) else ""
    assert document["error"]["fix"] == f"see `edgetl{verb} --help`."


def test_an_option_before_the_verb(cli: Cli) -> None:
    done = cli("--json", "inspect", "b.edgetl")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["fix"].startswith("name the command first")


def test_json_after_two_dashes_is_a_file(cli: Cli) -> None:
    done = cli("inspect", "--bogus", "--", "--json")
    assert (done.returncode, done.stdout) == (2, "")


def test_no_verb_at_all_is_the_help(cli: Cli) -> None:
    done = cli()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: edgetl ")
    assert "finetune" in done.stderr


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
