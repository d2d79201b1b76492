"""Open what is exported: a finished run, or an ONNX file with its options."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx

from edgetl.errors import UsageError, missing_extra
from edgetl.exporter.sources.base import Source
from edgetl.exporter.sources.onnx import OnnxSource
from edgetl.files import user_path
from edgetl.options import ExportOptions, OnnxOptions, fields

SUFFIX = ".onnx"


def open_source(path: Path, options: ExportOptions, *, progress: Callable[[str], None]) -> Source:
    """The run, or the ONNX file; UsageError for options that belong to the other one."""
    given = [
        field.flags[0] for field in fields(OnnxOptions) if getattr(options, field.name) is not None
    ]
    if path.suffix.lower() != SUFFIX:
        if path.is_file():
            raise _no_source(path)
        if given:
            raise UsageError(
                f"{', '.join(given)} cannot be given with a run: it has its own.",
                fix=f"leave them away, or export a {SUFFIX} file.",
            )
        try:
            from edgetl.exporter.sources.run import RunSource
        except ModuleNotFoundError as error:
            raise missing_extra("export", "Exporting a run") from error
        return RunSource(path, options.data or "")
    if options.data:
        raise UsageError(
            "--data is where a run's photos are now; an ONNX file has none.",
            fix="give photos of its kind by --calib FOLDER.",
        )
    if options.calib is None:
        raise UsageError(
            f"{path} needs photos to calibrate and check it.", fix="give --calib FOLDER."
        )
    return OnnxSource(path, user_path(options.calib), options, progress=progress)


def _no_source(path: Path) -> UsageError:
    """The error for a file without ONNX's suffix, which its content names."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return UsageError(f"Cannot read {path}: {error.strerror}.", fix="make the file readable.")
    if zipfile.is_zipfile(path) and path.suffix.lower() == ".edgetl":
        return UsageError(
            f"{path} is a bundle: it was exported already.",
            fix="give the run or the ONNX file that it came from.",
        )
    try:
        known = bool(onnx.load_model_from_string(data).graph.node)
    except Exception:  # protobuf's DecodeError has no stable home
        known = False
    if known:
        return UsageError(
            f"{path} is an ONNX file, but its name does not end in {SUFFIX}.",
            fix=f"rename it to {path.name}{SUFFIX}.",
        )
    return UsageError(
        f"{path} is neither the folder of a run nor an ONNX file.",
        fix=f"give the folder that `edgetl finetune` wrote, or a classifier exported to {SUFFIX}.",
    )
