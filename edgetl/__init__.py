"""Fine-tune compact vision models, quantize and gate them, measure them, run them on the edge.

The verbs are those of the command line: `finetune`, `export`, `evaluate`, `bench`, `build`,
`compare`, and `load` for what `predict` does. They are imported on first use, so that a device
needs only what it uses.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgetl.evaluation import evaluate as evaluate
    from edgetl.exporter.export import export as export
    from edgetl.runtime.bench.measure import bench as bench
    from edgetl.runtime.build import build as build
    from edgetl.runtime.compare.compare import compare as compare
    from edgetl.runtime.model import Model as Model
    from edgetl.runtime.model import load as load
    from edgetl.train.finetune import finetune as finetune

    __version__: str

_HOMES = {
    "Model": ("edgetl.runtime.model", ""),
    "bench": ("edgetl.runtime.bench.measure", ""),
    "build": ("edgetl.runtime.build", ""),
    "compare": ("edgetl.runtime.compare.compare", ""),
    "evaluate": ("edgetl.evaluation", ""),
    "export": ("edgetl.exporter.export", "export"),
    "finetune": ("edgetl.train.finetune", "train"),
    "load": ("edgetl.runtime.model", ""),
}

__all__ = [
    "Model",
    "__version__",
    "bench",
    "build",
    "compare",
    "evaluate",
    "export",
    "finetune",
    "load",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'edgetl' has no attribute '{name}'")
    home, extra = _HOMES[name]
    try:
        return getattr(importlib.import_module(home), name)
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("edgetl"):
            raise
        from edgetl.errors import missing_extra

        raise missing_extra(extra, f"edgetl.{name}") from error


def _version() -> str:
    """Read on demand: the reader of package metadata takes a third of the time to start."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("edgetl")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted(__all__)
