"""What is printed: names of files and labels as they are, on whatever stdout."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetl.cli.common import emit, message, show, table, verb

Cli = Callable[..., subprocess.CompletedProcess[str]]

ODD = ("[bold]oak[/bold]", "[/red] :smile: [link=x]", "C#")
LATIN = os.fsdecode(b"caf\xe9")


@pytest.fixture
def odd(write_tiny: Callable[..., Path], tmp_path: Path) -> Path:
    """A bundle whose path and labels look like markup."""
    home = tmp_path / "[dim]my  folder[" / "x"
    home.mkdir(parents=True)
    return write_tiny(home / "[i]tiny[!].edgetl", ("ort-fp32", "ov-fp32"), labels=ODD)


@pytest.fixture
def photo(shapes: Path, tmp_path: Path) -> Path:
    path = tmp_path / "[blue]photo[].png"
    return Path(shutil.copy(next(shapes.rglob("*.png")), path))


def test_inspect_shows_them_as_they_are(cli: Cli, odd: Path) -> None:
    done = cli("inspect", odd)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{odd}  sha256 ")
    assert f"labels: {', '.join(ODD)}" in lines


def test_predict_and_unpack_too(cli: Cli, odd: Path, photo: Path, tmp_path: Path) -> None:
    done = cli("predict", odd, photo)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{photo}  ")
    assert all(label in done.stdout for label in ODD)
    out = tmp_path / "[u]out[]"
    done = cli("unpack", odd, out)
    assert sorted(done.stdout.splitlines()) == sorted(str(p) for p in out.rglob("*") if p.is_file())


def test_tables_too(
    cli: Cli,
    odd: Path,
    photo: Path,
    drawn: Callable[..., Path],
    write_tiny: Callable[..., Path],
) -> None:
    done = cli("compare", odd, "--images", photo, "--candidates", "ort-fp32,ov-fp32")
    assert done.returncode == 0
    (row,) = [line for line in done.stdout.splitlines() if str(photo) in line]
    assert any(label in row for label in ODD)
    home = drawn(odd.parent / "photos", {"bars": 3, "disc": 3})
    (home / "bars").rename(home / "[bold]")
    (home / "disc").rename(home / ":smile:[x]")
    done = cli("evaluate", odd, home)
    assert done.returncode == 1
    assert ":smile:[x], [bold] of " in done.stderr
    assert ", ".join(ODD) in done.stderr
    (home / ":smile:[x]").rename(home / "C#")
    (home / "[bold]").rename(home / "[plain]")
    bundle = write_tiny(odd.with_name("c.edgetl"), ("ort-fp32",), labels=("[plain]", "C#", "C"))
    done = cli("evaluate", bundle, home)
    assert done.returncode == 0
    (header,) = [line for line in done.stdout.splitlines() if "[plain]" in line and " C# " in line]
    assert " C " in header


def test_errors_too(cli: Cli, odd: Path) -> None:
    missing = odd.with_name("[red]no  file[]")
    done = cli("inspect", missing)
    assert f"Bundle {missing} does not exist" in done.stderr
    done = cli("build", odd)
    quoted = f"'{odd}'"
    assert f"Fix: run `edgetl bench {quoted}`." in done.stderr
    done = cli("predict", odd, "x.png", "--candidate", "none")
    assert f"`edgetl inspect {quoted}` lists" in done.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252", "utf-16"])
def test_every_encoding_of_stdout_will_do(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for names that are no UTF-8, as an old archive leaves them."""
    name = f"naïve 🍎 {LATIN}"

    def run() -> None:
        message(name)
        show(name)
        show(table(name, [name], [[name]]))
        emit({"plain": "naïve 🍎"})
        emit({"odd": name})

    written = io.BytesIO()
    with io.TextIOWrapper(written, encoding=encoding, errors="strict") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        verb(run)()
        stdout.flush()
        data = written.getvalue()
    *_, plain, odd = data.decode(encoding).splitlines()
    assert json.loads(plain) == {"plain": "naïve 🍎"}
    assert json.loads(odd) == {"odd": name}
    assert (encoding == "utf-8") == ("🍎" in plain)


def test_names_that_are_no_utf8_in_a_locale_of_ascii(
    cli: Cli, odd: Path, photo: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copy(odd, tmp_path / f"{LATIN}.edgetl"))
    image = Path(shutil.copy(photo, tmp_path / f"naïve {LATIN}.png"))
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    options: dict[str, Any] = {"env": os.environ | ascii_only, "text": False}
    two = ("--candidates", "ort-fp32,ov-fp32")
    for arguments in (("inspect", bundle), ("compare", bundle, "--images", image, *two)):
        done: subprocess.CompletedProcess[Any] = cli(*arguments, **options)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    done = cli("predict", bundle, image, "--json", **options)
    (row,) = json.loads(done.stdout.decode("ascii"))
    assert os.fsencode(row["image"]).endswith(b"na\xc3\xafve caf\xe9.png")
    done = cli("inspect", bundle.with_name(f"no {LATIN}"), "--json", **options)
    assert done.returncode == 1
    error = json.loads(done.stdout.decode("ascii"))["error"]
    assert error["message"] == f"Bundle {tmp_path}/no {LATIN} does not exist."


def test_letters_that_move_the_cursor_are_shown_and_not_sent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "a\x1b[31mred\r\nedgetl: error: forged"
    message(name)
    show(name)
    show(table(name, [name, "n#"], [[name, "1"]]))
    shown = capsys.readouterr()
    assert shown.err == "edgetl: a\\x1b[31mred\\r\\nedgetl: error: forged\n"
    assert "\x1b" not in shown.out
    assert "\r" not in shown.out
    assert shown.out.count("a\\x1b[31mred\\r\\nedgetl: error: forged") == 4


def test_a_file_gets_tables_of_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    long = " ".join(["a reason that a candidate was refused for"] * 20)
    show(table(f"title: {long}", ["candidate", "p50 ms#", "verdict"], [["x", "1.234", long]]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"title: {long}"
    assert sum(long in line for line in lines) == 2


def test_json_has_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": float("nan"), "b": [1.5, float("inf")]})
    emit({LATIN: float("nan"), "b": (1.5, float("inf"))})
    plain, odd = capsys.readouterr().out.splitlines()
    assert json.loads(plain) == {"a": None, "b": [1.5, None]}
    assert json.loads(odd) == {LATIN: None, "b": [1.5, None]}


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_stream_is_no_crash(closed: int, tiny_bundle: Path, tmp_path: Path) -> None:
    """And no file that is opened later takes its place."""
    out = tmp_path / "plain"
    words = [sys.executable, str(tiny_bundle), str(out)]
    done = subprocess.run(
        ["bash", "-c", f'exec "$0" -m edgetl unpack "$@" {closed}>&-', *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (out / "manifest.json").read_bytes().startswith(b"{")
