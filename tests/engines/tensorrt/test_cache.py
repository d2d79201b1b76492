"""The cache of TensorRT engines: keys, whom it trusts, locks between processes, room."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgetl.engines.tensorrt import cache as trt_cache
from edgetl.engines.tensorrt.cache import Held, Parts, PlanCache
from edgetl.errors import StorageError, UsageError

PARTS = Parts(
    artifact="a" * 64,
    tensorrt="10.3.0",
    cuda="12.6",
    l4t="R36.4.0",
    gpu="Orin",
    compute_capability="8.7",
    precision="int8",
    typing="weak",
    batch=1,
    options={"external_tactics": "on"},
)


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "tensorrt")


def keep(cache: PlanCache, plan: bytes = b"plan", **changes: Any) -> Parts:
    parts = msgspec.structs.replace(PARTS, **changes)
    with cache.building():
        cache.keep(parts, plan, placement="", build_s=1.5).close()
    return parts


def taken(cache: PlanCache, parts: Parts = PARTS) -> bytes | None:
    held = cache.take(parts)
    if held is None:
        return None
    held.close()
    return held.data


def test_every_part_is_in_the_key() -> None:
    other: dict[str, Any] = {
        "artifact": "b" * 64,
        "tensorrt": "10.3.1",
        "cuda": "12.5",
        "l4t": "R36.3.0",
        "gpu": "Xavier",
        "compute_capability": "7.2",
        "precision": "fp16",
        "typing": "strong",
        "batch": 2,
        "dla": 0,
        "options": {"external_tactics": "off"},
        "builder": trt_cache.BUILDER + 1,
    }
    assert set(other) == set(Parts.__struct_fields__)
    keys = {msgspec.structs.replace(PARTS, **{k: v}).key for k, v in other.items()}
    assert len(keys | {PARTS.key}) == len(other) + 1
    assert msgspec.structs.replace(PARTS).key == PARTS.key


def test_what_is_kept_is_taken(cache: PlanCache) -> None:
    assert taken(cache) is None
    keep(cache, b"first")
    assert taken(cache) == b"first"
    keep(cache, b"second")
    assert taken(cache) == b"second"
    assert taken(cache, keep(cache, b"other", batch=4)) == b"other"
    held = cache.take(PARTS)
    assert held is not None
    assert (held.sidecar.parts, held.sidecar.build_s) == (PARTS, 1.5)
    held.close()
    held.close()
    cache.forget(PARTS)
    assert taken(cache) is None


def test_only_the_owner_can_read(tmp_path: Path) -> None:
    folder = tmp_path / "tensorrt"
    folder.mkdir(mode=0o755)
    cache = PlanCache(folder)
    keep(cache)
    path, _ = cache.timings(PARTS)
    cache.keep_timings(path, b"timings")
    assert folder.stat().st_mode & 0o777 == 0o700
    found = {p.suffix: p.stat().st_mode & 0o777 for p in folder.iterdir()}
    assert found == {".plan": 0o600, ".json": 0o600, ".timings": 0o600, "": 0o600}


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tensorrt"
    folder.mkdir()
    folder.chmod(0o770)
    with pytest.raises(StorageError, match="can be written by others") as error:
        PlanCache(folder)
    assert f"chmod 700 {folder}" in error.value.fix
    folder.chmod(0o700)
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(StorageError, match="is no plain file or folder"):
        PlanCache(link)


def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give folders away")
    folder = tmp_path / "tensorrt"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, -1)
    with pytest.raises(StorageError, match="belongs to user 12345, not 0"):
        PlanCache(folder)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"Cannot use .*file") as error:
        PlanCache(tmp_path / "file" / "tensorrt")
    assert "EDGETL_CACHE" in error.value.fix


def spoil(path: Path, how: str) -> str:
    """Spoil an engine; the reason that must be given."""
    sidecar = path.with_suffix(".json")
    if how == "foreign":
        stated = msgspec.json.decode(sidecar.read_bytes(), type=trt_cache.Sidecar)
        parts = msgspec.structs.replace(stated.parts, gpu="Xavier", tensorrt="8.5.2")
        changed = msgspec.structs.replace(stated, parts=parts)
        sidecar.write_bytes(msgspec.json.encode(changed))
        return "tensorrt: 8.5.2, not 10.3.0; gpu: Xavier, not Orin"
    if how == "damaged":
        path.write_bytes(b"plaN")
        return "is damaged"
    if how == "alone":
        sidecar.unlink()
        return "lacks .*json"
    if how == "writable":
        path.chmod(0o622)
        return "can be written by others"
    if how == "linked":
        path.rename(path.with_suffix(".other"))
        path.symlink_to(path.with_suffix(".other"))
        return "cannot be read"
    sidecar.write_bytes(b"{")
    return "unreadable .*json"


@pytest.mark.parametrize("how", ["foreign", "damaged", "alone", "writable", "linked", "torn"])
def test_a_foreign_or_damaged_engine_is_refused_and_replaced(
    cache: PlanCache, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    keep(cache)
    reason = spoil(cache.folder / f"{PARTS.key}.plan", how)
    assert cache.take(PARTS, quiet=True) is None
    assert not caplog.messages
    assert taken(cache) is None
    (line,) = caplog.messages
    assert line.startswith(f"refused the cached engine {PARTS.key}.plan: it ")
    assert re.search(reason, line)
    keep(cache, b"again")
    assert taken(cache) == b"again"


def test_timings_are_by_version_and_gpu(cache: PlanCache) -> None:
    path, data = cache.timings(PARTS)
    assert data == b""
    with cache.building():
        cache.keep_timings(path, b"timings")
    assert cache.timings(msgspec.structs.replace(PARTS, batch=8)) == (path, b"timings")
    assert cache.timings(msgspec.structs.replace(PARTS, gpu="Xavier"))[1] == b""


def test_timings_that_others_can_write_are_left(
    cache: PlanCache, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = cache.timings(PARTS)
    cache.keep_timings(path, b"timings")
    path.chmod(0o666)
    assert cache.timings(PARTS)[1] == b""
    assert "refused the timing cache" in caplog.text


def test_the_longest_unused_goes_first(cache: PlanCache, monkeypatch: pytest.MonkeyPatch) -> None:
    mib = bytes(2**20)
    old, older, new = (keep(cache, mib, batch=n) for n in (1, 2, 3))
    for age, parts in enumerate((new, old, older)):
        stamp = time.time() - 1000 * (age + 1)
        os.utime(cache.folder / f"{parts.key}.plan", (stamp, stamp))
    assert taken(cache, older) is not None  # used now, so that `old` is the longest unused
    monkeypatch.setenv(trt_cache.LIMIT, "3")
    small = PlanCache(cache.folder)
    newest = keep(small, mib, batch=4)
    assert [taken(small, p) is not None for p in (old, new, older, newest)] == [
        False,
        False,
        True,
        True,
    ]
    assert len(list(small.folder.glob("*.json"))) == 2


def test_engines_in_use_stay(cache: PlanCache, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(cache)
    held = cache.take(PARTS)
    assert isinstance(held, Held)
    monkeypatch.setenv(trt_cache.LIMIT, "0")
    full = PlanCache(cache.folder)
    with full.building():
        another = full.keep(msgspec.structs.replace(PARTS, batch=2), b"x", placement="", build_s=0)
    if sys.platform != "win32":
        assert taken(full) is not None
    held.close()
    full.make_room()
    assert taken(full) is None
    another.close()
    full.make_room()
    assert not list(full.folder.glob("*.plan"))


def test_files_that_others_remove_meanwhile_do_not_matter(cache: PlanCache) -> None:
    keep(cache)
    stop = threading.Event()

    def come_and_go() -> None:
        path = cache.folder / "a.plan"
        while not stop.is_set():
            path.write_bytes(b"x")
            path.unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(2000):
            cache.make_room()
    finally:
        stop.set()
        other.join()
    assert taken(cache) == b"plan"


@pytest.mark.parametrize("value", ["", "-1", "2 GiB", "1.5"])
def test_a_wrong_limit_is_refused(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(trt_cache.LIMIT, value)
    with pytest.raises(UsageError, match="EDGETL_CACHE_MIB is") as error:
        PlanCache(tmp_path / "tensorrt")
    assert "whole number" in error.value.fix


def test_leftovers_of_killed_processes_go(cache: PlanCache) -> None:
    (cache.folder / ".x.plan.abc.tmp").write_bytes(b"half")
    keep(cache)
    assert not list(cache.folder.glob(".*.tmp"))


BUILDER = """
import logging, sys
from pathlib import Path
import msgspec
from edgetl.engines.tensorrt.cache import Parts, PlanCache
logging.basicConfig(format="%(message)s", stream=sys.stdout)
cache = PlanCache(Path(sys.argv[1]))
parts = msgspec.json.decode(sys.argv[2], type=Parts)
with cache.building():
    held = cache.take(parts)
    if held is None:
        held = cache.keep(parts, b"plan", placement="", build_s=0.5)
        print("built", flush=True)
"""


def test_two_processes_wait_and_build_once(cache: PlanCache) -> None:
    stated = msgspec.json.encode(PARTS).decode()
    command = [sys.executable, "-c", BUILDER, str(cache.folder), stated]
    with cache.building():
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for process in both:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line == "waiting for another process that builds an engine\n"
        assert taken(cache) is None
    said = [process.communicate(timeout=30)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(said) == ["", "built\n"]
    assert taken(cache) == b"plan"


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic\n", "R36.4.0"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178", "R35.4.1"),
        ("something else", ""),
        ("", ""),
    ],
)
def test_the_release_of_a_jetson(
    text: str, release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt_cache, "L4T", tmp_path / "nv_tegra_release")
    assert trt_cache.l4t_release() == ""
    trt_cache.L4T.write_text(text)
    assert trt_cache.l4t_release() == release


def test_nothing_is_logged_when_all_is_well(
    cache: PlanCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "edgetl")
    keep(cache)
    assert taken(cache) == b"plan"
    assert not caplog.messages
