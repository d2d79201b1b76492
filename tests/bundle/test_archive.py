"""The bundle: every refusal by its message, real files only, and properties over damaged ones."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import stat
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetl.bundle import archive as module
from edgetl.bundle import check, open_bundle, unpack, write_bundle
from edgetl.bundle.check import parse_manifest
from edgetl.bundle.manifest import (
    BUNDLE_VERSION,
    Artifact,
    Candidate,
    Golden,
    Manifest,
    Provenance,
)
from edgetl.errors import BundleError, StorageError
from edgetl.inputs.image import ImageInput
from edgetl.options import FinetuneConfig
from edgetl.spec import Normalize, WeightsOrigin
from edgetl.tasks.classification import Classification
from edgetl.tasks.multilabel import MultiLabel, MultiLabelSettings

TASK = Classification(labels=("bolt", "nut — Mutter"))
MODE = (stat.S_IFREG | 0o644) << 16
MEMBERS = {
    "models/fp32.onnx": b"fp32 network",
    "models/int8.onnx": b"int8",
    "golden/inputs.bin": bytes(range(256)),
    "golden/ort-fp32.bin": b"logits",
    "golden/photo.jpg": b"\xff\xd8 jpeg \xff\xd9",
    "golden/pixels.bin": b"",
    "measurements.jsonl": b"{}\n",
}
quick = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def artifact(path: str, data: bytes) -> Artifact:
    digest = hashlib.sha256(data).hexdigest()
    return Artifact(path=path, size=len(data), sha256=digest)


def candidate(name: str, *paths: str, **more: Any) -> Candidate:
    kind = {"name": name, "recipe": name, "engine": "onnxruntime", "precision": "fp32"}
    kind |= {"settings": TASK.Settings()}
    return Candidate(**kind, artifacts=paths, **more)


def parsed(data: bytes) -> Manifest:
    """A manifest as a reader has it."""
    return parse_manifest(data)


def make_manifest(**changes: Any) -> Manifest:
    """The manifest of MEMBERS; one candidate was rejected."""
    config = FinetuneConfig(
        data="photos",
        backbone="mobilenet_v2",
        weights="imagenet",
        strategy="auto",
        epochs=3,
        size=224,
        fit="crop",
        flip=True,
        seed=0,
        device="cpu",
    )
    provenance = Provenance(
        edgetl="0.1.0",
        created_utc="2025-01-01T00:00:00Z",
        data_sha256="0" * 64,
        weights=WeightsOrigin(source="random initialisation"),
        config=config,
        versions={"torch": "2.6", "onnx": "1.18"},
        strategy="probe",
        max_drop=0.01,
    )
    models = ("models/fp32.onnx", "models/int8.onnx")
    manifest = Manifest(
        edgetl_bundle=BUNDLE_VERSION,
        name="parts",
        task=TASK,
        input=ImageInput(),
        outputs=TASK.outputs(),
        normalize=Normalize(),
        targets=("cpu",),
        order=("ort-int8", "ort-fp32"),
        artifacts=tuple(artifact(path, MEMBERS[path]) for path in models),
        candidates=(
            candidate("ort-fp32", models[0], n=7, session={"b": "1", "a": "2"}),
            candidate("ort-int8", models[1]),
            candidate("ov-int8", rejected="accuracy fell by 0.2"),
        ),
        chosen="ort-int8",
        provisional=True,
        golden=Golden(
            inputs="golden/inputs.bin",
            outputs={"ort-fp32": {"logits": "golden/ort-fp32.bin"}},
            jpeg="golden/photo.jpg",
            pixels="golden/pixels.bin",
        ),
        provenance=provenance,
        members=tuple(sorted(MEMBERS)),
    )
    return msgspec.structs.replace(manifest, **changes)


def tree_of(**changes: Any) -> dict[str, Any]:
    tree: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(make_manifest()))
    return tree | changes


def info(name: str, **fields: Any) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, MODE
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry


def zipped(rows: list[tuple[zipfile.ZipInfo, bytes]]) -> bytes:
    """An ordinary ZIP by Python's own zipfile."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for entry, data in rows:
            archive.writestr(entry, data)
    return stream.getvalue()


def seal(data: bytes, suffix: bytes = b"") -> bytes:
    """Give a ZIP that has no comment a correct one: what a malicious author can do."""
    assert data[-2:] == b"\0\0"
    body = data[:-2] + struct.pack("<H", 71 + len(suffix))
    return body + b"sha256:" + hashlib.sha256(body).hexdigest().encode() + suffix


def plain_rows(manifest: Any = None) -> list[tuple[zipfile.ZipInfo, bytes]]:
    encoded = msgspec.json.encode(make_manifest() if manifest is None else manifest)
    return [(info("manifest.json"), encoded), *((info(n), MEMBERS[n]) for n in sorted(MEMBERS))]


def refused(path: Path, data: bytes, message: str) -> BundleError:
    path.write_bytes(data)
    with pytest.raises(BundleError, match=message) as caught:
        open_bundle(path)
    assert str(path) in caught.value.message
    assert caught.value.fix
    return caught.value


def poke(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "parts.edgetl"


@pytest.fixture
def whole(path: Path) -> bytes:
    """The bytes of a good bundle, which lies at `path`."""
    write_bundle(path, make_manifest(members=()), MEMBERS)
    return path.read_bytes()


# --- what is written can be read --------------------------------------------------------------


def test_what_is_written_is_read_back(path: Path) -> None:
    digest = write_bundle(path, make_manifest(members=()), MEMBERS)
    with open_bundle(str(path)) as opened:
        assert opened.path == path
        assert opened.sha256 == digest
        assert opened.manifest == make_manifest()
        assert opened.members() == ("manifest.json", *sorted(MEMBERS))
        assert {name: opened.read(name) for name in MEMBERS} == MEMBERS
        assert parsed(opened.read("manifest.json")) == make_manifest()
    opened.close()  # twice is fine


def test_the_comment_is_the_hash_of_all_before_it(whole: bytes) -> None:
    assert whole[-71:] == b"sha256:" + hashlib.sha256(whole[:-71]).hexdigest().encode()


def test_it_is_the_zip_that_zipfile_writes(whole: bytes) -> None:
    encoded = msgspec.json.format(msgspec.json.encode(make_manifest(), order="deterministic"))
    rows = plain_rows()
    assert whole == seal(zipped([(rows[0][0], encoded + b"\n"), *rows[1:]]))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert archive.testzip() is None


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
def test_unzip_reads_it(whole: bytes, path: Path, tmp_path: Path) -> None:
    command = ["unzip", "-q", str(path), "-d", str(tmp_path / "out")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for name, data in MEMBERS.items():
        assert (tmp_path / "out" / name).read_bytes() == data


def test_equal_content_gives_equal_bytes(whole: bytes, path: Path) -> None:
    manifest = make_manifest()
    session = dict(reversed(manifest.candidates[0].session.items()))
    first = msgspec.structs.replace(manifest.candidates[0], session=session)
    manifest = make_manifest(candidates=(first, *manifest.candidates[1:]))
    write_bundle(path, manifest, dict(reversed(MEMBERS.items())))
    assert path.read_bytes() == whole


def test_the_file_is_readable_by_others(whole: bytes, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


names = st.from_regex(r"(x/)?[a-z0-9_-]{1,12}(\.[a-z]{1,3})?", fullmatch=True)


@quick
@given(
    more=st.dictionaries(
        names.filter(lambda name: name not in {"x", "models", "golden"}), st.binary(max_size=2000)
    )
)
def test_random_members_come_back(tmp_path: Path, more: dict[str, bytes]) -> None:
    members, path = MEMBERS | more, tmp_path / "random.edgetl"
    write_bundle(path, make_manifest(), members)
    first = path.read_bytes()
    with open_bundle(path) as opened:
        assert {name: opened.read(name) for name in opened.members()[1:]} == members
        assert opened.manifest.members == tuple(sorted(members))
    write_bundle(path, make_manifest(), dict(reversed(members.items())))
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    "suffix",
    [
        b" ",
        b"\n",
        b"0",
        b" ed25519:AbC+/=:._-",  # signatures are files beside a bundle
        b" " + b"a" * 2000,
    ],
)
def test_other_text_after_the_hash_is_refused(path: Path, suffix: bytes) -> None:
    refused(path, seal(zipped(plain_rows()), suffix), "does not end in its SHA-256")


def test_readers_accept_any_order_and_later_minor_versions(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the format is final; a release candidate is told apart below."""
    monkeypatch.setattr(check, "BUNDLE_VERSION", "1.0")
    tree = tree_of(edgetl_bundle="1.7", later={"a": [1]})
    tree["input"]["later"] = 1
    tree["artifacts"][0]["later"] = None
    tree["provenance"]["config"]["mixup"] = 0.2
    rows = plain_rows(tree)
    path.write_bytes(seal(zipped([rows[0], *reversed(rows[1:])])))
    with open_bundle(path) as opened:
        expected = make_manifest(edgetl_bundle="1.7")
        assert opened.manifest == expected
        assert set(opened.members()) == {"manifest.json", *MEMBERS}


def test_opening_keeps_no_copy_in_memory(path: Path) -> None:
    write_bundle(path, make_manifest(), MEMBERS | {"models/big.bin": bytes(32 << 20)})
    tracemalloc.start()
    with open_bundle(path):
        _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_torch_and_engines_are_not_imported() -> None:
    heavy = {"torch", "openvino", "onnxruntime"}
    code = f"import sys, edgetl.bundle; sys.exit(bool({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- paths that are no bundles ----------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        open_bundle(tmp_path / "no.edgetl")
    with pytest.raises(BundleError, match="does not exist"):
        open_bundle(f"{tmp_path}/a\0b")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="does not exist"):
        open_bundle(tmp_path / "file" / "no.edgetl")


@pytest.mark.timeout(20)
def test_folder_fifo_and_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for other in (tmp_path, tmp_path / "fifo", Path("/dev/null"), Path("/dev/zero")):
        with pytest.raises(BundleError, match=f"{other} is a folder or device, not a file"):
            open_bundle(other)


@pytest.mark.timeout(20)
def test_a_fifo_that_appears_while_opening_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(module.stat, "S_ISREG", lambda _: True)
    with pytest.raises(BundleError, match=r"cannot be read|is empty"):
        open_bundle(tmp_path / "fifo")


def test_os_errors_are_translated(tmp_path: Path, whole: bytes, path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(BundleError, match="cannot be read: "):
        open_bundle(tmp_path / "loop")
    with pytest.raises(BundleError, match="cannot be read: File name too long"):
        open_bundle(tmp_path / ("a" * 300))
    path.chmod(0)
    if os.geteuid():
        with pytest.raises(BundleError, match="cannot be read: Permission denied"):
            open_bundle(path)


def test_a_link_to_a_bundle_is_followed(whole: bytes, path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    open_bundle(tmp_path / "link").close()


def test_file_over_the_limit(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate((2 << 30) + 1)  # sparse
    with pytest.raises(BundleError, match="larger than 2 GiB"):
        open_bundle(path)


@pytest.mark.parametrize(
    "data",
    [b"x", b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(2000), b"PK\x05\x06" + bytes(18), b"%PDF-1.7"],
)
def test_other_files(path: Path, data: bytes) -> None:
    assert "edgetl export" in refused(path, data, "is not an edgetl bundle").fix


def test_empty_file(path: Path) -> None:
    refused(path, b"", "is empty")


def test_comment_alone(path: Path) -> None:
    refused(path, b"sha256:" + hashlib.sha256(b"").hexdigest().encode(), "not an edgetl bundle")


def test_an_ordinary_zip(path: Path) -> None:
    error = refused(path, zipped(plain_rows()), "does not end in its SHA-256")
    assert "copy it again" in error.fix


# --- damage -----------------------------------------------------------------------------------


def test_every_byte_counts(whole: bytes, path: Path) -> None:
    data = bytearray(whole)
    for position in range(len(data)):
        data[position] ^= 0x20  # turns a into A, also in the hash
        path.write_bytes(data)
        with pytest.raises(BundleError):
            open_bundle(path)
        data[position] ^= 0x20


@quick
@given(data=st.data())
def test_any_flipped_byte_is_refused(whole: bytes, path: Path, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[position] ^ data.draw(st.integers(1, 255))
    refused(path, poke(whole, position, bytes([flipped])), "is damaged|does not end in its SHA-256")


@quick
@given(data=st.data())
def test_any_truncation_is_refused(whole: bytes, path: Path, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(whole) - 1))
    refused(path, whole[:length], "does not end|is empty|not an edgetl bundle|is damaged")


@quick
@given(more=st.binary(min_size=1, max_size=600))
def test_appended_bytes_are_refused(whole: bytes, path: Path, more: bytes) -> None:
    refused(path, whole + more, "does not end in its SHA-256")


@quick
@given(start=st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06"]), data=st.binary(max_size=3000))
def test_random_bytes_are_refused(path: Path, start: bytes, data: bytes) -> None:
    refused(path, start + data, "does not end|is empty|not an edgetl bundle")


@quick
@given(data=st.binary(max_size=400))
def test_random_bytes_with_a_right_hash_are_refused(path: Path, data: bytes) -> None:
    refused(path, seal(data + b"\0\0"), "not an edgetl bundle|end record|does not end")


@settings(quick, max_examples=200)
@given(data=st.data())
def test_a_changed_byte_with_a_right_hash_never_raises_anything_else(
    path: Path, data: st.DataObject
) -> None:
    good = zipped(plain_rows())
    position = data.draw(st.integers(0, len(good) - 3))
    path.write_bytes(seal(poke(good, position, bytes([data.draw(st.integers(0, 255))]))))
    with contextlib.suppress(BundleError), open_bundle(path) as opened:
        for name in opened.members():
            opened.read(name)


# --- malicious ZIPs with a right hash ---------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "models/../../evil",
        "/etc/passwd",
        "models//a",
        "models/",
        "./a",
        "a/.",
        "..",
        "...",
        "a.",
        "C:evil",
        "models\\evil",
        "with space",
        "nul\x01",
        "ünï",
        "a\n",
        "",
        "a" * 201,
        "$(reboot)",
    ],
)
def test_forbidden_names(path: Path, name: str) -> None:
    entry = info("placeholder")
    entry.filename = name
    rows = [*plain_rows(), (entry, b"x")]
    message = "forbidden name|forbidden header field"  # zipfile flags non-ASCII names as UTF-8
    refused(path, seal(zipped(rows)), message)
    with pytest.raises(BundleError, match="forbidden name"):
        write_bundle(path, make_manifest(), MEMBERS | {name: b"x"})


@pytest.mark.parametrize("twin", ["models/int8.onnx", "models/INT8.onnx", "Manifest.json"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicates(path: Path, twin: str) -> None:
    refused(path, seal(zipped([*plain_rows(), (info(twin), b"x")])), "twice")


def test_duplicates_are_not_written(path: Path) -> None:
    for twin in ("models/INT8.onnx", "manifest.json", "MANIFEST.json"):
        with pytest.raises(BundleError, match="twice"):
            write_bundle(path, make_manifest(), MEMBERS | {twin: b""})
    assert not path.exists()


def test_a_member_inside_a_member(path: Path) -> None:
    inside = [(info("Models/int8.onnx/x/y"), b"x")]
    refused(path, seal(zipped([*plain_rows(), *inside])), "inside another member")
    with pytest.raises(BundleError, match="inside another member"):
        write_bundle(path, make_manifest(), MEMBERS | {"a/b": b"", "a": b""})


def test_too_many_members(path: Path) -> None:
    many = {f"m{number}": b"" for number in range(256 - 1 - len(MEMBERS))}
    write_bundle(path, make_manifest(), MEMBERS | many)
    open_bundle(path).close()
    with pytest.raises(BundleError, match="more than 256 members"):
        write_bundle(path, make_manifest(), MEMBERS | many | {"one-more": b""})
    rows = [*plain_rows(), *((info(name), b"") for name in many), (info("more"), b"")]
    refused(path, seal(zipped(rows)), "has 257 members; 1 to 256 are permitted")


def test_no_members(path: Path) -> None:
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)
    refused(path, seal(end), "has 0 members")


def test_compressed_member(path: Path) -> None:
    deflated = (info("bomb", compress_type=zipfile.ZIP_DEFLATED), bytes(10 << 20))
    data = seal(zipped([*plain_rows(), deflated]))
    assert len(data) < 1 << 16
    refused(path, data, "compressed member 'bomb'")


def local_at(data: bytes, name: str) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.getinfo(name).header_offset


def central_at(data: bytes, name: str) -> int:
    return data.rindex(name.encode()) - 46


def test_stored_bomb_that_states_a_huge_size(path: Path) -> None:
    data = zipped(plain_rows())
    at = local_at(data, "models/int8.onnx")
    huge = struct.pack("<I", 1 << 31)
    refused(path, seal(poke(data, at + 22, huge)), "states two sizes of member 'models/int8.onnx'")
    both = poke(data, at + 18, huge * 2)
    refused(path, seal(both), "states a wrong size of member 'models/int8.onnx'")
    central = central_at(data, "models/int8.onnx")
    refused(path, seal(poke(data, central + 20, huge * 2)), "contradicts its central directory")


def test_encrypted_member(path: Path) -> None:
    data = zipped(plain_rows())
    at = local_at(data, "models/int8.onnx")
    refused(path, seal(poke(data, at + 6, b"\1\0")), "encrypted member 'models/int8.onnx'")


@pytest.mark.parametrize(
    ("local", "offset"), [(True, 4), (True, 6), (True, 10), (True, 28), (False, 4), (False, 38)]
)
def test_other_header_fields(path: Path, local: bool, offset: int) -> None:
    data = zipped(plain_rows())
    at = (local_at if local else central_at)(data, "models/int8.onnx")
    message = "forbidden header field" if local else "contradicts its central directory"
    refused(path, seal(poke(data, at + offset, b"\x08")), message)


def test_symbolic_links_and_folders(path: Path) -> None:
    for mode, name in ((stat.S_IFLNK | 0o777, "etc"), (stat.S_IFDIR | 0o755, "var")):
        link = (info(name, external_attr=mode << 16), b"/etc/passwd")
        data = seal(zipped([*plain_rows(), link]))
        refused(path, data, "contradicts its central directory")


def test_member_comment_and_extra_field(path: Path) -> None:
    commented = (info("x", comment=b"hello"), b"")
    refused(path, seal(zipped([*plain_rows(), commented])), "central directory of a wrong size")
    extra = (info("x", extra=b"\x01\x00\x00\x00"), b"")
    refused(path, seal(zipped([*plain_rows(), extra])), "forbidden header field of member 'x'")


def test_local_and_central_names_differ(path: Path) -> None:
    data = zipped(plain_rows())
    evil = b"models/evil.onnx"
    local, central = local_at(data, "models/int8.onnx"), central_at(data, "models/int8.onnx")
    refused(path, seal(poke(data, local + 30, evil)), "contradicts its central directory")
    refused(path, seal(poke(data, central + 46, evil)), "contradicts its central directory")


def test_checksums_differ(path: Path) -> None:
    data = zipped(plain_rows())
    at = local_at(data, "models/int8.onnx")
    refused(path, seal(poke(data, at + 14, bytes(4))), "contradicts its central directory")


def shifted(data: bytes, by: int) -> bytes:
    """Offsets that are right after `by` bytes were prepended."""
    end = len(data) - 22
    count, _, start = struct.unpack_from("<H2I", data, end + 10)
    at = start
    for _ in range(count):
        offset, length = struct.unpack_from("<I", data, at + 42)[0], data[at + 28]
        data = poke(data, at + 42, struct.pack("<I", offset + by))
        at += 46 + length
    return poke(data, end + 16, struct.pack("<I", start + by))


def test_prepended_data(path: Path) -> None:
    data, script = zipped(plain_rows()), b"#!/bin/sh\nreboot\n"
    refused(path, seal(script + data), "data before member 1")
    moved = script + shifted(data, len(script))
    with zipfile.ZipFile(io.BytesIO(moved)) as archive:
        assert archive.testzip() is None  # a sound ZIP to others
    refused(path, seal(moved), "data before member 1")


def test_a_zip_in_front_of_a_zip(path: Path) -> None:
    data = zipped(plain_rows())
    refused(path, seal(data + data), "data before member|after its last member|wrong size")
    moved = data + shifted(data, len(data))
    refused(path, seal(moved), "data before member|after its last member|contradicts")


def with_directory(body: bytes, directory: bytes, count: int) -> bytes:
    sizes = (count, count, len(directory), len(body), 0)
    return body + directory + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, *sizes)


def test_gap_after_the_last_member(path: Path) -> None:
    data = zipped(plain_rows())
    start = struct.unpack_from("<I", data, len(data) - 6)[0]
    directory, count = data[start:-22], len(MEMBERS) + 1
    refused(
        path, seal(with_directory(data[:start] + b"hidden", directory, count)), "after its last"
    )


def test_data_between_directory_and_end(path: Path) -> None:
    data = zipped(plain_rows())
    refused(path, seal(data[:-22] + b"hidden" + data[-22:]), "after its last member")


def test_central_directory_of_another_size(path: Path) -> None:
    data = zipped(plain_rows())
    length = struct.unpack_from("<I", data, len(data) - 10)[0]
    for other in (length - 1, length + 1, 0):
        wrong = poke(data, len(data) - 10, struct.pack("<I", other))
        refused(path, seal(wrong), "central directory of a wrong size")


def test_overlapping_members(path: Path) -> None:
    """Two entries of the central directory that share one member's data."""
    data = zipped(plain_rows())
    start = struct.unpack_from("<I", data, len(data) - 6)[0]
    at = central_at(data, "models/int8.onnx")
    directory = data[start:-22] + data[at : at + 46 + len("models/int8.onnx")]
    bomb = with_directory(data[:start], directory, len(MEMBERS) + 2)
    refused(path, seal(bomb), "or an overlap")


def test_zip_of_several_disks_or_zip64(path: Path) -> None:
    data = zipped(plain_rows())
    refused(path, seal(poke(data, len(data) - 18, b"\1")), "end record")
    refused(path, seal(poke(data, len(data) - 12, b"\xff\xff")), "end record")
    refused(path, seal(poke(data, len(data) - 14, b"\xff" * 12)), "has 65535 members")


def test_a_comment_longer_than_stated(path: Path) -> None:
    body = zipped(plain_rows())[:-2] + struct.pack("<H", 70)
    sealed = body + b"sha256:" + hashlib.sha256(body).hexdigest().encode()
    refused(path, sealed, "end record")


def test_manifest_absent_or_not_first(path: Path) -> None:
    rows = plain_rows()
    refused(path, seal(zipped(rows[1:])), "no manifest.json as its first member")
    refused(path, seal(zipped([*rows[1:], rows[0]])), "no manifest.json as its first member")


def test_names_in_messages_are_printable(path: Path) -> None:
    entry = info("placeholder")
    entry.filename = "\x1b[31m" * 400
    error = refused(path, seal(zipped([*plain_rows(), (entry, b"")])), "forbidden name")
    assert error.message.isprintable()
    assert len(error.message) < 600 + len(str(path))


# --- the manifest -----------------------------------------------------------------------------


def with_manifest(data: bytes) -> bytes:
    return seal(zipped([(info("manifest.json"), data), *plain_rows()[1:]]))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b'"1.0-rc"', b"\xff\xfe", b'{"edgetl_bundle": "\xff"}', b'{"a": 1e999}'],
)
def test_manifest_that_is_no_json_object(path: Path, data: bytes) -> None:
    refused(path, with_manifest(data), "invalid manifest")


@pytest.mark.parametrize("field", ["later", "provenance"])
def test_manifest_nested_too_deep(path: Path, field: str) -> None:
    deep = f'{{"edgetl_bundle": "{BUNDLE_VERSION}", "{field}": '.encode() + b"[" * 100_000
    refused(path, with_manifest(deep), "invalid manifest")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": {"type": "image", "width": "big"}}, "Expected `int`, got `str`"),
        ({"task": {"type": "classification", "labels": [1]}}, r"at `\$.labels\[0\]`"),
        ({"provenance": []}, r"at `\$.provenance`"),
        ({"provenance": None}, r"at `\$.provenance`"),
        ({"normalize": {"mean": [0, 0]}}, r"at `\$.normalize.mean`"),
    ],
)
def test_manifest_of_another_schema(path: Path, changes: dict[str, Any], message: str) -> None:
    refused(path, with_manifest(msgspec.json.encode(tree_of(**changes))), message)


def test_manifest_without_a_field(path: Path) -> None:
    tree = tree_of()
    del tree["golden"]
    refused(path, with_manifest(msgspec.json.encode(tree)), "missing required field `golden`")
    tree = tree_of()
    del tree["provenance"]["config"]["data"]
    message = r"missing required field `data` - at `\$.provenance.config`"
    refused(path, with_manifest(msgspec.json.encode(tree)), message)


def test_manifest_over_the_limit(path: Path) -> None:
    large = msgspec.json.encode(tree_of(later="x" * (4 << 20)))
    refused(path, with_manifest(large), "manifest over 4 MiB")
    with pytest.raises(BundleError, match="manifest over 4 MiB"):
        write_bundle(path, make_manifest(name="x" * (4 << 20)), MEMBERS)


@pytest.mark.parametrize(
    ("ours", "version"),
    [
        ("1.0", "2.0"),
        ("1.0", "0.9"),
        ("1.0", "10.0"),
        ("1.0", "1.0-rc"),  # a final reader reads no release candidate
        ("1.0-rc", "1.0"),
        ("1.0-rc", "1.1-rc"),
        ("1.0-rc", "2.0"),
        ("1.1-rc", "1.0-rc"),
    ],
)
def test_other_versions(
    path: Path, monkeypatch: pytest.MonkeyPatch, ours: str, version: str
) -> None:
    monkeypatch.setattr(check, "BUNDLE_VERSION", ours)
    only = with_manifest(msgspec.json.encode({"edgetl_bundle": version}))
    error = refused(path, only, f"is of version {version}, and this edgetl reads {ours}")
    assert "export again with this version of edgetl" in error.fix
    assert "install the one that wrote it" in error.fix


@pytest.mark.parametrize(
    "version",
    [None, "", "1", "1.0.0", "one", "1.x", ["1.0"], "١.0", "1.0\n", "1.0-rc ", "1.0-beta"],
)
def test_no_version(path: Path, version: Any) -> None:
    refused(path, with_manifest(msgspec.json.encode(tree_of(edgetl_bundle=version))), "no version")


def test_a_number_is_no_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "BUNDLE_VERSION", "1.0")  # which the number would read as
    refused(path, with_manifest(msgspec.json.encode(tree_of(edgetl_bundle=1.0))), "edgetl_bundle")


def test_unlisted_and_absent_members(path: Path) -> None:
    extra = [*plain_rows(), (info("models/extra"), b"x")]
    refused(path, seal(zipped(extra)), "holds 'models/extra', which its manifest does not list")
    message = "lists 'models/int8.onnx' in its manifest but does not hold it"
    rows = [row for row in plain_rows() if row[0].filename != "models/int8.onnx"]
    refused(path, seal(zipped(rows)), message)


def test_member_listed_twice(path: Path) -> None:
    tree = tree_of(members=[*sorted(MEMBERS), "models/int8.onnx"])
    refused(path, with_manifest(msgspec.json.encode(tree)), "lists a member twice")
    tree = tree_of(members=["manifest.json", *sorted(MEMBERS)])
    refused(path, with_manifest(msgspec.json.encode(tree)), "lists 'manifest.json'")


FP32, INT8 = make_manifest().artifacts
GOLDEN = make_manifest().golden
(OUTPUT,) = TASK.outputs()
replace = msgspec.structs.replace


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"artifacts": (FP32, INT8, FP32)}, "describes an artifact twice"),
        ({"artifacts": (FP32, INT8, replace(INT8, path="no"))}, "artifact 'no' but does not hold"),
        (
            {"artifacts": (FP32, replace(INT8, path="manifest.json"))},
            "artifact 'manifest.json' but",
        ),
        (
            {"artifacts": (FP32, replace(INT8, size=5))},
            "holds 4 bytes of 'models/int8.onnx', not 5",
        ),
        ({"artifacts": (FP32, replace(INT8, sha256="../../x"))}, "no valid SHA-256 of artifact"),
        ({"artifacts": (FP32,)}, "lacks artifacts of its candidate 'ort-int8'"),
        ({"candidates": (candidate("ort-int8"),)}, "lacks artifacts of its candidate 'ort-int8'"),
        (
            {"candidates": (candidate("ort-int8", "golden/photo.jpg"),)},
            "lacks artifacts of its candidate 'ort-int8'",
        ),
        (
            {"candidates": (candidate("no", FP32.path, rejected="slow"),)},
            "has artifacts of rejected 'no'",
        ),
        ({"candidates": (candidate("a", FP32.path),) * 2}, "describes a candidate twice"),
        ({"candidates": ()}, "chooses 'ort-int8', which it does not ship"),
        ({"chosen": "ov-int8"}, "chooses 'ov-int8', which it does not ship"),
        ({"chosen": ""}, "chooses '', which it does not ship"),
        ({"golden": replace(GOLDEN, inputs="no")}, "names 'no' for its self-test"),
        ({"golden": replace(GOLDEN, jpeg="manifest.json")}, "names 'manifest.json' for its self"),
        ({"golden": replace(GOLDEN, pixels="")}, "names '' for its self-test"),
        (
            {"golden": replace(GOLDEN, outputs={"a": {"logits": "no"}})},
            "names 'no' for its self-test",
        ),
        ({"task": Classification(labels=("bolt", "bolt"))}, "names a class twice"),
        ({"task": Classification(labels=("bolt",))}, "outputs that are not those of its task"),
        ({"outputs": (replace(OUTPUT, dtype="int8"),)}, "outputs that are not those of its task"),
        ({"outputs": (replace(OUTPUT, name="scores"),)}, "outputs that are not those of its task"),
        ({"outputs": ()}, "outputs that are not those of its task"),
        (
            {
                "task": MultiLabel(labels=TASK.labels),
                "candidates": (
                    replace(
                        candidate("ort-int8", INT8.path),
                        settings=MultiLabelSettings(thresholds=(0.5,)),
                    ),
                ),
            },
            "has settings of 'ort-int8' for other classes",
        ),
    ],
)
def test_manifest_that_contradicts_its_members(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    manifest = make_manifest(**changes)
    refused(path, with_manifest(msgspec.json.encode(manifest)), message)
    path.unlink()
    with pytest.raises(BundleError, match=message):
        write_bundle(path, manifest, MEMBERS)
    assert list(path.parent.iterdir()) == []


# --- reading members --------------------------------------------------------------------------


def test_read_of_no_member_and_after_close(whole: bytes, path: Path) -> None:
    with open_bundle(path) as opened:
        for name in ("no", "", "/etc/passwd", "models", "MANIFEST.json"):
            with pytest.raises(BundleError, match=f"has no member '{name}'"):
                opened.read(name)
    with pytest.raises(BundleError, match="is closed"):
        opened.read("models/int8.onnx")


def test_member_that_changed_after_opening(path: Path) -> None:
    large = {"m1": b"1" * 100_000, "m2": b"2" * 100_000}
    write_bundle(path, make_manifest(), MEMBERS | large)
    with open_bundle(path) as opened:
        with path.open("r+b") as stream:
            stream.seek(path.read_bytes().index(large["m1"]) + 50_000)
            stream.write(b"!")
        with pytest.raises(BundleError, match=r"is damaged in member 'm1' \(CRC-32\)"):
            opened.read("m1")
        assert opened.read("m2") == large["m2"]
        os.truncate(path, 100)
        with pytest.raises(BundleError, match="ends too early"):
            opened.read("m2")


def test_a_bundle_replaced_after_opening_reads_as_opened(whole: bytes, path: Path) -> None:
    with open_bundle(path) as opened:
        write_bundle(path, make_manifest(), MEMBERS | {"measurements.jsonl": b"other"})
        assert opened.read("measurements.jsonl") == b"{}\n"


def test_artifact_that_is_not_the_described_one(path: Path) -> None:
    manifest = make_manifest(artifacts=(FP32, replace(INT8, sha256="0" * 64)))
    path.write_bytes(with_manifest(msgspec.json.encode(manifest)))
    with open_bundle(path) as opened:
        with pytest.raises(BundleError, match=r"misstates the SHA-256 of 'models/int8.onnx'"):
            opened.read("models/int8.onnx")
        assert opened.read("models/fp32.onnx") == b"fp32 network"


def test_wrong_checksum_in_both_headers(path: Path) -> None:
    crc = struct.pack("<I", zlib.crc32(b"int8"))
    data = zipped(plain_rows())
    assert data.count(crc) == 2
    path.write_bytes(seal(data.replace(crc, b"\1\2\3\4")))
    with (
        open_bundle(path) as opened,
        pytest.raises(BundleError, match=r"damaged in member 'models/int8.onnx' \(CRC-32\)"),
    ):
        opened.read("models/int8.onnx")


def test_reading_from_several_threads(path: Path) -> None:
    large = {f"m{number}": bytes([number]) * 200_000 for number in range(8)}
    write_bundle(path, make_manifest(), MEMBERS | large)
    start = threading.Barrier(8)

    def work(number: int) -> bool:
        start.wait()
        order = [f"m{(number + step) % 8}" for step in range(8)] * 5
        return all(opened.read(name) == large[name] for name in order)

    with open_bundle(path) as opened, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


# --- writing ----------------------------------------------------------------------------------


def test_artifact_of_another_hash_is_not_written(path: Path) -> None:
    with pytest.raises(BundleError, match=r"misstates SHA-256 of 'models/int8.onnx'"):
        write_bundle(path, make_manifest(), MEMBERS | {"models/int8.onnx": b"INT8"})
    assert not path.exists()


def test_a_manifest_that_no_reader_would_accept_is_not_written(path: Path) -> None:
    settings = TASK.Settings(temperature=float("nan"))
    broken = msgspec.structs.replace(candidate("ort-int8", INT8.path), settings=settings)
    with pytest.raises(BundleError, match=r"invalid manifest.*temperature"):
        write_bundle(path, make_manifest(candidates=(broken,)), MEMBERS)
    with pytest.raises(BundleError, match=r"version 2.0"):
        write_bundle(path, make_manifest(edgetl_bundle="2.0"), MEMBERS)
    assert not path.exists()


@pytest.mark.parametrize("temperature", [0, -1, 1e-320, 1e300])
def test_a_temperature_that_gives_no_probabilities_is_refused(
    path: Path, temperature: float
) -> None:
    tree = tree_of()
    tree["candidates"][1]["settings"]["temperature"] = temperature
    refused(path, with_manifest(msgspec.json.encode(tree)), "invalid manifest.*temperature")


def test_names_that_are_no_utf_8_are_spelled_out(path: Path) -> None:
    """Of a weights file, say, after all is built and measured."""
    manifest = make_manifest()
    odd = replace(manifest.provenance, weights=WeightsOrigin(source="caf\udce9.onnx"))
    write_bundle(path, replace(manifest, provenance=odd), MEMBERS)
    with open_bundle(path) as opened:
        assert opened.manifest.provenance.weights.source == "caf\\udce9.onnx"
        assert opened.manifest.task == manifest.task


def test_a_bundle_over_the_limit_is_not_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILE", 2 << 20)
    with pytest.raises(BundleError, match="would be larger than"):
        write_bundle(path, make_manifest(), MEMBERS | {"big": bytes(1 << 20)})
    assert not path.exists()


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Cannot write"):
        write_bundle(tmp_path / "file" / "parts.edgetl", make_manifest(), MEMBERS)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    done = shutil.which("mount") and subprocess.run(command, check=False, capture_output=True)
    if not done or done.returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_disk_full_keeps_the_old_bundle(tiny_disk: Path) -> None:
    path = tiny_disk / "parts.edgetl"
    digest = write_bundle(path, make_manifest(), MEMBERS)
    with pytest.raises(StorageError, match="No space left on device"):
        write_bundle(path, make_manifest(), MEMBERS | {"big": bytes(100_000)})
    assert list(tiny_disk.iterdir()) == [path]
    with open_bundle(path) as opened:
        assert opened.sha256 == digest


def test_disk_full_while_unpacking(tiny_disk: Path, path: Path) -> None:
    write_bundle(path, make_manifest(), MEMBERS | {"big": bytes(100_000)})
    with pytest.raises(StorageError, match="No space left on device"):
        unpack(path, tiny_disk / "out")
    assert [file.name for file in (tiny_disk / "out").iterdir()] == ["manifest.json"]


LIMITED = """
import resource, sys
from pathlib import Path
import msgspec
from edgetl.bundle import open_bundle, write_bundle
from edgetl.errors import StorageError
path = Path(sys.argv[1])
with open_bundle(path) as opened:
    members = {name: opened.read(name) for name in opened.members()[1:]}
    manifest = opened.manifest
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_bundle(path, manifest, members | {"big": bytes(int(sys.argv[2]))})
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize("size", [17_000, 100_000, 5_000_000])
def test_file_size_limit_keeps_the_old_bundle(whole: bytes, path: Path, size: int) -> None:
    command = [sys.executable, "-c", LIMITED, str(path), str(size)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "Cannot write" in ended.stdout
    assert "File too large" in ended.stdout
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


# --- unpacking --------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize("prepare", [lambda _: None, Path.mkdir], ids=["new", "empty"])
def test_unpack(whole: bytes, path: Path, tmp_path: Path, prepare: Callable[[Path], None]) -> None:
    folder = tmp_path / "out"
    prepare(folder)
    written = unpack(path, folder)
    assert [file.relative_to(folder).as_posix() for file in written] == [
        "manifest.json",
        *sorted(MEMBERS),
    ]
    files = tree(folder)
    assert parsed(files.pop("manifest.json")) == make_manifest()
    assert files == MEMBERS


def test_unpack_refuses_what_is_there(whole: bytes, path: Path, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for taken in (tmp_path, path, tmp_path / "dangling"):
        with pytest.raises(BundleError, match="exists and is no empty folder") as caught:
            unpack(path, taken)
        assert "new or empty" in caught.value.fix
    assert path.read_bytes() == whole
    assert {file.name for file in tmp_path.iterdir()} == {path.name, "dangling"}


def test_unpack_of_a_damaged_bundle_writes_nothing(whole: bytes, path: Path) -> None:
    path.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match="does not end in its SHA-256"):
        unpack(path, path.parent / "out")
    assert not (path.parent / "out").exists()


def test_unpack_where_nothing_can_be_written(whole: bytes, path: Path) -> None:
    with pytest.raises(StorageError, match="Not a directory"):
        unpack(path, path / "out")
