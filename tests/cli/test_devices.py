"""`edgetl devices` as a user runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

from edgetl.recipes import all_devices

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_all_are_listed(cli: Cli) -> None:
    done = cli("devices", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [device["name"] for device in json.loads(done.stdout)] == list(all_devices())
    done = cli("devices")
    assert done.returncode == 0
    assert all(name in done.stdout for name in all_devices())


def test_one_in_full(cli: Cli) -> None:
    done = cli("devices", "jetson-orin-nano", "--json")
    found = json.loads(done.stdout)
    assert found["kind"] == "jetson"
    assert found["runtime"] is True
    assert found["recipes"]
    assert all_devices()["jetson-orin-nano"].title in cli("devices", "jetson-orin-nano").stdout


def test_an_unknown_one_gets_the_nearest_names(cli: Cli) -> None:
    done = cli("devices", "jetson-orin-nan", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "UnknownNameError"
    assert "Unknown target 'jetson-orin-nan': did you mean jetson-orin-nano" in error["message"]
    assert "`edgetl devices`" in error["fix"]
