"""Built TensorRT engines, kept for the machine that built them.

An engine file is code: this folder belongs to its user alone, and a file is taken only when owner,
permissions, size, hash and what it was built for are as expected. Beside each `KEY.plan` lies
`KEY.json`, which says what it was built for. One lock serves the folder: builds take turns, as two
at once would time each other's kernels and, on a small board, run out of memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from edgetl.engines.tensorrt.owned import (
    RefusedError,
    foreign,
    lock,
    open_owned,
    owned_content,
    unlink,
)
from edgetl.errors import StorageError, UsageError, shell
from edgetl.files import cache_folder, sha256_bytes, write_bytes, write_json
from edgetl.spec import Record

LOG = logging.getLogger("edgetl")
BUILDER = 1  # raised when build.py builds otherwise from the same input
LIMIT, DEFAULT_MIB = "EDGETL_CACHE_MIB", 2048
L4T = Path("/etc/nv_tegra_release")


class Parts(Record, frozen=True, kw_only=True):
    """All that an engine depends on; the file's name is their hash."""

    artifact: str  # SHA-256 of the ONNX file
    tensorrt: str
    cuda: str
    l4t: str  # NVIDIA's release on a Jetson, else empty
    gpu: str
    compute_capability: str
    precision: str
    typing: str
    batch: int
    dla: int | None = None
    options: dict[str, str] = {}
    builder: int = BUILDER

    @property
    def key(self) -> str:
        """Hex SHA-256 over all parts."""
        return sha256_bytes(msgspec.json.encode(self, order="sorted"))

    def differences(self, other: Parts) -> str:
        """Such as "gpu: Orin, not Xavier" for each part of `other` that is not as here."""
        return "; ".join(
            f"{name}: {getattr(other, name)}, not {getattr(self, name)}"
            for name in self.__struct_fields__
            if getattr(other, name) != getattr(self, name)
        )


class Sidecar(Record, frozen=True, kw_only=True):
    """KEY.json: what KEY.plan is."""

    parts: Parts
    plan_sha256: str
    plan_bytes: int
    placement: str  # what runs on a DLA, if anything
    build_s: float


class Held:
    """A plan from the cache; while it is open, no process removes the file to make room."""

    def __init__(self, data: bytes, sidecar: Sidecar, file: IO[bytes]) -> None:
        self.data, self.sidecar = data, sidecar
        self._file = file

    def close(self) -> None:
        """Let go of the file; harmless when done twice."""
        self._file.close()


def l4t_release() -> str:
    """NVIDIA's release of a Jetson's system, such as "R36.4.0"; empty elsewhere."""
    try:
        words = L4T.read_text(encoding="utf-8", errors="replace").replace(",", " ").split()
        return f"{words[1]}.{words[words.index('REVISION:') + 1]}"
    except (OSError, ValueError, IndexError):
        return ""


def limit_bytes() -> int:
    """How much the cache may hold: `EDGETL_CACHE_MIB`, else 2 GiB."""
    given = os.environ.get(LIMIT, str(DEFAULT_MIB))
    if not (given.isascii() and given.isdigit()):
        raise UsageError(f"{LIMIT} is '{given}'.", fix="give a whole number of MiB, such as 2048.")
    return int(given) * 2**20


class PlanCache:
    """The folder of engines; StorageError when it cannot be made or is not this user's alone."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder() / "tensorrt" if folder is None else folder
        self._most_bytes = limit_bytes()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = self.folder.lstat()
        except OSError as error:
            raise _unusable(self.folder, error) from error
        if reason := foreign(found, stat.S_ISDIR):
            raise StorageError(
                f"Engines are not kept in {self.folder}: it {reason}.",
                fix=f"{shell('chmod', '700', self.folder)}, or set EDGETL_CACHE to a folder of "
                "your own.",
            )
        if found.st_mode & 0o077:
            self.folder.chmod(0o700)

    def take(self, parts: Parts, *, quiet: bool = False) -> Held | None:
        """The engine for these parts, which counts as used now, or None.

        One that is not as it should be is left alone, and the reason is logged unless `quiet`.
        """
        path = self.folder / f"{parts.key}.plan"
        try:
            held = self._checked(path, parts)
        except RefusedError as why:
            if not quiet:
                LOG.warning(
                    "refused the cached engine %s: it %s; building it again", path.name, why
                )
            return None
        if held is not None:
            with contextlib.suppress(OSError):
                os.utime(path)
        return held

    def _checked(self, path: Path, parts: Parts) -> Held | None:
        file = open_owned(path)
        if file is None:
            return None
        try:
            data = file.read()
            sidecar = self._sidecar(path)
            if differences := parts.differences(sidecar.parts):
                raise RefusedError(f"was built for another machine or model ({differences})")
            if (len(data), sha256_bytes(data)) != (sidecar.plan_bytes, sidecar.plan_sha256):
                raise RefusedError("is damaged: its size or hash is not what was written")
            lock(file, shared=True, wait=False)
            return Held(data, sidecar, file)
        except BaseException:
            file.close()
            raise

    def _sidecar(self, path: Path) -> Sidecar:
        data = owned_content(path.with_suffix(".json"))
        if data is None:
            raise RefusedError(f"lacks {path.stem}.json, which says what it was built for")
        try:
            return msgspec.json.decode(data, type=Sidecar)
        except msgspec.DecodeError as error:
            raise RefusedError(f"has an unreadable {path.stem}.json ({error})") from error

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Hold the folder's lock; waits for another process that builds, and says so."""
        try:
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _unusable(self.folder, error) from error
        with os.fdopen(handle, "r+b") as file:
            if not lock(file, shared=False, wait=False):
                LOG.warning("waiting for another process that builds an engine")
                lock(file, shared=False, wait=True)
            yield

    def keep(self, parts: Parts, plan: bytes, *, placement: str, build_s: float) -> Held:
        """Write an engine and make room for it; call it inside `building`.

        Raises StorageError when the disk is full.
        """
        path = self.folder / f"{parts.key}.plan"
        sidecar = Sidecar(
            parts=parts,
            plan_sha256=sha256_bytes(plan),
            plan_bytes=len(plan),
            placement=placement,
            build_s=build_s,
        )
        for stale in self.folder.glob(".*.tmp"):  # of a process that was killed: we hold the lock
            unlink(stale)
        unlink(path.with_suffix(".json"))  # never an old one beside a new plan
        write_bytes(path, plan)
        _owners_alone(path)
        write_json(path.with_suffix(".json"), sidecar)
        _owners_alone(path.with_suffix(".json"))
        try:
            held = self._checked(path, parts)
        except RefusedError as why:
            raise StorageError(f"The engine just written {why}.", fix="check the disk.") from why
        if held is None:
            raise StorageError(f"{path} is gone.", fix="let one program use the folder.")
        self.make_room()
        return held

    def forget(self, parts: Parts) -> None:
        """Remove an engine that TensorRT does not load."""
        for suffix in (".plan", ".json"):
            unlink(self.folder / f"{parts.key}{suffix}")

    def timings(self, parts: Parts) -> tuple[Path, bytes]:
        """Where the builder's timings of this TensorRT and GPU are kept, and what is there."""
        kind = f"{parts.tensorrt}|{parts.cuda}|{parts.gpu}|{parts.compute_capability}"
        path = self.folder / f"{sha256_bytes(kind.encode())}.timings"
        try:
            return path, owned_content(path) or b""
        except RefusedError as why:
            LOG.warning("refused the timing cache %s: it %s; starting anew", path.name, why)
            return path, b""

    def keep_timings(self, path: Path, data: bytes) -> None:
        """Replace the timings; call it inside `building`."""
        write_bytes(path, data)
        _owners_alone(path)

    def make_room(self) -> None:
        """Remove engines unused for longest until the cache is within its limit."""
        files = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                found = path.stat()
                if stat.S_ISREG(found.st_mode):
                    files.append((path, found))
        total = sum(found.st_size for _, found in files)
        plans = [(path, found) for path, found in files if path.suffix == ".plan"]
        for path, found in sorted(plans, key=lambda item: item[1].st_mtime_ns):
            if total <= self._most_bytes:
                return
            if _removed_unless_in_use(path):
                total -= found.st_size


def _unusable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"Cannot use {folder}: {error.strerror or error}.",
        fix="set EDGETL_CACHE to a folder you may write to.",
    )


def _owners_alone(path: Path) -> None:
    """Let only its owner read and write a file; nothing where another process has removed it."""
    with contextlib.suppress(FileNotFoundError):
        path.chmod(0o600)


def _removed_unless_in_use(path: Path) -> bool:
    file = None
    with contextlib.suppress(RefusedError):
        file = open_owned(path)
    with file or contextlib.nullcontext():
        if file is not None and not lock(file, shared=False, wait=False):
            return False
        unlink(path)
        unlink(path.with_suffix(".json"))
        return True
