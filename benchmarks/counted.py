"""Run one edgetl command and count what it does; for work_once.py, with any version of edgetl.

    PYTHONPATH=CHECKOUT python benchmarks/counted.py OUT.json DATA VERB ...

Counted are: listings of the folder DATA; decodes of image files, by content and by the input that
they were decoded for; photos through PyTorch networks, with and without gradients; runs of ONNX
Runtime and OpenVINO; and the largest resident memory of the process, mapped files included.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import runpy
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
LOCK = threading.Lock()
COUNTS: Counter[str] = Counter()
DECODES: dict[str, Counter[bytes]] = {}  # by input, then by content


def view() -> str:
    """The input that is being read: the nearest caller's `spec`."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_locals.get("spec") is not None:
            return str(frame.f_locals["spec"])
        frame = frame.f_back
    return "whole"


def watch_decodes() -> None:
    """Every load of an image file that decodes something."""
    from PIL import ImageFile

    load = ImageFile.ImageFile.load

    def counted(self: Any) -> Any:
        if self.tile and hasattr(self.fp, "getvalue"):
            key = hashlib.sha256(self.fp.getvalue()).digest()
            with LOCK:
                DECODES.setdefault(view(), Counter())[key] += 1
        return load(self)

    ImageFile.ImageFile.load = counted  # type: ignore[method-assign]


def watch_listings(data: str) -> None:
    """Every listing of the data folder itself."""
    scandir = os.scandir

    def counted(path: Any = ".") -> Any:
        COUNTS["scans"] += os.path.realpath(path) == os.path.realpath(data)
        return scandir(path)

    os.scandir = counted


def watch_networks() -> None:
    """Photos through whole PyTorch networks, and runs of the engines."""
    import onnxruntime
    import openvino
    import torch

    inside = threading.local()
    call = torch.nn.Module.__call__

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return call(self, *args, **kwargs)  # sizes that are looked at become constants
        outer = not getattr(inside, "now", False)
        if outer and args and isinstance(args[0], torch.Tensor) and args[0].ndim == 4:
            kind = "trained" if torch.is_grad_enabled() and self.training else "scored"
            COUNTS[kind] += len(args[0])
        inside.now = True
        try:
            return call(self, *args, **kwargs)
        finally:
            if outer:
                inside.now = False

    torch.nn.Module.__call__ = counted  # type: ignore[method-assign]
    for owner, name in (
        (onnxruntime.InferenceSession, "run"),
        (onnxruntime.InferenceSession, "run_with_iobinding"),
        (openvino.InferRequest, "infer"),
    ):
        setattr(owner, name, tallied(getattr(owner, name)))


def tallied(run: Callable[..., Any]) -> Callable[..., Any]:
    """The same, counted."""

    def counted(*args: Any, **kwargs: Any) -> Any:
        COUNTS["engine_runs"] += 1
        return run(*args, **kwargs)

    return counted


def main() -> None:
    """Run the command and write what was counted."""
    out, data, *words = sys.argv[1:]
    watch_decodes()
    watch_listings(data)
    watch_networks()
    import edgetl

    sys.argv = ["edgetl", *words]
    code: Any = 0
    try:
        runpy.run_module("edgetl", run_name="__main__")
    except SystemExit as error:
        code = error.code
    counts = dict(COUNTS)  # what follows lists the folder again
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    photos = {hashlib.sha256(p.read_bytes()).digest() for p in Path(data).rglob("*.jpg")}
    views = {}
    for name, decoded in DECODES.items():  # not of what a bundle brings along
        times = [count for key, count in decoded.items() if key in photos]
        views[name] = {"photos": len(times), "decodes": sum(times), "most": max(times, default=0)}
    found = {
        "package": edgetl.__file__,
        "counts": counts,
        "views": views,
        "peak_rss_mib": round(peak),
    }
    Path(out).write_text(json.dumps(found), encoding="utf-8")
    sys.exit(code)


if __name__ == "__main__":
    main()
