"""Files that nobody but this user can have written, and locks on them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO


class RefusedError(Exception):
    """Why a file is not taken; begins with a verb whose subject is the file."""


def foreign(found: os.stat_result, kind: Callable[[int], bool]) -> str | None:
    """Why a file or folder could be somebody else's work, or None."""
    if not kind(found.st_mode):
        return "is no plain file or folder"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, not {os.geteuid()}"
    if found.st_mode & 0o022:
        return "can be written by others"
    return None


def open_owned(path: Path) -> IO[bytes] | None:
    """A file that only this user can have written, open, or None; raises RefusedError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RefusedError(f"cannot be read ({error.strerror or error})") from error
    if reason := foreign(os.fstat(handle), stat.S_ISREG):
        os.close(handle)
        raise RefusedError(reason)
    return os.fdopen(handle, "rb")


def owned_content(path: Path) -> bytes | None:
    """A whole file, or None; raises RefusedError as `open_owned` does."""
    file = open_owned(path)
    if file is None:
        return None
    with file:
        return file.read()


def lock(file: IO[bytes], *, shared: bool, wait: bool) -> bool:
    """Lock an open file until it is closed; False when that would have to wait.

    Where the file system has no locks, everyone gets one: two then build the same engine.
    """
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, mode if wait else mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def unlink(path: Path) -> None:
    """Remove a file if that can be done."""
    with contextlib.suppress(OSError):
        path.unlink()
