"""`edgetl export` typed in this process, on somebody's ONNX file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from typer.testing import CliRunner

from edgetl.cli.app import app

Change = Callable[[onnx.ModelProto], None]

COLOURS = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--fit", "squash")
ORT = ("--target", "cpu", "--engine", "onnxruntime")

RECIPE = """
name = "mine"
title = "Mine"
engine = "onnxruntime"
precision = "int8"
form = "ort-qdq"
activation = "quint8"
calibration = ["minmax"]
calibration_images = 16
"""


class Typed:
    """What a command line came to."""

    def __init__(self, *arguments: Any) -> None:
        done = CliRunner().invoke(app, ["export", *map(os.fspath, arguments)])
        self.code, self.out, self.err = done.exit_code, done.stdout, done.stderr

    def error(self) -> str:
        """The one line of an error; it exits with 1 and shows no traceback."""
        assert self.code == 1, (self.code, self.out, self.err)
        assert "Traceback" not in self.err
        lines = [x for x in self.err.splitlines() if x.startswith("edgetl: error: ")]
        assert lines == self.err.splitlines()[-1:]
        assert " Fix: " in lines[0]
        return lines[0].removeprefix("edgetl: error: ")


def changed(model: Path, change: Change) -> Path:
    proto = onnx.load(model)
    change(proto)
    onnx.save(proto, model)
    return model
