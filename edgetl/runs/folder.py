"""The run folder: who may write to it, what state it is in, what it holds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgetl.data.walk import RunMark, is_run
from edgetl.errors import RunError, StorageError
from edgetl.files import decode_json, user_path, write_json
from edgetl.options import FinetuneConfig
from edgetl.runs.record import RUN_VERSION, RunRecord
from edgetl.tasks.base import decode_stored

RUN_JSON = "run.json"
METRICS = "metrics.jsonl"
PHOTOS = "data.jsonl"
MODEL = "model.safetensors"
REPORT = "report.html"
CHECKPOINT = "checkpoint.safetensors"
PROBE = "probe.npz"
CACHE = "cache"
PIXELS, CROPS = "photos.npy", "train.npy"  # in the cache
LOCK = ".lock"
# All that a run writes. run.json goes last when they are removed: until then the folder is a run.
OWN = (CACHE, METRICS, PHOTOS, MODEL, REPORT, CHECKPOINT, PROBE, RUN_JSON)


def read_run(folder: str | Path) -> RunRecord:
    """Read run.json; RunError when the folder is no run of a version that is known here."""
    home = user_path(folder)
    path = home / RUN_JSON
    if not home.exists():
        raise RunError(f"No run at {home}.", fix="train one: edgetl finetune DATA --out RUN")
    if not path.is_file():
        raise RunError(
            f"{home} is not a run: it has no {RUN_JSON}.",
            fix="give the folder that --out named when it was trained.",
        )
    try:
        data = path.read_bytes()
        version = decode_json(data, RunMark).edgetl_run
        record = decode_json(data, RunRecord, decode_stored) if version == RUN_VERSION else None
    except (msgspec.DecodeError, OSError) as error:
        raise RunError(
            f"{path} cannot be read: {error}.",
            fix="restore it, install the package that adds what it names, or train anew.",
        ) from error
    if record is None:
        raise RunError(
            f"{home} is a run of version {version}; this edgetl reads {RUN_VERSION}.",
            fix="use the edgetl that made it, or train again.",
        )
    settings = msgspec.convert(record.settings or {}, record.task.Settings)
    return msgspec.structs.replace(record, settings=settings)


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
    """Hold the run folder, which is made if need be; a folder that became no run is left as it was.

    RunError when another process trains in it or when it holds something that is no run.
    """
    existed = home.exists()
    try:
        if existed:
            _refuse_foreign(home)
        home.mkdir(parents=True, exist_ok=True)
        stream = (home / LOCK).open("w")
    except OSError as error:
        raise StorageError(
            f"Cannot write to {home}: {error.strerror}.", fix="choose another --out folder."
        ) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.fstat(stream.fileno()).st_ino == (home / LOCK).stat().st_ino
        except OSError:
            held = False
        if not held:
            raise RunError(
                f"Another process is training in {home}.",
                fix="wait for it, or choose another --out.",
            )
        try:
            yield
        finally:
            if not (home / RUN_JSON).is_file():
                tidy(home)
            (home / LOCK).unlink(missing_ok=True)
            if not existed:
                with contextlib.suppress(OSError):  # not empty: it became a run
                    home.rmdir()


def claim(home: Path, config: FinetuneConfig, *, resume: bool, overwrite: bool) -> bool:
    """Decide what becomes of an existing folder; True when an unfinished run goes on.

    With `overwrite` the files of the run in it are removed, and no others. Raises RunError for a
    finished run, an unfinished one without a decision, and options that differ from those of the
    run to resume.
    """
    if overwrite:
        _remove(home, OWN)
    if not (home / RUN_JSON).is_file():
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


def _refuse_foreign(home: Path) -> None:
    """RunError unless the folder is a run, or holds no more than a killed process leaves of one."""
    others = [path for path in home.iterdir() if path.name != LOCK]
    if not is_run(home) and not all(_is_trace(path) for path in others):
        raise RunError(f"{home} is not empty and is no run.", fix="choose a new folder for --out.")


def _is_trace(path: Path) -> bool:
    if path.name == CACHE and path.is_dir():
        return {item.name for item in path.iterdir()} <= {PIXELS, CROPS}
    return path.name in {item.name for item in _temporary(path.parent)}


def _temporary(home: Path) -> list[Path]:
    """What writing a file of a run leaves when the process is killed meanwhile."""
    return [path for name in OWN for path in home.glob(f".{name}.*.tmp")]


def write_run(home: Path, record: RunRecord) -> None:
    """Write run.json."""
    write_json(home / RUN_JSON, record)


def tidy(home: Path) -> None:
    """Remove what only training needed: caches, checkpoints, temporary files."""
    _remove(home, (CACHE, CHECKPOINT, PROBE))


def _remove(home: Path, names: tuple[str, ...]) -> None:
    for path in [*_temporary(home), *(home / name for name in names)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
