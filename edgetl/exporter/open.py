"""Open what is exported: a finished run, or an ONNX file with its options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgetl.errors import UsageError, missing_extra
from edgetl.exporter.onnx_source import OnnxSource
from edgetl.exporter.source import Source
from edgetl.files import user_path
from edgetl.spec import OnnxOptions

SUFFIX = ".onnx"


def open_source(
    path: Path, options: OnnxOptions, *, moved_to: str, progress: Callable[[str], None]
) -> Source:
    """The run, or the ONNX file; UsageError for options that belong to the other one."""
    given = [
        f"--{k.rstrip('_')}" for k in options.__struct_fields__ if getattr(options, k) is not None
    ]
    if path.suffix.lower() != SUFFIX:
        if given:
            raise UsageError(
                f"{', '.join(given)} cannot be given with a run: it has its own.",
                fix=f"leave them away, or export a {SUFFIX} file.",
            )
        try:
            from edgetl.exporter.run_source import RunSource
        except ModuleNotFoundError as error:
            raise missing_extra("export", "Exporting a run") from error
        return RunSource(path, moved_to)
    if moved_to:
        raise UsageError(
            "--data is where a run's photos are now; an ONNX file has none.",
            fix="give photos of its kind by --calib FOLDER.",
        )
    if options.calib is None:
        raise UsageError(
            f"{path} needs photos to calibrate and check it.", fix="give --calib FOLDER."
        )
    return OnnxSource(
        path,
        user_path(options.calib),
        labels=None if options.labels is None else user_path(options.labels),
        size=options.size,
        fit=options.fit or "crop",
        mean=options.mean,
        std=options.std,
        range_=options.range_ or 1,
        layout=options.layout or "auto",
        progress=progress,
    )
