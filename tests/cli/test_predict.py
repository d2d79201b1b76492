"""`edgetl predict` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_json_is_one_document(cli: Cli, tiny_bundle: Path, shapes: Path) -> None:
    folder, photo = shapes / "disc", shapes / "bars" / "00.png"
    options = ("--precision", "fp32", "--engine", "onnxruntime", "--top", "2", "--json")
    done = cli("predict", tiny_bundle, folder, photo, *options)
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    assert [row["image"] for row in rows] == [*map(str, sorted(folder.iterdir())), str(photo)]
    for row in rows:
        assert row["candidate"] == "ort-fp32"
        assert row["error"] is None
        first, second = row["predictions"]
        assert {first["label"], second["label"]} < {"bars", "disc", "square"}
        assert 1 >= first["probability"] >= second["probability"] >= 0


def test_one_bad_image_among_many(
    cli: Cli, tiny_bundle: Path, shapes: Path, tmp_path: Path
) -> None:
    """A text file, a missing file and a damaged one; each has its error, the rest is done."""
    good = sorted((shapes / "disc").iterdir())[:3]
    text, cut, missing = tmp_path / "text.jpg", tmp_path / "cut.png", tmp_path / "no.jpg"
    text.write_text("not an image")
    cut.write_bytes(good[0].read_bytes()[:200])
    images = [good[0], text, good[1], missing, cut, good[2]]
    done = cli("predict", tiny_bundle, *images, "--json")
    assert done.returncode == 1
    rows = json.loads(done.stdout)
    assert [row["image"] for row in rows] == list(map(str, images))
    assert [bool(row["predictions"]) for row in rows] == [True, False, True, False, False, True]
    assert "not an image in a format that edgetl reads" in rows[1]["error"]
    assert "no such file" in rows[3]["error"]
    assert f"Cannot read image {cut}: " in rows[4]["error"]
    assert done.stderr == "edgetl: error: 3 of 6 images have no prediction.\n"


def test_an_answer_that_is_no_number_is_an_error_row(
    cli: Cli, nan_bundle: Path, shapes: Path, tmp_path: Path
) -> None:
    photo, dark = shapes / "disc" / "00.png", tmp_path / "dark.png"
    Image.new("RGB", (40, 40)).save(dark)
    done = cli("predict", nan_bundle, photo, dark, "--json")
    assert done.returncode == 1
    good, bad = json.loads(done.stdout)
    assert (good["error"], len(good["predictions"])) == (None, 3)
    assert bad["predictions"] == []
    assert f"ort-fp32 answers NaN or infinity to {dark}, on onnxruntime" in bad["error"]
    assert done.stderr == "edgetl: error: 1 of 2 images have no prediction.\n"
    shown = cli("predict", nan_bundle, photo, dark)
    assert (shown.returncode, len(shown.stdout.splitlines())) == (1, 1)
    assert "answers NaN" in shown.stderr
    data = tmp_path / "data" / "disc"
    data.mkdir(parents=True)
    dark.rename(data / "dark.png")
    scored = cli("evaluate", nan_bundle, tmp_path / "data")
    assert scored.returncode == 1
    assert "answers NaN or infinity" in scored.stderr


def test_a_candidate_is_chosen_by_name(cli: Cli, tiny_bundle: Path, shapes: Path) -> None:
    photo = shapes / "disc" / "00.png"
    done = cli("predict", tiny_bundle, photo, "--candidate", "ort-int8", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["candidate"] == "ort-int8"
    wrong = cli("predict", tiny_bundle, photo, "--candidate", "ort-int9")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "Unknown candidate 'ort-int9': did you mean ort-int8" in wrong.stderr
    both = cli("predict", tiny_bundle, photo, "--candidate", "ort-int8", "--engine", "openvino")
    assert both.returncode == 1
    assert "has an engine and a precision of its own" in both.stderr


def test_plain_output_is_a_line_an_image(cli: Cli, tiny_bundle: Path, tmp_path: Path) -> None:
    """A photo, and one whose name is no UTF-8."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    odd = tmp_path / os.fsdecode(b"odd-\xff.png")
    Image.fromarray(noise).save(tmp_path / "a.png")
    odd.write_bytes((tmp_path / "a.png").read_bytes())
    done = cli("predict", tiny_bundle, "a.png", odd.name, "--top", "1")
    assert done.returncode == 0
    first, second = done.stdout.splitlines()
    assert first.startswith("a.png  ")
    assert second.startswith("odd-\\udcff.png  ")
    assert first.split()[1:] == second.split()[1:]
    assert " on o" in done.stderr  # which candidate, in which engine
    assert "Traceback" not in done.stderr
    rows = json.loads(cli("predict", tiny_bundle, odd.name, "--json").stdout)
    assert rows[0]["image"] == odd.name


def test_a_folder_is_searched_as_for_training(
    cli: Cli, tiny_bundle: Path, shapes: Path, tmp_path: Path
) -> None:
    """By bytes too, without what systems leave; other files are counted."""
    photo = (shapes / "disc/00.png").read_bytes()
    names = ("a/1.png", "a/IMG_2", "a/@eaDir/1.png", "__MACOSX/a/._1.png", ".hidden/1.png")
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(photo)
    for name in ("a/x.mp4", "a/y.mp4", "Thumbs.db", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"no photo")
    (tmp_path / "in/a/3.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    done = cli("predict", tiny_bundle, "in", "--json")
    rows = json.loads(done.stdout)
    assert [row["image"] for row in rows] == ["in/a/1.png", "in/a/3.HEIC", "in/a/IMG_2"]
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert "HEIC" in rows[1]["error"].replace("3.HEIC", "")
    assert done.returncode == 1
    assert done.stderr == (
        "edgetl: skipped 2 files, in/a/x.mp4 for one: .mp4 (video), no photo\n"
        "edgetl: error: 1 of 3 images have no prediction.\n"
    )


def test_what_cannot_be_predicted(cli: Cli, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = cli("predict", tiny_bundle, "empty", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "DataError"
    assert error["message"] == "No images in folder empty."
    done = cli("predict", tiny_bundle, "x.jpg", "--precision", "fp16", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "EngineError"
    assert (
        "no candidate for engine auto, precision fp16; it has onnxruntime fp32"
        in (error["message"])
    )


def test_photos_are_drawn_each_under_a_name_of_its_own(
    cli: Cli, tiny_bundle: Path, shapes: Path, tmp_path: Path
) -> None:
    """One that can be answered, but is too large to be drawn, stops nothing."""
    names = ("a/1.png", "b/1.png", "c/1.png", "c/1-2.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((shapes / "disc/00.png").read_bytes())
    Image.new("L", (16_000, 12_000), 90).save(tmp_path / "c/large.jpg", quality=5)
    done = cli("predict", tiny_bundle, "a", "b", "c", "--draw", "drawn", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == len(names) + 1
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert drawn == ["1-2-2.png", "1-2.png", "1-3.png", "1.png"] or len(drawn) == len(names)
    before = (tmp_path / "a/1.png").read_bytes()
    same = cli("predict", tiny_bundle, "a", "--draw", "a")
    assert (same.returncode, same.stdout) == (1, "")
    assert "--draw a would write over the photo 1.png" in same.stderr
    assert (tmp_path / "a/1.png").read_bytes() == before
    first, second = done.stderr.splitlines()
    assert first.startswith("edgetl: c/large.jpg is not drawn: ")
    assert second == "edgetl: wrote 4 drawings to drawn"


def test_a_reader_may_leave(tiny_bundle: Path, shapes: Path) -> None:
    """As in `edgetl predict … | head -1`."""
    command = [sys.executable, "-m", "edgetl", "predict", str(tiny_bundle), str(shapes)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=tiny_bundle.parent, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0
    assert "Traceback" not in said
    assert "Broken pipe" not in said
