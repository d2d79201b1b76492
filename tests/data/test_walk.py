"""Telling photos from other files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from edgetl.data.walk import images_in, is_run, walk
from edgetl.errors import DataError


def fill(root: Path, *paths: str, data: bytes = b"bytes of something") -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def test_order_is_files_before_folders_by_name(tmp_path: Path) -> None:
    fill(tmp_path, "b/1.jpg", "a/z/1.jpg", "a/2.jpg", "a/10.jpg", "z.jpg")
    found = walk(tmp_path)
    assert found.photos == ["z.jpg", "a/10.jpg", "a/2.jpg", "a/z/1.jpg", "b/1.jpg"]
    assert found.folders == ["a", "a/z", "b"]


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX", ".trash"],
)
def test_system_folders_are_passed_over_at_any_depth(name: str, tmp_path: Path) -> None:
    fill(tmp_path, "cat/1.jpg", f"cat/{name}/1.jpg", f"{name}/cat/1.jpg", "cat/._1.jpg")
    assert walk(tmp_path) == (["cat/1.jpg"], [], [], ["cat"])


def test_clutter_is_passed_over_in_silence(tmp_path: Path) -> None:
    names = (
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "notes.TXT",
        "boxes.xml",
        "meta.json",
        "README",
    )
    fill(tmp_path, *(f"cat/{name}" for name in names))
    found = walk(tmp_path)
    assert (found.photos, found.others) == ([], [])


@pytest.mark.parametrize("suffix", ["", ".img", ".jpg_large", ".jpg~", ".jpeg-1", ".2021"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_a_photo_by_its_bytes_is_a_photo(suffix: str, kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), "red").save(tmp_path / f"photo{suffix}", kind)
    found = walk(tmp_path)
    assert found.photos == found.misnamed == [f"photo{suffix}"]
    assert found.others == []


@pytest.mark.parametrize("name", ["a.JPG", "a.heic", "a.avif", "a.jxl", "a.jfif", "a.tif", "a.dng"])
def test_a_photo_by_its_name_is_a_photo_whatever_it_holds(name: str, tmp_path: Path) -> None:
    found = walk(fill(tmp_path, name))
    assert (found.photos, found.misnamed) == ([name], [])


def test_other_files_are_named_by_what_they_are(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", "b.dat", "c", "d.npy", "e.1234")
    fill(tmp_path, "f.bin", data=b"%PDF-1.7")
    fill(tmp_path, "g.part", data=b"")
    Image.new("RGB", (9, 9)).save(tmp_path / "h.dcm", "PNG")
    reasons = {file.path: file.reason for file in walk(tmp_path).others}
    assert reasons == {
        "a.mp4": ".mp4 (video), no photo",
        "b.dat": "of no known kind, no photo (.dat)",
        "c": "of no known kind, no photo",
        "d.npy": ".npy (NumPy), no photo",
        "e.1234": "of no known kind, no photo",
        "f.bin": "PDF, no photo (.bin)",
        "g.part": "empty, no photo (.part)",
        "h.dcm": ".dcm (DICOM) by name although PNG by content: rename it if it is a photo",
    }


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "camera.jpg")
    os.mkfifo(tmp_path / "stream")
    found = walk(tmp_path)
    assert found.photos == []
    assert [file.reason for file in found.others] == ["not a regular file"] * 2


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    fill(tmp_path, "root/a/1.jpg", "root/b/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "root/a/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/a/loop").symlink_to(tmp_path / "root/a")
    (tmp_path / "root/b/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/b/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "root/b/itself").symlink_to(tmp_path / "root/b/itself")
    found = walk(tmp_path / "root")
    assert [file.path for file in found.others] == ["b/itself"]
    assert found.photos == ["a/1.jpg", "a/linked/2.jpg", "b/1.jpg", "b/gone.jpg", "c/2.jpg"]


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot list .*/nowhere: No such file"):
        walk(tmp_path / "nowhere")


def test_runs_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.jpg", "a/run/report.png", "b/1.jpg")
    (tmp_path / "a/run/run.json").write_text('{"edgetl_run": 7}')
    (tmp_path / "b/run.json").write_text('{"other": 1}')
    assert is_run(tmp_path / "a/run")
    assert not is_run(tmp_path / "b")
    assert walk(tmp_path).photos == ["a/1.jpg", "b/1.jpg"]


def test_folders_made_for_runs_are_passed_over(tmp_path: Path) -> None:
    """`finetune . --out runs/new` in a folder of photos, before and after."""
    fill(tmp_path, "a/1.jpg", "b/1.jpg", "b/run/run.json", "runs/old/run.json", "runs/old/x.jpg")
    fill(tmp_path, "runs/notes/deep/y.bin", "out/deep/new/cache/photos.npy", "empty/z.txt")
    for name in ("runs/old", "b/run"):
        (tmp_path / name / "run.json").write_text('{"edgetl_run": 1}')
    assert walk(tmp_path, tmp_path / "out/deep/new").folders == ["a", "b", "empty"]


def test_images_of_a_folder_and_a_line_on_the_rest(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "x/1.jpg",
        "x/@eaDir/1.jpg",
        "x/a.dcm",
        "x/b.dcm",
        "x/c.txt",
        "none/b.dcm",
        "e/t.md",
    )
    lines: list[str] = []
    assert images_in(tmp_path / "x", lines.append) == [tmp_path / "x/1.jpg"]
    assert lines == [f"skipped 2 files, {tmp_path}/x/a.dcm for one: .dcm (DICOM), no photo"]
    with pytest.raises(DataError, match=r"No images in folder .*none: 1 file is \.dcm \(DICOM\)"):
        images_in(tmp_path / "none")
    with pytest.raises(DataError, match=r"No images in folder .*/e\."):
        images_in(tmp_path / "e")


def test_names_that_are_no_utf8_are_walked(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    fill(tmp_path, f"{odd}/{odd}.jpg")
    assert walk(tmp_path).photos == [f"{odd}/{odd}.jpg"]
