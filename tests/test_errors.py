"""Errors as text: one line, names as they are, commands that run as they are printed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from edgetl.errors import DataError, shell

NAMES = [
    "plain.edgetl",
    "two  blanks.edgetl",
    'it\'s "quoted" [bold]$(reboot)`x`.edgetl',
    "-rf.edgetl",
    "~/*.edgetl",
    "naïve 🍎.edgetl",
    "bell\a and\nnew line\\'.edgetl",
    os.fsdecode(b"caf\xe9 1.edgetl"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_command_gets_the_name_that_was_meant(name: str) -> None:
    line = shell("printf", "%s", Path(name))
    assert "\n" not in line
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    got = done.stdout.removeprefix(b"./") if name.startswith("-") else done.stdout
    assert got == os.fsencode(name)


def test_words_that_need_no_quotes_have_none() -> None:
    line = shell("edgetl", "export", Path("runs/a"), "--out", Path("a.edgetl"))
    assert line == "edgetl export runs/a --out a.edgetl"


def test_a_message_is_one_line_and_keeps_names_as_they_are() -> None:
    error = DataError("No photos in a  b[x].\n   It is\r\n empty.", fix="give\nanother  one.")
    assert error.message == "No photos in a  b[x]. It is empty."
    assert str(error) == "No photos in a  b[x]. It is empty. Fix: give another  one."
