"""Download of a weights file: short of patience, checked, and written whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from edgetl.errors import WeightsError
from edgetl.files import atomic_file
from edgetl.progress import Bar, no_bar

CONNECT_S = 2.5  # until the host, or the proxy before it, has taken a connection
STALL_S = 20.0  # without a byte
BLOCK = 1 << 16
FIX = "look at the network, HTTPS_PROXY and HF_ENDPOINT, or fetch the file elsewhere."
PORTS = {"http": 80, "https": 443}


def fetch(
    url: str, to: Path, *, sha256: str = "", bar: Bar = no_bar, stall_s: float = STALL_S
) -> str:
    """Write what `url` answers to the file `to`; its SHA-256 must begin with `sha256`.

    Returns the SHA-256. Without a network it gives up within 3 s. Raises WeightsError for an
    unreachable or silent host, a status that is not 200, a web page in the place of a file, a file
    cut off, or another hash; `to` then is as it was.
    """
    with (
        _opened(url, stall_s) as answer,
        atomic_file(to) as stream,
        bar(f"fetching {to.name}", (wanted := answer.length) or 0) as advance,
    ):
        found, begin = hashlib.sha256(), b""
        for block in _blocks(answer, stall_s):
            begin = begin or block[:64]
            found.update(block)
            stream.write(block)
            advance(len(block))
        if wanted is not None and stream.tell() != wanted:
            raise WeightsError(f"{url} broke off after {stream.tell()} of {wanted} bytes.", fix=FIX)
        _check(answer.url, begin, found.hexdigest(), sha256)
    return found.hexdigest()


def _opened(url: str, stall_s: float) -> Any:
    try:
        _reach(url)
        return urllib.request.urlopen(url, timeout=stall_s)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise WeightsError(f"{url} answers {error.code} {error.reason}.", fix=FIX) from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # of what is no address
        reason = getattr(error, "reason", error)
        raise WeightsError(f"{url} cannot be reached: {reason}.", fix=FIX) from error


def _blocks(answer: Any, stall_s: float) -> Iterator[bytes]:
    """What comes, in parts; WeightsError where it breaks off."""
    try:
        yield from iter(partial(answer.read, BLOCK), b"")
    except (OSError, http.client.HTTPException) as error:
        why = f"nothing came for {stall_s:g} s" if isinstance(error, TimeoutError) else error
        raise WeightsError(f"{answer.url} broke off: {why}.", fix=FIX) from error


def _check(url: str, begin: bytes, found: str, sha256: str) -> None:
    """WeightsError where what came is not the file that was asked for."""
    if begin.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise WeightsError(
            f"{url} answers with a web page, not with weights: a login page of the network, say.",
            fix=FIX,
        )
    if not found.startswith(sha256):
        raise WeightsError(
            f"{url} has the SHA-256 {found}, which does not begin with {sha256}.", fix=FIX
        )


def _reach(url: str) -> None:
    """URLError unless the host, or the proxy for it, takes a connection soon.

    In a thread, as looking up a name has no limit of its own.
    """
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    where = parts.hostname or "", parts.port or PORTS.get(parts.scheme, 80)
    failed: list[object] = [f"no connection to {where[0]} within {CONNECT_S:g} s"]

    def connect() -> None:
        try:
            socket.create_connection(where, CONNECT_S).close()
            failed.clear()
        except OSError as error:
            failed[:] = [error.strerror or error]

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(CONNECT_S)
    if failed:
        raise urllib.error.URLError(str(failed[0]))
