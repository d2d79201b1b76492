"""Atomic files: whole or not there, whatever stops the writer."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgetl.errors import StorageError
from edgetl.files import (
    atomic_file,
    cache_folder,
    decode_json,
    encode_json,
    read_jsonl,
    scratch_folder,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
    write_jsonl,
)
from edgetl.spec import Photo


def python(code: str, *args: Path) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(run, capture_output=True, text=True, check=False)


def test_written_bytes_are_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.bin"]  # noqa: PTH208
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failing_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError, match="bytes-like"), atomic_file(path) as stream:
        stream.writelines([b"half", "no bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_a_storage_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import resource, sys; from pathlib import Path; from edgetl.files import write_bytes\n"
        "from edgetl.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_bytes(Path(sys.argv[1]), bytes(10_000))\n"
        "except StorageError as error: print(error)"
    )
    done = python(code, path)
    assert f"Cannot write {path}: File too large. Fix: free disk space" in done.stdout, done.stderr
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_scratch_folder_goes_and_names_a_full_disk() -> None:
    with scratch_folder() as folder:
        (folder / "part").write_bytes(b"1")
    assert not folder.exists()
    told = "Cannot write temporary files: No space left"
    with pytest.raises(StorageError, match=told), scratch_folder() as folder:
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not folder.exists()
    with pytest.raises(OSError, match="shared object"), scratch_folder():
        raise OSError("libgomp.so.1: cannot open shared object file")


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys; from pathlib import Path; from edgetl.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as stream:\n"
        "    stream.write(bytes(100_000)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert python(code, path).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        StorageError, match=r"Cannot write .*/file/x: (Not a directory|File exists)"
    ):
        write_bytes(tmp_path / "file" / "x", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"Cannot write .*/folder: Is a directory"):
        write_bytes(tmp_path / "folder", b"")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_json_and_json_lines_survive_a_round_trip(tmp_path: Path) -> None:
    rows = [
        Photo(path="a/ä\n\u2028.jpg", split="train", label="a", sha256="0"),
        Photo(path="b", split="test", label="b", sha256="1", group="g"),
    ]
    write_jsonl(tmp_path / "rows", rows)
    assert len((tmp_path / "rows").read_bytes().split(b"\n")) == 3
    assert read_jsonl(tmp_path / "rows", Photo) == rows
    write_json(tmp_path / "one", rows[0])
    assert msgspec.json.decode((tmp_path / "one").read_bytes(), type=Photo) == rows[0]
    assert (tmp_path / "one").read_text("utf-8").count("\n") > 3


def test_hashes_are_sha256(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 17)
    (tmp_path / "x").write_bytes(data)
    assert sha256_bytes(data) == sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGETL_CACHE", "~/mine")
    assert cache_folder() == Path.home() / "mine"
    monkeypatch.delenv("EDGETL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_folder() == Path("/var/cache/edgetl")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "edgetl"


def test_names_that_are_no_utf8_come_back_from_json(tmp_path: Path) -> None:
    """As Python reads them: each byte that fits nowhere is a lone surrogate."""
    name = os.fsdecode(b"caf\xe9/\xff.png")
    photo = Photo(path=name, split="train", label="naïve", sha256="0")
    assert encode_json(photo).isascii()
    assert decode_json(encode_json(photo), Photo) == photo
    write_jsonl(tmp_path / "rows", [photo, photo])
    assert read_jsonl(tmp_path / "rows", Photo) == [photo, photo]
    write_json(tmp_path / "one", {"photo": photo})
    assert decode_json((tmp_path / "one").read_bytes(), dict[str, Photo]) == {"photo": photo}
    assert (tmp_path / "one").read_text().startswith('{\n  "photo"')
    for broken in (b'{"path": "\\udce9"}', b'{"path": "\\udce9"', b"{}"):
        with pytest.raises(msgspec.DecodeError):
            decode_json(broken, Photo)
