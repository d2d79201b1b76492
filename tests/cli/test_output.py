"""What is printed: names of files and labels as they are, on whatever stdout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetl.cli.common import emit, say, show, table

Cli = Callable[..., subprocess.CompletedProcess[str]]

ODD = ("[bold]oak[/bold]", "[/red] :smile: [link=x]", "C#")
LATIN = os.fsdecode(b"caf\xe9")
ENCODINGS: dict[str, dict[str, str]] = {
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "strict latin-1": {"PYTHONIOENCODING": "latin-1:strict"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "POSIX": {"LC_ALL": "POSIX"},
}


@pytest.fixture
def odd(write_tiny: Callable[..., Path], tmp_path: Path) -> Path:
    """A bundle whose path and labels look like markup."""
    home = tmp_path / "[dim]my  folder[" / "x"
    home.mkdir(parents=True)
    return write_tiny(home / "[i]tiny[!].edgetl", ("ort-fp32", "ov-fp32"), labels=ODD)


BOTH = ("--candidates", "ort-fp32,ov-fp32")


@pytest.fixture
def photo(shapes: Path, tmp_path: Path) -> Path:
    path = tmp_path / "[blue]photo[" / "blue].png"
    path.parent.mkdir()
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
    out = tmp_path / "[u]out[/u]"
    done = cli("unpack", odd, out)
    assert sorted(done.stdout.splitlines()) == sorted(str(p) for p in out.rglob("*") if p.is_file())


def test_tables_too(cli: Cli, odd: Path, photo: Path, drawn: Callable[..., Path]) -> None:
    done = cli("compare", odd, *BOTH, "--images", photo)
    assert done.returncode == 0
    (row,) = [line for line in done.stdout.splitlines() if str(photo) in line]
    assert any(label in row for label in ODD)
    home = odd.parent / "photos"
    folder = drawn(home, {"bars": 3, "disc": 3, "square": 3})
    for label, plain in zip(ODD, ("bars", "disc", "square"), strict=True):
        (folder / plain).rename(folder / label.replace("/", "∕"))  # no file's name holds a slash
    done = cli("evaluate", odd, folder)
    assert done.returncode == 1
    assert "[∕red] :smile: [link=x]" in done.stderr


def test_errors_too(cli: Cli, odd: Path) -> None:
    missing = odd.with_name("[red]no  file")
    done = cli("inspect", missing)
    assert f"Bundle {missing} does not exist" in done.stderr
    done = cli("build", odd)
    quoted = f"'{odd}'"
    assert f"Fix: run `edgetl bench {quoted}`." in done.stderr
    done = cli("predict", odd, "x.png", "--candidate", "none")
    assert f"`edgetl inspect {quoted}` lists" in done.stderr


@pytest.mark.parametrize("env", ENCODINGS.values(), ids=list(ENCODINGS))
def test_every_encoding_of_stdout_will_do(
    env: dict[str, str], cli: Cli, odd: Path, photo: Path, tmp_path: Path
) -> None:
    """Also for names that are no UTF-8, as an old archive leaves them."""
    bundle = Path(shutil.copy(odd, tmp_path / f"{LATIN}.edgetl"))
    image = Path(shutil.copy(photo, tmp_path / f"naïve {LATIN}.png"))
    options: dict[str, Any] = {"env": os.environ | env, "text": False}
    for arguments in (
        ("inspect", bundle),
        ("predict", bundle, image),
        ("compare", bundle, *BOTH, "--images", image),
        ("unpack", bundle, tmp_path / f"{LATIN} out"),
        ("doctor",),
    ):
        done: subprocess.CompletedProcess[Any] = cli(*arguments, **options)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    done = cli("predict", bundle, image, "--json", **options)
    (row,) = json.loads(done.stdout.decode("utf-8"))
    assert os.fsencode(row["image"]) == os.fsencode(image)
    assert os.fsencode(image).endswith(b"na\xc3\xafve caf\xe9.png")
    done = cli("inspect", bundle.with_name(f"no {LATIN}"), "--json", **options)
    error = json.loads(done.stdout.decode("utf-8"))["error"]
    assert done.returncode == 1
    assert error["message"] == f"Bundle {tmp_path}/no {LATIN} does not exist."


def test_letters_that_move_the_cursor_are_shown_and_not_sent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "a\x1b[31mred\r\nedgetl: error: forged"
    say(name)
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
    done = subprocess.run(
        [
            *("bash", "-c", f'exec "$0" -m edgetl unpack "$1" "$2" {closed}>&-'),
            *(sys.executable, str(tiny_bundle), str(out)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (out / "manifest.json").read_bytes().startswith(b"{")
