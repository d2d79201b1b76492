"""What is installed here, what is missing, and the exact fix."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

from edgetl.engines import NAMES, find_engine
from edgetl.files import cache_folder
from edgetl.spec import Record

PACKAGES = {
    "numpy": ("runtime", ""),
    "pillow": ("runtime", ""),
    "msgspec": ("runtime", ""),
    "torch": ("finetune", "train"),
    "torchvision": ("finetune", "train"),
    "scikit-learn": ("finetune", "train"),
    "safetensors": ("finetune", "train"),
    "matplotlib": ("report", "train"),
    "onnx": ("export", "export"),
    "onnxscript": ("export", "export"),
    "nncf": ("export to OpenVINO int8", "export"),
}


class Part(Record, frozen=True, kw_only=True):
    """One thing that edgetl may need; `version` is None when it is missing."""

    name: str
    version: str | None
    purpose: str
    fix: str = ""


def examine() -> list[Part]:
    """Every part, whether here or missing."""
    parts = [Part(name="python", version=platform.python_version(), purpose="runtime 3.10–3.13")]
    for name, (purpose, extra) in PACKAGES.items():
        version = _version(name)
        fix = "" if version else f"pip install 'edgetl[{extra}]'" if extra else "pip install edgetl"
        parts.append(Part(name=name, version=version, purpose=purpose, fix=fix))
    for engine in NAMES:
        reason = find_engine(engine).missing()
        parts.append(
            Part(
                name=engine,
                # A variant such as onnxruntime-gpu has another name, but the same module.
                version=None if reason else _version(engine) or find_engine(engine).version(),
                purpose="engine",
                fix=_fix(reason),
            )
        )
    return [*parts, _weights(), _cache()]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fix(reason: str | None) -> str:
    return "" if reason is None else reason.replace(" Fix: ", " ")


def _weights() -> Part:
    named = os.environ.get("EDGETL_WEIGHTS", "")
    if not named:
        return Part(name="EDGETL_WEIGHTS", version="not set", purpose="weights without a network")
    here = Path(named).expanduser().is_dir()
    return Part(
        name="EDGETL_WEIGHTS",
        version=named if here else None,
        purpose="weights without a network",
        fix="" if here else f"{named} is no folder: correct or unset EDGETL_WEIGHTS",
    )


def _cache() -> Part:
    folder = cache_folder()
    near = next(p for p in (folder, *folder.parents) if p.exists())
    good = near.is_dir() and os.access(near, os.W_OK)
    free = shutil.disk_usage(near).free / 2**30
    return Part(
        name="cache",
        version=f"{folder}, {free:.0f} GiB free" if good else None,
        purpose="measurements, engines",
        fix="" if good else "set EDGETL_CACHE to a folder you may write to",
    )
