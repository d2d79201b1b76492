"""The programs in examples/: they run as they stand, and C++ comes to the same answers."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgetl
from edgetl.inputs.image import ImageInput

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
COUNT = 100  # images that C++ and Python are compared on

pytestmark = pytest.mark.slow


def run(*words: str | Path, ok: bool = True, **env: str) -> subprocess.CompletedProcess[bytes]:
    """A program's outcome; `ok` wants it to succeed."""
    done = subprocess.run(
        [os.fspath(word) for word in words],
        capture_output=True,
        check=False,
        timeout=300,
        env=os.environ | env,
    )
    assert (done.returncode == 0) == ok, done.stderr.decode()
    return done


# --- the whole job from Python ------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What examples/finetune.py makes of the drawn photos, offline and from scratch."""
    out = tmp_path_factory.mktemp("example")
    small = ("--strategy", "scratch", "--backbone", "squeezenet1_1", "--size", "48")
    done = run(
        sys.executable, EXAMPLES / "finetune.py", shapes, out, *small, "--epochs", "16", "--quick",
        OMP_NUM_THREADS="1",
    )  # fmt: skip
    return {"out": out, "bundle": out / "model.edgetl", "said": done.stdout.decode()}


@pytest.fixture(scope="module")
def plain(job: dict[str, Any]) -> Path:
    """The bundle as plain files."""
    folder: Path = job["out"] / "unpacked"
    run(sys.executable, "-m", "edgetl", "unpack", job["bundle"], folder)
    return folder


def test_finetune_trains_exports_and_predicts(job: dict[str, Any], shapes: Path) -> None:
    assert (job["out"] / "run" / "report.html").is_file()
    with edgetl.load(job["bundle"]) as model:
        assert model.labels == ("bars", "disc", "square")
    first = str(min(path for path in shapes.rglob("*") if path.is_file()))
    lines = job["said"].splitlines()
    assert sum(line.startswith(first[:-6]) for line in lines) == 5  # five photos of one folder
    assert [line for line in lines if line.startswith(f"{first}: bars (")]


def test_finetune_says_what_is_wrong_and_the_fix(tmp_path: Path) -> None:
    script = EXAMPLES / "finetune.py"
    done = run(sys.executable, script, tmp_path / "none", tmp_path / "out", ok=False)
    assert done.stderr.decode().startswith("error: ")
    assert "Fix: " in done.stderr.decode()
    assert b"Traceback" not in done.stderr


# --- the camera, with a stand-in for OpenCV -----------------------------------------------------

CV2 = """
import time
import numpy as np

CAP_PROP_FPS, COLOR_BGR2RGB = 5, 4

class VideoCapture:
    def __init__(self, source):
        self.frames, self.at = np.load({frames!r}), 0
        self.opened = source == 0 or source == "film.mp4"
    def isOpened(self):
        return self.opened
    def get(self, what):
        return 400.0
    def read(self):
        time.sleep(0.0005)
        self.at += 1
        good = self.at <= len(self.frames)
        return good, self.frames[self.at - 1] if good else None
    def release(self):
        pass

def cvtColor(picture, code):
    assert code == COLOR_BGR2RGB
    return np.ascontiguousarray(picture[..., ::-1])
"""


@pytest.fixture
def camera(job: dict[str, Any], shapes: Path, tmp_path: Path) -> Any:
    """Run examples/camera.py; its frames are those of `camera.rgb`, blue first."""
    paths = sorted(shapes.rglob("*.png")) * 3
    rgb = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    np.save(tmp_path / "frames.npy", rgb[..., ::-1])
    (tmp_path / "cv2.py").write_text(CV2.format(frames=str(tmp_path / "frames.npy")), "utf-8")

    def watch(*words: str, ok: bool = True) -> subprocess.CompletedProcess[bytes]:
        script = EXAMPLES / "camera.py"
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return run(sys.executable, script, job["bundle"], *words, ok=ok, PYTHONPATH=path)

    watch.rgb = rgb  # type: ignore[attr-defined]
    return watch


@pytest.mark.parametrize("source", ["0", "film.mp4"])
def test_camera_answers_for_the_frame_that_it_names(
    camera: Any, job: dict[str, Any], source: str
) -> None:
    lines = camera("--source", source).stdout.decode().splitlines()
    numbers = [int(line.split(":")[0].removeprefix("frame ")) for line in lines]
    assert numbers == sorted(set(numbers))
    assert 1 <= len(numbers) <= len(camera.rgb)
    with edgetl.load(job["bundle"]) as model:
        for seen, (number, line) in enumerate(zip(numbers, lines, strict=True), start=1):
            best = model.predict(camera.rgb[number - 1], top=1)[0].predictions[0]
            assert f": {best.label} ({best.probability:.1%}), " in line
            assert line.endswith(f", {number - seen} dropped")


def test_camera_stops_after_frames_and_says_what_cannot_be_opened(camera: Any) -> None:
    assert len(camera("--frames", "3").stdout.splitlines()) == 3
    assert b"OpenCV cannot open 7. Fix:" in camera("--source", "7", ok=False).stderr


# --- C++ ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of examples/cpp, built; `classify` only where ONNX Runtime's headers are.

    They are looked for in the system and below the environment's ONNXRUNTIME_ROOT. A library that
    is not beside them is taken from the Python package.
    """
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not here")
    home = tmp_path_factory.mktemp("cpp")
    root = os.environ.get("ONNXRUNTIME_ROOT", "")
    words = [f"-DONNXRUNTIME_ROOT={root}"]
    if not list(Path(root, "lib").glob("libonnxruntime.so")) and (library := _library(home)):
        words.append(f"-DONNXRUNTIME_LIBRARY={library}")
    run("cmake", "-S", EXAMPLES / "cpp", "-B", home / "build", *words)
    run("cmake", "--build", home / "build")
    return home / "build"


def _library(home: Path) -> Path | None:
    """The library inside the Python package, under the names that linkers look for."""
    import onnxruntime

    found = list((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not found:
        return None
    (home / "lib").mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (home / "lib" / name).symlink_to(found[0])
    return home / "lib" / "libonnxruntime.so"


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Noise of several finenesses, so that every tap of a filter counts."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (7, 5, 3), np.uint8)
    fine = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    return Image.blend(smooth, Image.fromarray(fine), 0.3)


@pytest.fixture(scope="module")
def pictures(built: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Half PPM, half JPEG: grey, progressive, every orientation, every subsampling of colour.

    All PPM where the programs were built without libjpeg.
    """
    jpeg = "JPEG_INCLUDE_DIR-NOTFOUND" not in (built / "CMakeCache.txt").read_text("utf-8")
    home, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for seed in range(COUNT):
        side = 200 if seed % 4 < 2 else 900
        image = picture(seed, (int(rng.integers(17, side)), int(rng.integers(17, side))))
        paths.append(home / f"{seed:03d}.{'jpg' if jpeg and seed % 2 else 'ppm'}")
        if paths[-1].suffix == ".ppm":
            image.save(paths[-1])
            continue
        exif = Image.Exif()
        exif[0x0112] = seed // 2 % 9  # Orientation; 0 is none
        image = image.convert("L") if seed % 7 == 0 else image
        image.save(
            paths[-1], quality=85, progressive=seed % 3 == 0, subsampling=seed // 2 % 3, exif=exif
        )
    return paths


@pytest.fixture
def widths_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Pillow resize widths before heights, as it always did before 13.0."""
    once = Image.Image.resize

    def resize(self: Any, size: Any, resample: Any = None, box: Any = None, **_: Any) -> Any:
        left, top, right, bottom = box or (0, 0, *self.size)
        wide = once(self, (size[0], self.height), resample, (left, 0, right, self.height))
        return once(wide, size, resample, (0, top, size[0], bottom))

    monkeypatch.setattr(Image.Image, "resize", resize)


def unpacked(folder: Path, **changes: Any) -> Path:
    """A folder with as much of a manifest as the preprocessing needs."""
    folder.mkdir()
    stated = {"edgetl_bundle": "1.0-rc", "input": {"type": "image", **changes}}
    (folder / "manifest.json").write_text(json.dumps(stated), "utf-8")
    return folder


INPUTS: tuple[dict[str, Any], ...] = (
    {},
    {"fit": "squash", "width": 97, "height": 97},
    {"fit": "pad", "width": 320, "height": 192},
    {"crop": 0.9, "width": 100, "height": 160},
    {"interpolation": "bicubic", "width": 128, "height": 128},
    {"interpolation": "bicubic", "fit": "pad", "width": 50, "height": 60, "order": "bgr"},
)


@pytest.mark.parametrize("changes", INPUTS, ids=lambda c: "-".join(map(str, c.values())))
@pytest.mark.usefixtures("widths_first")
def test_cpp_makes_the_same_pixels(
    built: Path, pictures: list[Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    spec = ImageInput(**changes)
    folder = unpacked(tmp_path / "unpacked", **changes)
    raw = run(built / "pixels", folder, *pictures).stdout
    made = np.frombuffer(raw, np.uint8).reshape(len(pictures), *spec.shape)
    for path, pixels in zip(pictures, made, strict=True):
        apart = np.abs(pixels.astype(int) - spec.read(path).pixels).max()
        # Two builds of libjpeg may decode differently; the resize may not.
        assert apart <= (3 if path.suffix == ".jpg" else 0), path


def test_cpp_differs_by_little_from_this_pillow(
    built: Path, pictures: list[Path], tmp_path: Path
) -> None:
    """Whichever side Pillow resizes first."""
    spec, paths = ImageInput(), pictures[::2]
    raw = run(built / "pixels", unpacked(tmp_path / "unpacked"), *paths).stdout
    made = np.frombuffer(raw, np.uint8).reshape(len(paths), *spec.shape)
    expected = np.stack([spec.read(path).pixels for path in paths])
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_cpp_passes_the_bundles_own_test_of_pixels(built: Path, plain: Path) -> None:
    if "JPEG_INCLUDE_DIR-NOTFOUND" in (built / "CMakeCache.txt").read_text("utf-8"):
        pytest.skip("libjpeg is not here, and the bundle's image is a JPEG")
    expected = np.load(plain / "golden" / "pixels.npy")
    raw = run(built / "pixels", plain, plain / "golden" / "image.jpg").stdout
    made = np.frombuffer(raw, np.uint8).reshape(expected.shape)
    assert np.abs(made.astype(int) - expected).max() <= 3  # as docs/bundle.md allows


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("{", "at byte 1"),
        ("[" * 100_000, "nested too deeply"),
        ('{"edgetl_bundle": "2.0"}', "version 2.0"),
        ('{"edgetl_bundle": "1.0"}', "version 1.0"),
        ('{"edgetl_bundle": "1.0-rc", "needs": ["warp"]}', "needs warp"),
        ('{"edgetl_bundle": "1.0-rc", "input": {"type": "sound"}}', "type is sound"),
        ('{"edgetl_bundle": "1.0-rc", "input": {"type": "image", "width": 1e9}}', "width is out"),
        ('{"edgetl_bundle": "1.0-rc", "input": {"type": "image", "width": 1.5}}', "whole number"),
    ],
)
def test_cpp_refuses_manifests_that_it_cannot_read(
    built: Path, pictures: list[Path], tmp_path: Path, manifest: str, said: str
) -> None:
    (tmp_path / "manifest.json").write_text(manifest, "utf-8")
    done = run(built / "pixels", tmp_path, pictures[0], ok=False)
    assert (done.returncode, said in done.stderr.decode()) == (1, True), done.stderr


def test_cpp_refuses_images_that_it_cannot_read(
    built: Path, pictures: list[Path], tmp_path: Path
) -> None:
    folder, ppm = unpacked(tmp_path / "unpacked"), pictures[2].read_bytes()
    buffer = io.BytesIO()
    picture(0, (300, 200)).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    bad = {
        "cut.ppm": ppm[:-1],
        "deep.ppm": ppm.replace(b"255", b"999", 1),
        "huge.ppm": b"P6 99999999 99999999 255\n",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "header.jpg": jpeg[:300],
        "png.png": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13),
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        done = run(built / "pixels", folder, tmp_path / name, ok=False)
        assert done.returncode == 1, name
        assert f"cannot read image {tmp_path / name}: " in done.stderr.decode()


@pytest.fixture(scope="module")
def classify(built: Path) -> Path:
    """The program that runs ONNX Runtime; skipped where its headers or library are missing."""
    if not (built / "classify").is_file():
        pytest.skip(
            "ONNX Runtime's C++ headers are not here; set ONNXRUNTIME_ROOT to a folder with "
            "include/ and, if need be, lib/"
        )
    return built / "classify"


@pytest.mark.parametrize("candidate", ["ort-fp32", "ort-int8"])
@pytest.mark.usefixtures("widths_first")
def test_cpp_gives_the_same_labels(
    classify: Path, plain: Path, job: dict[str, Any], pictures: list[Path], candidate: str
) -> None:
    rows = run(classify, plain, "--candidate", candidate, *pictures).stdout.decode().splitlines()
    with edgetl.load(job["bundle"], candidate=candidate) as model:
        for path, row in zip(pictures, rows, strict=True):
            best, second = model.predict(path, top=2)[0].predictions
            name, label, probability = row.split("\t")
            # Two versions of libjpeg or of ONNX Runtime may decide a tie otherwise.
            tied = best.probability - second.probability < 0.01
            assert name == str(path)
            assert label == best.label or (tied and label == second.label)
            assert float(probability) == pytest.approx(best.probability, abs=0.02)


def test_cpp_says_what_it_does_not_know(
    classify: Path, plain: Path, pictures: list[Path], tmp_path: Path
) -> None:
    done = run(classify, plain, "--candidate", "ov-fp32", pictures[0], ok=False)
    assert b"no candidate of ONNX Runtime named ov-fp32" in done.stderr
    (tmp_path / "text.jpg").write_text("no image", "utf-8")
    done = run(classify, plain, tmp_path / "text.jpg", pictures[0], ok=False)
    assert done.stdout.decode().startswith(f"{pictures[0]}\t")  # the other is answered
