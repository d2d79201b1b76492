"""`edgetl demo` as a newcomer runs it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_the_main_job_end_to_end(cli: Cli, tmp_path: Path) -> None:
    done = cli("demo", "--out", str(tmp_path / "demo"), timeout=550)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "efficientnet_lite0" in lines
    (accuracy,) = [found for line in lines if (found := re.fullmatch(r"test accuracy (.+)", line))]
    assert float(accuracy[1]) >= 0.98
    assert re.search(r"\d+ right, \d+ wrong", done.stdout)
    assert (tmp_path / "demo" / "run" / "report.html").is_file()
    assert (tmp_path / "demo" / "parts.edgetl").is_file()
    assert "edgetl finetune photos --out runs/mine" in done.stdout


def test_a_folder_that_is_there_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    done = cli("demo", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "is there already" in done.stderr
