"""What is installed here, what is missing, and the exact fix."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil

import msgspec

from edgetl.engines import ENGINES, find_engine
from edgetl.errors import StorageError
from edgetl.files import CACHE, cache_folder, nearest, user_path
from edgetl.inputs.base import INPUTS
from edgetl.spec import Record
from edgetl.tasks.base import TASKS

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
    "pi-heif": ("HEIC photos", "heif"),
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
    for engine in filter(ENGINES.__contains__, ENGINES.names()):
        reason = find_engine(engine).missing()
        parts.append(
            Part(
                name=engine,
                # A variant such as onnxruntime-gpu has another name, but the same module.
                version=None if reason else _version(engine) or find_engine(engine).version(),
                purpose="engine",
                fix=f"{reason.message} {reason.fix}" if reason else "",
            )
        )
    return [*parts, *_added(), _weights(), _cache()]


def _added() -> list[Part]:
    """What plug-ins can add to, and the packages of those that are here."""
    packages = sorted(
        f"{found.name} {found.version}"
        for found in importlib.metadata.distributions()
        if any(point.group.startswith("edgetl.") for point in found.entry_points)
    )
    return [
        Part(
            name="tasks",
            version=", ".join(n for n in TASKS.names() if n in TASKS),
            purpose="finetune --task",
        ),
        Part(
            name="inputs",
            version=", ".join(n for n in INPUTS.names() if n in INPUTS),
            purpose="what a task reads",
        ),
        Part(name="plug-ins", version=", ".join(packages) or "none", purpose="add to these"),
    ]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _weights() -> Part:
    named = os.environ.get("EDGETL_WEIGHTS", "")
    part = Part(name="EDGETL_WEIGHTS", version=None, purpose="weights without a network")
    try:
        if not named or user_path(named).is_dir():
            return msgspec.structs.replace(part, version=named or "not set")
        fix = f"{named} is no folder: correct or unset EDGETL_WEIGHTS"
    except StorageError as error:
        fix = str(error)
    return msgspec.structs.replace(part, fix=fix)


def _cache() -> Part:
    part = Part(name="cache", version=None, purpose="measurements, engines")
    try:
        folder = cache_folder()
    except StorageError as error:
        return msgspec.structs.replace(part, fix=str(error))
    near = nearest(folder)
    if not (near.is_dir() and os.access(near, os.W_OK)):
        return msgspec.structs.replace(part, fix=CACHE)
    free = shutil.disk_usage(near).free / 2**30
    return msgspec.structs.replace(part, version=f"{folder}, {free:.0f} GiB free")
