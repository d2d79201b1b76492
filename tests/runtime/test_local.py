"""What this machine measured is kept for this machine and this bundle alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgetl.machine import this_machine
from edgetl.runtime import local
from edgetl.runtime.local import local_p50_ms, remember_p50_ms

BUNDLE, OTHER = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def become(fingerprint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = msgspec.structs.replace(this_machine(), fingerprint=fingerprint)
    monkeypatch.setattr(local, "this_machine", lambda: machine)


def test_medians_are_kept_by_bundle_and_merged() -> None:
    assert local_p50_ms(BUNDLE) == {}
    assert remember_p50_ms(BUNDLE, {"ort-fp32": 2.0, "ov-fp32": 3.0})
    assert remember_p50_ms(BUNDLE, {"ort-fp32": 1.0})
    assert local_p50_ms(BUNDLE) == {"ort-fp32": 1.0, "ov-fp32": 3.0}
    assert local_p50_ms(OTHER) == {}


def test_machines_that_share_a_cache_keep_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    remember_p50_ms(BUNDLE, {"ort-fp32": 2.0})
    become("another machine #0123456789ab", monkeypatch)
    assert local_p50_ms(BUNDLE) == {}
    remember_p50_ms(BUNDLE, {"ort-fp32": 9.0})
    assert local_p50_ms(BUNDLE) == {"ort-fp32": 9.0}
    monkeypatch.undo()


def test_a_file_of_another_machine_is_not_believed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_p50_ms(BUNDLE, {"ort-fp32": 2.0})
    end = this_machine().fingerprint.rpartition("#")[2]
    become(f"another machine #{end}", monkeypatch)
    assert local_p50_ms(BUNDLE) == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"fingerprint": 3}', b"\xff"])
def test_a_damaged_file_counts_as_none(cache: Path, content: bytes) -> None:
    remember_p50_ms(BUNDLE, {"ort-fp32": 2.0})
    (path,) = (cache / "measurements").iterdir()
    path.write_bytes(content)
    assert local_p50_ms(BUNDLE) == {}
    assert remember_p50_ms(BUNDLE, {"ort-fp32": 4.0})
    assert local_p50_ms(BUNDLE) == {"ort-fp32": 4.0}


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.write_text("a file where a folder should be")
    assert not remember_p50_ms(BUNDLE, {"ort-fp32": 2.0})
    assert local_p50_ms(BUNDLE) == {}
