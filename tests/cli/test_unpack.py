"""`edgetl unpack` as a user runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from edgetl.bundle import open_bundle

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_members_become_plain_files(cli: Cli, tiny_bundle: Path, tmp_path: Path) -> None:
    done = cli("unpack", tiny_bundle, "out", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["folder"] == "out"
    with open_bundle(tiny_bundle) as opened:
        assert document["files"] == [f"out/{name}" for name in opened.members()]
        for name in opened.members():
            assert (tmp_path / "out" / name).read_bytes() == opened.read(name)
    again = cli("unpack", tiny_bundle, "out", "--json")
    assert again.returncode == 1
    error = json.loads(again.stdout)["error"]
    assert "exists and is no empty folder" in error["message"]
    assert error["fix"] == "name a folder that is new or empty."


def test_plain_output_is_a_line_a_file(cli: Cli, tiny_bundle: Path, tmp_path: Path) -> None:
    done = cli("unpack", tiny_bundle, "out")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert "out/manifest.json" in lines
    assert all((tmp_path / line).is_file() for line in lines)
    (tmp_path / "file").write_text("")
    done = cli("unpack", tiny_bundle, "file/below")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == ""
