"""The run folder: who may write to it, what state it is in, what it holds."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgetl.errors import RunError, StorageError
from edgetl.files import write_json, write_jsonl
from edgetl.spec import RUN_VERSION, EpochRow, FinetuneConfig, RunRecord

RUN_JSON = "run.json"
METRICS = "metrics.jsonl"
PHOTOS = "data.jsonl"
MODEL = "model.safetensors"
REPORT = "report.html"
CHECKPOINT = "checkpoint.safetensors"
PROBE = "probe.npz"
CACHE = "cache"
LOCK = ".lock"


def read_run(folder: str | Path) -> RunRecord:
    """Read run.json; RunError when the folder is no run of a version that is known here."""
    home = Path(folder).expanduser()
    path = home / RUN_JSON
    if not home.exists():
        raise RunError(f"No run at {home}.", fix="train one: edgetl finetune DATA --out RUN")
    if not path.is_file():
        raise RunError(
            f"{home} is not a run: it has no {RUN_JSON}.",
            fix="give the folder that --out named when it was trained.",
        )
    try:
        record = msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except (msgspec.DecodeError, OSError) as error:
        raise RunError(
            f"{path} cannot be read: {error}.", fix="train the run again with --overwrite."
        ) from error
    if record.edgetl_run != RUN_VERSION:
        raise RunError(
            f"{home} is a run of version {record.edgetl_run}; this edgetl reads {RUN_VERSION}.",
            fix="use the edgetl that made it, or train again.",
        )
    return record


def finished_run(folder: str | Path) -> RunRecord:
    """Read a run and insist that it is finished."""
    record = read_run(folder)
    if record.status != "finished":
        raise RunError(
            f"{folder} is unfinished.", fix="finish it: repeat its edgetl finetune with --resume."
        )
    return record


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the run folder; RunError when another process trains in it."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        stream = (home / LOCK).open("w")
    except OSError as error:
        raise StorageError(
            f"Cannot write to {home}: {error.strerror}.", fix="choose another --out folder."
        ) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"Another process is training in {home}.",
                fix="wait for it, or choose another --out.",
            ) from error
        yield


def claim(home: Path, config: FinetuneConfig, *, resume: bool, overwrite: bool) -> bool:
    """Decide what becomes of an existing folder; True when an unfinished run goes on.

    Raises RunError for a foreign folder, a finished run, an unfinished one without a decision, and
    options that differ from those of the run to resume.
    """
    others = [p for p in home.iterdir() if p.name != LOCK]
    if not others:
        return False
    if not (home / RUN_JSON).is_file() and not _is_infant(others):
        raise RunError(f"{home} is not empty and is no run.", fix="choose a new folder for --out.")
    if overwrite:
        for path in others:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return False
    if _is_infant(others):
        return False
    record = read_run(home)
    if record.status == "finished":
        raise RunError(
            f"{home} holds a finished run.",
            fix="choose another --out, or add --overwrite to replace it.",
        )
    if not resume:
        raise RunError(
            f"{home} holds an unfinished run.",
            fix="add --resume to go on with it or --overwrite to start anew.",
        )
    different = [
        f"{name}: {old!r} before, {new!r} now"
        for name in FinetuneConfig.__struct_fields__
        if (old := getattr(record.config, name)) != (new := getattr(config, name))
    ]
    if different:
        raise RunError(
            f"{home} was started with other options ({'; '.join(different)}).",
            fix="resume with the options it was started with, or add --overwrite.",
        )
    return True


def _is_infant(others: list[Path]) -> bool:
    """Whether a killed process left nothing but its first, nameless traces."""
    return all(p.name == CACHE or (p.name.startswith(".") and p.suffix == ".tmp") for p in others)


def write_run(home: Path, record: RunRecord) -> None:
    """Write run.json."""
    write_json(home / RUN_JSON, record)


def write_history(home: Path, history: list[EpochRow]) -> None:
    """Write metrics.jsonl."""
    write_jsonl(home / METRICS, history)


def tidy(home: Path) -> None:
    """Remove what only training needed: caches, checkpoints, temporary files."""
    shutil.rmtree(home / CACHE, ignore_errors=True)
    for path in [home / CHECKPOINT, home / PROBE, *home.glob(".*.tmp")]:
        path.unlink(missing_ok=True)
