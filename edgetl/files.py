"""Files that are either whole or not there: atomic writes, hashes, typed reading."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from edgetl.errors import StorageError, UsageError

T = TypeVar("T")
Hook = Callable[[type[Any], Any], Any]
ROOM = 4096  # bytes: a block of most file systems
CACHE = "set EDGETL_CACHE to a folder you may write to."
SCRATCH = "free disk space, or let the environment variable TMPDIR name a folder with room."


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; on success fsync it and replace `path`, else remove it.

    Raises StorageError when the folder cannot be written or the disk is full; `path` then is as
    it was before.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _mode(path)
        # As `open` makes files: 0666 less the user's umask, or as an existing file has it.
        at = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        handle = os.open(at, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600)
        temporary = at
        with os.fdopen(handle, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise StorageError(
            f"Cannot write {path}: {error.strerror or error}.",
            fix="free disk space or choose a folder you may write to.",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _mode(path: Path) -> int | None:
    """Permission bits of a file that is there, else None."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder; StorageError for what cannot be written into it."""
    try:
        with tempfile.TemporaryDirectory(prefix="edgetl-") as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno is None:  # a shared library that does not load, say
            raise
        raise StorageError(
            f"Cannot write temporary files: {error.strerror or error}.", fix=SCRATCH
        ) from error


def check_room(folder: Path, *, fix: str) -> None:
    """StorageError, with this fix, unless a block can be written into `folder`; leaves nothing.

    For a folder that is not there yet, into the nearest one above it that is.
    """
    near = nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=near) as stream:
            stream.write(bytes(ROOM))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise StorageError(
            f"Cannot write into {near}: {error.strerror or error}.", fix=fix
        ) from error


def check_replaceable(path: Path, suffix: str, start: bytes, option: str) -> None:
    """UsageError where a file neither is called nor begins as what would be written over it."""
    found = b""
    with contextlib.suppress(OSError), path.open("rb") as stream:
        found = stream.read(len(start))
    if found not in (b"", start) and path.suffix.lower() != suffix:
        raise UsageError(
            f"{option} {path} would write over a file of another kind.",
            fix="choose another name, or remove that file.",
        )


def storage_error(error: OSError) -> StorageError:
    """The error for what a library, or Python itself, could not read or write."""
    if error.filename is None:  # torch and others make temporary files when they are imported
        try:
            check_temporary_room()
        except StorageError as found:
            return found
    return StorageError(
        f"Cannot read or write {error.filename or 'a file or stdout'}: {error.strerror or error}.",
        fix="check the path, its permissions and the disk.",
    )


def nearest(path: Path) -> Path:
    """The path, or else the nearest folder above it that is there."""
    return next((p for p in (path, *path.absolute().parents) if p.exists()), path)


def check_temporary_room() -> None:
    """StorageError unless temporary files can be written."""
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:  # it has tried every usual folder
        raise StorageError(
            f"Cannot write temporary files: {error.strerror}.", fix=SCRATCH
        ) from error
    check_room(folder, fix=SCRATCH)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_file(path) as stream:
        stream.write(data)


def encode_json(value: Any) -> bytes:
    """`value` as JSON; bytes of a name that is no UTF-8 become escapes \\udc80…\\udcff."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # msgspec does not escape them
        return json.dumps(_finite(msgspec.to_builtins(value))).encode()


def _finite(value: Any) -> Any:
    """NaN and infinity as null, as msgspec writes them: JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(value: T, hook: Hook | None = None) -> T:
    """A struct for files that other programs read: bytes that are no UTF-8 are spelled out.

    `hook` is msgspec's `dec_hook`, for types that it does not know.
    """
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
        text = re.sub("[\ud800-\udfff]", lambda found: f"\\\\u{ord(found[0]):04x}", text)
        return msgspec.json.decode(text, type=type(value), dec_hook=hook)
    return value


def decode_json(data: bytes, kind: type[T], hook: Hook | None = None) -> T:
    """What `encode_json` wrote; msgspec.DecodeError when it is no JSON or no `kind`.

    `hook` is msgspec's `dec_hook`, for types that it does not know.
    """
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=hook)
    except msgspec.DecodeError:
        if b"\\udc" not in data:
            raise
    try:
        return msgspec.convert(json.loads(data), kind, dec_hook=hook)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    data = encode_json(value)
    try:
        data = msgspec.json.format(data, indent=2)
    except msgspec.DecodeError:  # msgspec refuses the escapes of `encode_json`
        data = json.dumps(json.loads(data), indent=2).encode()
    write_bytes(path, data + b"\n")


def write_jsonl(path: Path, rows: list[Any]) -> None:
    """Write one JSON document a line, atomically."""
    write_bytes(path, b"".join(encode_json(row) + b"\n" for row in rows))


def read_jsonl(path: Path, kind: type[T]) -> list[T]:
    """Read a file of one JSON document a line into `kind`."""
    return [decode_json(line, kind) for line in path.read_bytes().splitlines() if line]


def sha256_bytes(data: bytes | memoryview) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path, `~` made the home folder; StorageError where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise StorageError(
            f"The home folder in {os.fspath(path)} is not known.",
            fix="write the whole path, or let the environment variable HOME name the folder.",
        ) from error


def cache_folder() -> Path:
    """`EDGETL_CACHE`, else edgetl's folder in the user's cache; it need not be there.

    StorageError where neither is known: HOME is unset, and the user has no entry in passwd.
    """
    named = os.environ.get("EDGETL_CACHE")
    if named:
        return user_path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "edgetl"
    except RuntimeError as error:
        raise StorageError("This user has no home folder for a cache.", fix=CACHE) from error
