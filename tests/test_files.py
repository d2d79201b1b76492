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
    check_room,
    check_temporary_room,
    decode_json,
    encode_json,
    printable,
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


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_are_as_open_as_the_users_umask_lets_them(tmp_path: Path, umask: int) -> None:
    code = (
        "import os, sys; from pathlib import Path; from edgetl.files import write_bytes\n"
        f"os.umask({umask}); write_bytes(Path(sys.argv[1]), b'new')\n"
        "open(sys.argv[2], 'w').close()"
    )
    ours, plain = tmp_path / "ours", tmp_path / "plain"
    done = python(code, ours, plain)
    assert done.returncode == 0, done.stderr
    assert permissions(ours) == permissions(plain) == 0o666 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o664])
def test_a_file_that_is_replaced_stays_as_open_as_it_was(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    with atomic_file(path) as stream:
        (beside,) = (p for p in tmp_path.iterdir() if p != path)
        assert permissions(beside) & ~mode & 0o077 == 0  # never more open meanwhile
        stream.write(b"new")
    assert (path.read_bytes(), permissions(path)) == (b"new", mode)


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o777


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


def test_room_is_tested_without_leaving_anything(tmp_path: Path) -> None:
    check_room(tmp_path / "not" / "there", fix="")
    check_room(Path("relative"), fix="")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"Cannot write into .*/file: Not a directory") as error:
        check_room(tmp_path / "file" / "x", fix="name another one.")
    assert error.value.fix == "name another one."
    code = (
        "import resource, sys; from pathlib import Path; from edgetl.files import check_room\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
        "check_room(Path(sys.argv[1]), fix='')"
    )
    assert f"StorageError: Cannot write into {tmp_path}: " in python(code, tmp_path).stderr


def test_no_folder_for_temporary_files_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_temporary_room()
    code = (
        "import os, tempfile; from edgetl.files import check_temporary_room, scratch_folder\n"
        "from edgetl.errors import StorageError\n"
        "tempfile._candidate_tempdir_list = lambda: ['/nonexistent']\n"
        "for use in (check_temporary_room, lambda: scratch_folder().__enter__()):\n"
        "    try: use()\n"
        "    except StorageError as error: print(error)"
    )
    said = python(code).stdout.splitlines()
    assert len(said) == 2
    for line in said:
        assert line.startswith("Cannot write temporary files: No usable temporary directory")
        assert "TMPDIR" in line.partition("Fix: ")[2]


HOMELESS = (
    "import os, pwd, sys\n"
    "from edgetl.files import cache_folder, user_path; from edgetl.errors import StorageError\n"
    "os.environ.clear(); os.setuid(54321)  # after the imports, which that user may not read\n"
    "for use in (cache_folder, lambda: user_path('~/mine'), lambda: user_path('~nobody-here/x')):\n"
    "    try: print(use())\n"
    "    except StorageError as error: print(error.fix)\n"
    "print(user_path('/some/where'), user_path('here'))\n"
)


def test_a_user_without_a_home_is_told_which_variable_to_set() -> None:
    if os.geteuid():
        pytest.skip("only root can become a user without an entry in passwd")
    done = python(HOMELESS)
    assert done.returncode == 0, done.stderr
    cache, own, other, given = done.stdout.splitlines()
    assert "EDGETL_CACHE" in cache
    assert "HOME" in own
    assert "HOME" in other
    assert given == "/some/where here"


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


def test_names_that_are_no_utf8_are_spelled_out_for_other_programs() -> None:
    photo = Photo(path=os.fsdecode("🍎".encode() + b"\xff"), split="train", label="ü", sha256="0")
    spelled = printable(photo)
    assert (spelled.path, spelled.label) == ("🍎\\udcff", "ü")
    assert printable(spelled) is spelled
    assert msgspec.json.decode(msgspec.json.encode(spelled), type=Photo) == spelled
