"""What is exported, and which options belong to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgetl.errors import DataError, RunError, UsageError
from edgetl.exporter.sources.base import Source
from edgetl.exporter.sources.onnx import OnnxSource
from edgetl.exporter.sources.open import open_source
from edgetl.exporter.sources.run import RunSource
from edgetl.inputs.image import ImageInput, sized
from edgetl.options import ExportOptions, OnnxOptions
from edgetl.spec import Normalize
from tests.exporter import small


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.folder(tmp_path_factory.mktemp("open") / "photos", 8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(small.given())
    return path


def opened(path: Path, *, moved_to: str = "", **options: Any) -> Source:
    given = ExportOptions(target="cpu", data=moved_to or None, **options)
    return open_source(path, given, progress=lambda _: None)


def test_a_run(trained: Path) -> None:
    source = opened(trained)
    assert isinstance(source, RunSource)
    assert source.task.labels == ("bars", "disc", "square")


def test_a_run_whose_photos_were_moved(trained: Path, shapes: Path, tmp_path: Path) -> None:
    assert isinstance(opened(trained, moved_to=str(shapes)), RunSource)
    with pytest.raises(DataError, match="No data folder at"):
        opened(trained, moved_to=str(tmp_path / "gone"))


OPTIONS: dict[str, Any] = {
    "calib": "photos",
    "class_names": "labels.txt",
    "output": "logits",
    "size": 224,
    "fit": "pad",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "range_": 255,
    "layout": "auto",
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "order": "bgr",
}


def test_every_option_is_tried() -> None:
    assert set(OPTIONS) == set(OnnxOptions.__struct_fields__)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_has_its_own_options(name: str, tmp_path: Path) -> None:
    """Said before the run is read, so that a path with a typing error says it too."""
    shown = name.rstrip("_").replace("_", "-")
    with pytest.raises(UsageError, match=f"^--{shown} cannot be given with a run") as got:
        opened(tmp_path, **{name: OPTIONS[name]})
    assert ".onnx file" in got.value.fix


def test_several_options_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--class-names, --mean, --range cannot be given"):
        opened(tmp_path, class_names="x", mean=(0, 0, 0), range_=1)


def test_a_file_is_what_its_content_says(model: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    """Not a run with forbidden options, whatever its name."""
    bare = model.rename(tmp_path / "model")
    with pytest.raises(UsageError, match=r"model is an ONNX file, but its name") as got:
        opened(bare, calib="photos")
    assert got.value.fix == "rename it to model.onnx."
    with pytest.raises(UsageError, match="is a bundle: it was exported already"):
        opened(tiny_bundle)
    (tmp_path / "weights.pth").write_bytes(b"PK of something")
    with pytest.raises(UsageError, match=r"weights.pth is neither the folder of a run nor an ONNX"):
        opened(tmp_path / "weights.pth", size=96)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No run at"):
        opened(tmp_path / "gone")


def test_an_onnx_file(model: Path, photos: Path) -> None:
    source = opened(model, calib=str(photos))
    assert isinstance(source, OnnxSource)
    assert source.task.labels == small.LABELS
    assert source.input == sized(small.SIZE, "crop")
    assert source.normalize == Normalize()


def test_options_arrive(model: Path, photos: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(small.LABELS))
    source = opened(
        model.rename(tmp_path / "MODEL.ONNX"),
        calib=str(photos),
        class_names=str(labels),
        size=small.SIZE,
        fit="squash",
        mean=(100.0, 110.0, 120.0),
        std=(51.0, 51.0, 25.5),
        range_=255,
        layout="nchw",
        crop_pct=0.9,
        interpolation="bicubic",
        order="bgr",
    )
    assert source.input == ImageInput(
        height=small.SIZE,
        width=small.SIZE,
        fit="squash",
        crop=0.9,
        interpolation="bicubic",
        order="bgr",
    )
    assert source.normalize.std == (0.2, 0.2, 0.1)
    assert source.normalize.mean[0] == pytest.approx(100 / 255)


def test_home_folders_are_written_out(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(photos.parent))
    assert opened(model, calib="~/photos").task.labels == small.LABELS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs photos to calibrate and check it"),
        ({"calib": "x", "moved_to": "y"}, "--data is where a run's photos are now"),
        ({"calib": "{photos}", "layout": "nhwc"}, "--layout nhwc contradicts"),
        ({"calib": "{photos}", "size": 64}, "--size 64 contradicts"),
        ({"calib": "{photos}", "mean": (0.5, 0.5, 0.5)}, "--mean stands alone"),
    ],
)
def test_options_that_contradict(
    options: dict[str, Any], message: str, model: Path, photos: Path
) -> None:
    given = {
        k: v.replace("{photos}", str(photos)) if isinstance(v, str) else v
        for k, v in options.items()
    }
    with pytest.raises(UsageError, match=message) as got:
        opened(model, **given)
    assert got.value.fix


def test_an_onnx_file_that_is_not_there(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Cannot read .*gone\.onnx"):
        opened(tmp_path / "gone.onnx", calib=str(photos))


def test_a_run_without_torch_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import edgetl\n"
        "from edgetl.errors import EngineMissingError\n"
        f"try: edgetl.export({str(tmp_path)!r}, target='cpu', out='x.edgetl')\n"
        "except EngineMissingError as error: print(error.message, error.fix)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Exporting a run needs packages that are not installed." in done.stdout
    assert "edgetl[export]" in done.stdout
