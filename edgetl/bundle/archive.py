"""The bundle: one ZIP file with stored members and a checked hash; docs/bundle.md is its format.

The reader parses the ZIP itself, because `zipfile` tolerates much that the format forbids.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from edgetl.bundle.check import (
    MANIFEST,
    MAX_MANIFEST,
    check_manifest,
    parse_manifest,
    require,
)
from edgetl.bundle.manifest import Manifest
from edgetl.errors import BundleError
from edgetl.files import atomic_file, printable, sha256_bytes, write_bytes

MEASUREMENTS = "measurements.jsonl"
MAX_FILE = 2 << 30
MAX_MEMBERS = 256

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_START = (b"PK\x05\x06", 0, 0)  # end record, disk 0
_COMMENT = re.compile(rb"sha256:([0-9a-f]{64})")
_COMMENT_SIZE = 71
_NAME = re.compile(r"(?=.{1,200}\Z)(?:[A-Za-z0-9._-]*[A-Za-z0-9_-]/)*[A-Za-z0-9._-]*[A-Za-z0-9_-]")

_COPY = "copy it again from where it was exported."
_GIVE = "give the .edgetl file that `edgetl export` wrote."

_Entries = dict[str, tuple[int, int, int]]  # name → where the data begin, their size and CRC-32


class Bundle(contextlib.AbstractContextManager["Bundle"]):
    """An opened, verified bundle. A context manager; `read` may be called from several threads."""

    def __init__(
        self, path: Path, sha256: str, manifest: Manifest, stream: IO[bytes], entries: _Entries
    ) -> None:
        self.path, self.sha256, self.manifest = path, sha256, manifest
        self._stream, self._entries, self._lock = stream, entries, threading.Lock()
        self._hashes = {artifact.path: artifact.sha256 for artifact in manifest.artifacts}

    def members(self) -> tuple[str, ...]:
        """Names of all members in the order of the file; the first is manifest.json."""
        return tuple(self._entries)

    def read(self, member: str) -> bytes:
        """Bytes of one member, checked again, as the file may have changed since it was opened."""
        with _naming(self.path):
            require(member in self._entries, f"has no member {member!r}", "see `members()`.")
            offset, size, crc = self._entries[member]
            with self._lock:
                require(not self._stream.closed, "is closed", "open it again.")
                data = _exactly(self._stream, offset, size)
            require(zlib.crc32(data) == crc, f"is damaged in member {member!r} (CRC-32)", _COPY)
            if stated := self._hashes.get(member):
                require(sha256_bytes(data) == stated, f"misstates the SHA-256 of {member!r}")
        return data

    def close(self) -> None:
        """Close the file; what was read stays usable."""
        with self._lock:
            self._stream.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle and verify it; raises BundleError. The file is read once, in blocks."""
    where = Path(path)
    with _naming(where), contextlib.ExitStack() as undo:
        stream = undo.enter_context(_open_regular(where))
        size = os.fstat(stream.fileno()).st_size
        require(size <= MAX_FILE, f"is larger than {MAX_FILE >> 30} GiB, the limit", _GIVE)
        end, sha256 = _check_hash(stream, size)
        entries = _layout(stream, end, size)
        begin, length, _ = entries[MANIFEST]
        manifest = parse_manifest(_exactly(stream, begin, min(length, MAX_MANIFEST + 1)))
        check_manifest(manifest, {name: entry[1] for name, entry in entries.items()})
        undo.pop_all()
        return Bundle(where, sha256, manifest, stream, entries)


def write_bundle(path: Path, manifest: Manifest, members: dict[str, bytes]) -> str:
    """Write a bundle atomically and return its SHA-256; `manifest.members` is set here.

    Raises BundleError when a reader would refuse it, StorageError when it cannot be stored.
    """
    listed = sorted(members)
    manifest = printable(msgspec.structs.replace(manifest, members=tuple(listed)))
    encoded = msgspec.json.format(msgspec.json.encode(manifest, order="deterministic")) + b"\n"
    with _naming(path):
        _check_names([MANIFEST, *listed])
        sizes = {MANIFEST: len(encoded)} | {name: len(data) for name, data in members.items()}
        small = sum(sizes.values()) + (1 << 20) <= MAX_FILE  # the headers need less than 1 MiB
        require(small, f"would be larger than {MAX_FILE >> 30} GiB", "export fewer candidates.")
        check_manifest(parse_manifest(encoded), sizes)
        for a in manifest.artifacts:
            require(sha256_bytes(members[a.path]) == a.sha256, f"misstates SHA-256 of {a.path!r}")
    digest, directory, position = hashlib.sha256(), b"", 0
    with atomic_file(path) as stream:
        for name, data in [(MANIFEST, encoded), *((name, members[name]) for name in listed)]:
            local, central = _headers(name.encode(), len(data), zlib.crc32(data), position)
            for part in (local, data):
                stream.write(part)
                digest.update(part)
            directory += central
            position += len(local) + len(data)
        end = (len(sizes), len(sizes), len(directory), position, _COMMENT_SIZE)
        tail = directory + _END.pack(*_END_START, *end)
        digest.update(tail)
        stream.write(tail + b"sha256:" + digest.hexdigest().encode())
    return digest.hexdigest()


def unpack(path: str | os.PathLike[str], folder: Path) -> list[Path]:
    """Write the members of a bundle as plain files into a new or empty folder."""
    with open_bundle(path) as bundle:
        free = False
        with contextlib.suppress(OSError):  # a file, or a folder that may not be listed
            free = not os.path.lexists(folder) or not any(folder.iterdir())
        if not free:
            raise BundleError(
                f"Cannot unpack {bundle.path} into {folder}: it exists and is no empty folder.",
                fix="name a folder that is new or empty.",
            )
        for member in bundle.members():
            write_bytes(folder / member, bundle.read(member))
        return [folder / member for member in bundle.members()]


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what `require` raised, or an OSError, into a BundleError that names `path`."""
    try:
        yield
    except BundleError as error:
        what = "".join(c if c.isprintable() else "?" for c in error.message[:400])
        raise BundleError(f"Bundle {path} {what}.", fix=error.fix) from error.__cause__
    except OSError as error:
        raise BundleError(
            f"Bundle {path} cannot be read: {error.strerror or error}.",
            fix="check the path, its permissions and the disk.",
        ) from error


def _open_regular(path: Path) -> IO[bytes]:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise BundleError("does not exist", fix="check the path.") from None
    # Looked at before it is opened: a FIFO would block and a device may react.
    require(stat.S_ISREG(mode), "is a folder or device, not a file", _GIVE)
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")


def _exactly(stream: IO[bytes], offset: int, size: int) -> bytes:
    stream.seek(offset)
    data = stream.read(size)
    require(len(data) == size, "ends too early: it was cut off, or its headers are wrong", _COPY)
    return data


def _check_hash(stream: IO[bytes], size: int) -> tuple[int, str]:
    """Where the comment begins, and the hash in it, which is right."""
    end = max(size - _COMMENT_SIZE, 0)
    match = _COMMENT.fullmatch(_exactly(stream, end, size - end))
    if match is None or end < _END.size:
        zip_like = _exactly(stream, 0, min(size, 4)) == b"PK\x03\x04"
        require(zip_like, "is not an edgetl bundle" if size else "is empty", _GIVE)
        raise BundleError(
            "does not end in its SHA-256: it was cut off, has bytes added, or is another ZIP",
            fix=_COPY,
        )
    digest, left = hashlib.sha256(), end
    stream.seek(0)
    while left and (block := stream.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    require(digest.hexdigest().encode() == match[1], "is damaged (its SHA-256 is wrong)", _COPY)
    return end, digest.hexdigest()


def _headers(name: bytes, size: int, crc: int, offset: int) -> tuple[bytes, bytes]:
    """The only local header and central entry that the format permits for such a member."""
    # needs version 2.0, no flags, stored, 00:00, 1980-01-01, …, no extra field
    both = (20, 0, 0, 0, 1 << 5 | 1, crc, size, size, len(name), 0)
    # made by Unix, version 2.0, …, no comment, disk 0, binary, a regular file
    made_by, mode = 3 << 8 | 20, (stat.S_IFREG | 0o644) << 16
    central = _CENTRAL.pack(b"PK\x01\x02", made_by, *both, 0, 0, 0, mode, offset)
    return _LOCAL.pack(b"PK\x03\x04", *both) + name, central + name


def _layout(stream: IO[bytes], end: int, size: int) -> _Entries:
    """The members; every byte before `end` is a member or exactly the header that it must have."""
    record = _END.unpack(_exactly(stream, end - _END.size, _END.size))
    count, length, start = record[4:7]
    permitted = record == (*_END_START, count, count, length, start, size - end)
    require(permitted, "has no end record that the format permits: it is another ZIP")
    require(0 < count <= MAX_MEMBERS, f"has {count} members; 1 to {MAX_MEMBERS} are permitted")
    found: list[tuple[str, tuple[int, int, int]]] = []
    position, directory = 0, b""
    for number in range(1, count + 1):
        header = _exactly(stream, position, _LOCAL.size)
        signature, _, flags, method, _, _, crc, packed, full, letters, _ = _LOCAL.unpack(header)
        require(signature == b"PK\x03\x04", f"has data before member {number}, or an overlap")
        raw = _exactly(stream, position + _LOCAL.size, letters)
        name = raw.decode("ascii", "backslashreplace")
        require(method == 0, f"has a compressed member {name!r}")
        require(not flags & 1, f"has an encrypted member {name!r}")
        require(packed == full, f"states two sizes of member {name!r}")
        local, central = _headers(raw, full, crc, position)
        require(header + raw == local, f"has a forbidden header field of member {name!r}")
        found.append((name, (position + len(local), full, crc)))
        position += len(local) + full
        require(position <= start, f"states a wrong size of member {name!r}")
        directory += central
    _check_names([name for name, _ in found])
    exact = position == start and length == len(directory) and start + length + _END.size == end
    require(exact, "has data after its last member, or a central directory of a wrong size")
    require(_exactly(stream, start, length) == directory, "contradicts its central directory")
    return dict(found)


def _check_names(names: list[str]) -> None:
    """Refuse names that are unsafe, too many, or equal where case is ignored."""
    require(len(names) <= MAX_MEMBERS, f"has more than {MAX_MEMBERS} members, the limit")
    seen: set[str] = set()
    for name in names:
        require(_NAME.fullmatch(name), f"has a member with a forbidden name, {name!r}")
        require(name.lower() not in seen, f"has member {name!r} twice (case is ignored)")
        seen.add(name.lower())
    folders = {name.lower()[: slash.start()] for name in names for slash in re.finditer("/", name)}
    require(not seen & folders, f"has members inside another member, {sorted(seen & folders)}")
    require(names[:1] == [MANIFEST], f"has no {MANIFEST} as its first member")
