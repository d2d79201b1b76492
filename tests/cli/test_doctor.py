"""`edgetl doctor` as a user runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

from edgetl.engines import ENGINES

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_json_has_machine_and_parts(cli: Cli) -> None:
    done = cli("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["fingerprint"]
    parts = {part["name"]: part for part in found["parts"]}
    assert parts.keys() >= {"python", "numpy", "torch", *ENGINES.own, "cache"}
    assert all(part["version"] or part["fix"] for part in parts.values())


def test_the_table_fits_a_line_a_part(cli: Cli) -> None:
    done = cli("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert "onnxruntime" in done.stdout
    assert " cores, " in done.stdout.splitlines()[0]
