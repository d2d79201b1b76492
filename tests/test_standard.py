"""docs/bundle.md is enough: a reader written from it alone gives edgetl's pixels and answers.

That reader is tests/stranger.py.
"""

from __future__ import annotations

import ast
import io
import json
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import edgetl
from edgetl.bundle import open_bundle, write_bundle
from edgetl.bundle.manifest import Artifact
from edgetl.errors import ImageError
from edgetl.exporter.golden import golden_members, npy
from edgetl.files import sha256_bytes
from edgetl.inputs.image import PADDING, ImageInput, pixels, sized
from edgetl.runtime.selftest import PIXEL_TOLERANCE, TOLERANCE
from edgetl.tasks.multilabel import MultiLabel
from tests import stranger

SCRIPT = Path(stranger.__file__)
MAY = {"argparse", "hashlib", "io", "json", "math", "pathlib", "platform", "re", "sys", "zipfile",
       "numpy", "onnxruntime", "PIL"}  # fmt: skip
ALONE = """
import runpy, sys
sys.modules["edgetl"] = None  # whoever imports it gets an ImportError
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not [name for name in sys.modules if name.startswith("edgetl.")]
"""


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture that is smooth in large and rough in small, so that every rounding counts."""
    rng = np.random.default_rng([width, height, seed])
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    rough = rng.integers(-60, 61, (height, width, 3), np.int16)
    return Image.fromarray((smooth + rough).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def png16(samples: np.ndarray, colour: int) -> bytes:
    """A PNG of 16-bit samples (h, w, k), of a colour type that Pillow does not write."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        parts += [struct.pack(">I", len(body)), kind, body]
        parts.append(struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def wide(*shape: int, low: int = 0, high: int = 65536) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(low, high, shape)


def odd_images() -> dict[str, bytes]:
    """Images of every kind that the rules tell apart, by file name."""
    photo, tall, flat = scene(90, 70), scene(17, 400), scene(400, 13)
    large, clear = scene(700, 500), scene(90, 70).convert("RGBA")
    clear.putalpha(scene(90, 70, 1).convert("L"))
    adobe = XMP.format(6)
    upright = PngInfo()
    upright.add_itxt("XML:com.adobe.xmp", adobe)
    ink = Image.merge("CMYK", [scene(90, 70, i).convert("L") for i in range(4)])
    sixteen = Image.fromarray(wide(70, 90).astype(np.uint16))
    files = {f"turned-{k}.jpg": encoded(large, "JPEG", exif=turned(k)) for k in range(1, 10)}
    files |= {f"turned-{k}.png": encoded(tall, exif=turned(k)) for k in (2, 5, 6, 7)}
    files |= {
        "turned-6.tif": encoded(photo, "TIFF", exif=turned(6)),
        "xmp.png": encoded(tall, pnginfo=upright),
        "large.jpg": encoded(scene(1900, 1300), "JPEG"),
        "progressive.jpg": encoded(scene(600, 900), "JPEG", progressive=True),
        "tall.jpg": encoded(tall, "JPEG"),
        "tall.png": encoded(tall),
        "wide.jpg": encoded(flat, "JPEG", subsampling=0),
        "wide.png": encoded(flat),
        "dot.png": encoded(scene(1, 1)),
        "grey.jpg": encoded(large.convert("L"), "JPEG"),
        "two.mpo": encoded(large, "MPO", save_all=True, append_images=[scene(700, 500, 2)]),
        "ink.jpg": encoded(ink, "JPEG"),
        "ink.tif": encoded(ink, "TIFF"),
        "clear.png": encoded(clear),
        "clear.webp": encoded(clear, "WEBP", lossless=True),
        "clear-grey.png": encoded(clear.convert("LA")),
        "key.png": encoded(photo.quantize(8).convert("RGB"), transparency=photo.quantize(8)
                           .convert("RGB").getpixel((3, 3))),
        "key-grey.png": encoded(photo.convert("L"), transparency=100),
        "bits.png": encoded(photo.convert("1")),
        "palette.png": encoded(photo.quantize(64)),
        "palette-key.png": encoded(photo.quantize(64), transparency=5),
        "palette-clear.png": encoded(photo.quantize(64), transparency=bytes(range(0, 256, 5))),
        "palette.gif": encoded(photo.quantize(16), "GIF", transparency=3),
        "photo.bmp": encoded(photo, "BMP"),
        "photo.ppm": encoded(photo, "PPM"),
        "maximum-99.ppm": b"P6 3 2 99\n" + bytes(range(0, 90, 5)),
        "maximum-99.pgm": b"P5 6 3 99\n" + bytes(range(0, 90, 5)),
        "maximum-4095.pgm": b"P5 9 5 4095\n" + wide(45, high=4096).astype(">u2").tobytes(),
        "sixteen.png": encoded(sixteen),
        "sixteen.tif": encoded(sixteen, "TIFF"),
        "sixteen.pgm": b"P5 9 5 65535\n" + wide(45).astype(">u2").tobytes(),
        "long.tif": encoded(Image.fromarray(wide(70, 90).astype(np.int32)), "TIFF"),
        "black.png": encoded(Image.fromarray(np.zeros((9, 9), np.uint16))),
        "colour16.png": png16(wide(70, 90, 3), 2),
        "clear16.png": png16(wide(70, 90, 4), 6),
        "clear-grey16.png": png16(wide(70, 90, 2), 4),
    }  # fmt: skip
    return files


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="{}"/></x:xmpmeta>'
ODD = odd_images()


def agree(data: bytes, spec: ImageInput) -> None:
    found = stranger.preprocess(data, msgspec.to_builtins(spec))
    np.testing.assert_array_equal(found, pixels(data, spec))


# --- the reader stands alone ------------------------------------------------------------------


def test_the_stranger_imports_nothing_of_edgetl() -> None:
    tree = ast.parse(SCRIPT.read_text("utf-8"))
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else
                     [alias.name for alias in node.names])
    }  # fmt: skip
    assert names == MAY
    assert "resize" not in SCRIPT.read_text("utf-8").replace("resized", "")  # Pillow only decodes


def test_the_strangers_numbers_are_edgetls() -> None:
    assert (stranger.TOLERANCE, stranger.PADDING) == (TOLERANCE, PADDING)
    assert PIXEL_TOLERANCE == 3
    assert sized(224) == ImageInput()  # whose defaults the stranger has from the document
    assert vars(stranger.Stated({"type": "image"})) == {
        "width": 224, "height": 224, "fit": "crop", "crop": 0.875, "kernel": "bilinear",
        "order": "rgb", "depth": 16,
    }  # fmt: skip


# --- pixels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        sized(32),
        sized(48, "pad"),
        sized(56, "squash"),
        ImageInput(height=24, width=40),
        ImageInput(height=40, width=24, fit="pad", order="bgr"),
        ImageInput(height=40, width=24, fit="squash", interpolation="bicubic"),
        ImageInput(height=31, width=45, crop=0.9, interpolation="bicubic", order="bgr"),
        ImageInput(height=33, width=20, crop=1.0),
    ],
    ids=str,
)
def test_pixels_are_the_same_bit_for_bit(spec: ImageInput) -> None:
    for name, data in ODD.items():
        try:
            agree(data, spec)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def test_large_jpegs_of_these_tests_are_decoded_smaller() -> None:
    scales = {
        stranger.dct_scale(w, h, turn, stranger.Stated({"type": "image", "fit": fit} | small))
        for w, h in ((700, 500), (1900, 1300), (600, 900))
        for turn in (1, 6)
        for fit in ("crop", "pad", "squash")
        for small in ({"width": 32, "height": 32}, {"width": 224, "height": 224})
    }
    assert scales == {1, 2, 4, 8}


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    st.builds(
        ImageInput,
        height=st.integers(1, 60),
        width=st.integers(1, 60),
        fit=st.sampled_from(["crop", "pad", "squash"]),
        crop=st.sampled_from([0.875, 1.0, 0.6, 0.33]),
        interpolation=st.sampled_from(["bilinear", "bicubic"]),
    ),
    st.integers(1, 8),
    st.sampled_from(["JPEG", "PNG"]),
)
def test_pixels_are_the_same_at_any_size(
    size: tuple[int, int], spec: ImageInput, turn: int, kind: str
) -> None:
    agree(encoded(scene(*size), kind, exif=turned(turn)), spec)


@pytest.mark.parametrize("depth", [8, 10, 12, 15, 16])
def test_samples_of_any_depth_are_the_same(depth: int) -> None:
    spec = sized(16, "squash", depth)
    for dtype, kind in ((np.uint16, "PNG"), (np.int32, "TIFF"), (np.float32, "TIFF")):
        if depth < 16 or dtype != np.float32:
            agree(encoded(Image.fromarray(wide(20, 30, high=2**depth).astype(dtype)), kind), spec)
    agree(ODD["clear.png"], spec)


def tiff(value: float, dtype: Any) -> bytes:
    return encoded(Image.fromarray(np.full((9, 9), value, dtype)), "TIFF")


@pytest.mark.parametrize(
    ("data", "spec"),
    [
        (tiff(0.5, np.float32), sized(8)),
        (tiff(70_000, np.int32), sized(8)),
        (tiff(-1, np.int32), sized(8)),
        (tiff(255, np.uint16), sized(8)),
        (tiff(4096, np.uint16), sized(8, depth=12)),
        (tiff(15, np.uint16), sized(8, depth=12)),
        (tiff(np.nan, np.float32), sized(8, depth=12)),
        (tiff(0.7, np.float32), sized(8, depth=8)),
        (png16(wide(9, 9, 3, high=256), 2), sized(8)),
        (ODD["colour16.png"], sized(8, depth=12)),
        (ODD["clear-grey16.png"], sized(8, depth=12)),
        (ODD["photo.bmp"], ImageInput(rules=3)),
        (ODD["photo.bmp"], ImageInput(rules=2, depth=7)),
    ],
)
def test_both_refuse_the_same_files(data: bytes, spec: ImageInput) -> None:
    with pytest.raises(ImageError):
        pixels(data, spec)
    with pytest.raises(stranger.RefusedError):
        stranger.preprocess(data, msgspec.to_builtins(spec))


# --- whole bundles ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("odd")
    for name, data in ODD.items():
        (folder / name).write_bytes(data)
    return sorted(folder.iterdir())


def alone(bundle: Path, photos: list[Path], *more: str) -> subprocess.CompletedProcess[str]:
    """Run the stranger where edgetl cannot be imported."""
    command = [sys.executable, "-I", "-c", ALONE, SCRIPT, bundle, *photos, *more]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(list(map(str, command)), check=False, **options)


def check_alone(bundle: Path, photos: list[Path], candidate: str, folder: Path) -> None:
    """Its pixels, labels and probabilities are edgetl's."""
    kept = folder / f"{candidate}.npz"
    done = alone(bundle, photos, "--candidate", candidate, "--pixels", str(kept))
    assert done.returncode == 0, done.stderr
    with open_bundle(bundle) as opened:
        spec = opened.manifest.input
    with np.load(kept) as arrays:
        for photo in photos:
            np.testing.assert_array_equal(arrays[photo.name], spec.read(photo).pixels, photo.name)
    with edgetl.load(bundle, candidate=candidate) as model:
        rows = [result.predictions for result in model.predict(photos, top=9)]
    for row, expected in zip(json.loads(done.stdout), rows, strict=True):
        found = {each["label"]: each["probability"] for each in row["predictions"]}
        assert [each["label"] for each in row["predictions"]] == [each.label for each in expected]
        assert found == pytest.approx({e.label: e.probability for e in expected}, abs=1e-5)


def with_input(spec: ImageInput) -> dict[str, bytes]:
    """The member of the self-test that depends on the fit."""
    _, members = golden_members(np.zeros((1, *spec.shape), np.uint8), {}, spec)
    return {"golden/pixels.npy": members["golden/pixels.npy"]}


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_a_bundle_is_read_by_the_document_alone(
    fit: Any, write_tiny: Callable[..., Path], photos: list[Path], tmp_path: Path
) -> None:
    spec = sized(32, fit)
    bundle = write_tiny(
        tmp_path / "fit.edgetl", ("ort-fp32", "ort-int8"),
        {"ort-fp32": {"temperature": 1.7}, "ort-int8": {"temperature": 0.8}},
        with_input(spec), input=spec,
    )  # fmt: skip
    for candidate in ("ort-fp32", "ort-int8") if fit == "crop" else ("ort-fp32",):
        check_alone(bundle, photos, candidate, tmp_path)


def test_a_multi_label_bundle_is_read_by_the_document_alone(
    write_tiny: Callable[..., Path], photos: list[Path], tmp_path: Path
) -> None:
    task = MultiLabel(labels=("bars", "disc", "square"))
    bundle = write_tiny(
        tmp_path / "many.edgetl", ("ort-fp32",), {"ort-fp32": {"temperature": 1.3}}, task=task
    )
    check_alone(bundle, photos, "ort-fp32", tmp_path)


def test_a_bundle_that_is_not_square_is_read_by_the_document_alone(
    write_tiny: Callable[..., Path], photos: list[Path], tmp_path: Path
) -> None:
    import onnx

    spec = ImageInput(height=24, width=40, crop=0.9, interpolation="bicubic", order="bgr")
    images = np.random.default_rng(0).integers(0, 256, (4, *spec.shape), np.uint8)
    with open_bundle(write_tiny(tmp_path / "square.edgetl", ("ort-fp32",))) as opened:
        manifest = opened.manifest
        members = {name: opened.read(name) for name in manifest.members}
    (artifact,) = manifest.artifacts
    model = onnx.load_model_from_string(members[artifact.path])
    for axis, side in zip(model.graph.input[0].type.tensor_type.shape.dim[1:3], (24, 40)):  # noqa: B905
        axis.dim_value = side
    data = bytes(model.SerializeToString())
    members |= {artifact.path: data, "golden/inputs.npy": npy(images), **with_input(spec)}
    session = stranger.onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    logits = [session.run(["logits"], {"images": images[i : i + 1]})[0] for i in range(4)]
    members["golden/ort-fp32/logits.npy"] = npy(np.concatenate(logits))
    artifact = Artifact(path=artifact.path, size=len(data), sha256=sha256_bytes(data))
    bundle = tmp_path / "wide.edgetl"
    write_bundle(
        bundle, msgspec.structs.replace(manifest, input=spec, artifacts=(artifact,)), members
    )
    check_alone(bundle, photos, "ort-fp32", tmp_path)


def test_a_damaged_bundle_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    data = bytearray(tiny_bundle.read_bytes())
    data[random.Random(0).randrange(len(data) - 200)] ^= 1
    (tmp_path / "damaged.edgetl").write_bytes(data)
    done = alone(tmp_path / "damaged.edgetl", [])
    assert done.returncode == 1
    assert "the checksum is wrong" in done.stderr


def test_a_self_test_that_fails_is_seen(write_tiny: Callable[..., Path], tmp_path: Path) -> None:
    wrong = with_input(sized(32, "pad"))  # of a bundle with fit squash
    done = alone(write_tiny(tmp_path / "other.edgetl", ("ort-fp32",), None, wrong), [])
    assert done.returncode == 1
    assert "self-test: pixels differ" in done.stderr
