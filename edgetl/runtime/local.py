"""What this machine has measured, kept beside the cache: decides which candidate runs here."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgetl.errors import StorageError
from edgetl.files import cache_folder, write_json
from edgetl.machine import this_machine
from edgetl.spec import Record


class Local(Record, frozen=True, kw_only=True):
    """Medians of one bundle on one machine, in ms by recipe."""

    fingerprint: str
    p50_ms: dict[str, float]


def _path(bundle_sha256: str) -> Path:
    # Named after the machine too: a home folder may be shared by several.
    machine = this_machine().fingerprint.rpartition("#")[2]
    return cache_folder() / "measurements" / f"{bundle_sha256}-{machine}.json"


def local_p50_ms(bundle_sha256: str) -> dict[str, float]:
    """Medians that `bench` found here, by recipe; empty for another machine's."""
    try:
        found = msgspec.json.decode(_path(bundle_sha256).read_bytes(), type=Local)
    except (OSError, msgspec.DecodeError):
        return {}
    return found.p50_ms if found.fingerprint == this_machine().fingerprint else {}


def remember_p50_ms(bundle_sha256: str, p50_ms: dict[str, float]) -> bool:
    """Add medians of this machine; False when the cache cannot be written."""
    merged = local_p50_ms(bundle_sha256) | p50_ms
    try:
        write_json(
            _path(bundle_sha256), Local(fingerprint=this_machine().fingerprint, p50_ms=merged)
        )
    except StorageError:
        return False
    return True
