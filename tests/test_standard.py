"""docs/bundle.md is enough: a reader written from it alone gets edgetl's pixels and answers."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageDraw

import edgetl
from edgetl.bundle import check, open_bundle, write_bundle
from edgetl.errors import ImageError
from edgetl.exporter.golden import npy
from edgetl.files import sha256_bytes
from edgetl.inputs.image import ImageInput
from edgetl.tasks.multilabel import MultiLabel, MultiLabelSettings

STRANGER = Path(__file__).with_name("stranger.py")
ROOT = STRANGER.parents[1]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def stranger() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stranger", STRANGER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stranger_knows_nothing_of_edgetl() -> None:
    tree = ast.parse(STRANGER.read_text("utf-8"))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module or "." for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    used = {name.partition(".")[0] for name in imported}
    assert used - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}
    assert "importlib" not in used
    calls = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert not calls & {"resize", "convert", "transpose", "alpha_composite", "thumbnail"}


# --- photos -----------------------------------------------------------------------------------


def scene(width: int = 120, height: int = 80, seed: int = 0) -> Image.Image:
    """Gradients, shapes and grain: edges and fine structure show any other resize."""
    rng = np.random.default_rng(seed)
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    waves = np.stack([across, down, 255 - across], axis=2)
    grain = rng.normal(0, 25, (height, width, 3))
    image = Image.fromarray((waves + grain).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    pen.ellipse((width // 6, height // 8, width // 2, height // 2), fill="yellow")
    pen.rectangle((width // 2, height // 2, width * 3 // 4, height * 7 // 8), fill="navy")
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(kind: int, samples: Any, extra: tuple[bytes, bytes] | None = None) -> bytes:
    """A PNG of 16-bit samples, which Pillow does not write: `kind` is the colour type."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    parts = [(b"IHDR", header), *([extra] if extra else []), (b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")])


def turned(tag: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = tag
    return exif


def photos() -> dict[str, bytes]:
    """Files of every kind that the chapter "Preprocessing" speaks of, by name."""
    base, grey = scene(), scene().convert("L")
    large = scene(1500, 1100)
    alpha = base.copy()
    alpha.putalpha(grey)
    rng = np.random.default_rng(1)
    wide = rng.integers(0, 1 << 16, (70, 90, 3))
    found = {f"exif-{tag}.png": encoded(base, exif=turned(tag)) for tag in range(1, 9)}
    found |= {f"exif-{t}.jpg": encoded(base, "JPEG", exif=turned(t)) for t in (3, 5, 6, 8)}
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    found["xmp-6.jpg"] = encoded(base, "JPEG", xmp=xmp)
    found["exif-6.tif"] = encoded(base, "TIFF", exif=turned(6))
    found["rgba.png"] = encoded(alpha)
    found["la.png"] = encoded(alpha.convert("LA"))
    found["lossless.webp"] = encoded(alpha, "WEBP", lossless=True, exact=True)
    found["palette.png"] = encoded(base.quantize(100))
    found["palette-alpha.png"] = encoded(base.quantize(50), transparency=bytes(range(0, 250, 5)))
    found["palette-key.gif"] = encoded(base.quantize(60), "GIF", transparency=7)
    two = [base.quantize(60), scene(seed=5).quantize(60)]
    found["animated.gif"] = encoded(two[0], "GIF", save_all=True, append_images=two[1:])
    key = base.getpixel((3, 3))
    found["rgb-key.png"] = encoded(base, transparency=key)
    found["grey.png"] = encoded(grey)
    found["grey-key.png"] = encoded(grey, transparency=grey.getpixel((3, 3)))
    found["grey.jpg"] = encoded(grey, "JPEG")
    found["one-bit.png"] = encoded(grey.convert("1"))
    found["grey.pgm"] = encoded(grey, "PPM")
    found["colour.bmp"] = encoded(base, "BMP")
    found["grey-16.png"] = encoded(Image.fromarray((wide[..., 0]).astype(np.uint16)))
    found["grey-12.png"] = encoded(Image.fromarray((wide[..., 0] >> 4).astype(np.uint16)))
    found["grey-7-of-16.png"] = encoded(Image.fromarray((wide[..., 0] >> 9).astype(np.uint16)))
    found["grey-32.tif"] = encoded(Image.fromarray((wide[..., 0] >> 5).astype(np.int32)), "TIFF")
    found["grey-float.tif"] = encoded(
        Image.fromarray((wide[..., 0] / 40).astype(np.float32)), "TIFF"
    )
    found["colour-16.png"] = png(2, wide)
    found["black-16.png"] = png(2, wide >> 8)
    found["colour-alpha-16.png"] = png(6, np.dstack([wide, wide[..., :1]]))
    found["grey-alpha-16.png"] = png(4, wide[..., :2])
    found["cmyk.jpg"] = encoded(base.convert("CMYK"), "JPEG", quality=95)
    found["cmyk.tif"] = encoded(
        Image.fromarray(rng.integers(0, 256, (50, 60, 4), np.uint8), "CMYK"), "TIFF"
    )
    found["large.jpg"] = encoded(large, "JPEG")
    found["large-6.jpg"] = encoded(large, "JPEG", exif=turned(6))
    found["large-progressive.jpg"] = encoded(large, "JPEG", progressive=True)
    found["large-grey.jpg"] = encoded(large.convert("L"), "JPEG")
    found["tall.png"] = encoded(scene(31, 400))
    found["flat.png"] = encoded(scene(500, 9))
    found["pixel.png"] = encoded(scene(1, 1))
    found["tiny.png"] = encoded(scene(3, 2))
    found["exact.png"] = encoded(scene(32, 32))
    return found


PHOTOS = photos()
INPUTS: tuple[dict[str, Any], ...] = (
    {},
    {"width": 32, "height": 32},
    {"width": 32, "height": 32, "fit": "pad"},
    {"width": 32, "height": 32, "fit": "squash", "order": "bgr"},
    {"width": 61, "height": 40, "crop": 0.93, "interpolation": "bicubic"},
    {"width": 40, "height": 61, "fit": "pad", "interpolation": "bicubic", "order": "bgr"},
    {"width": 32, "height": 32, "rules": 2, "depth": 12},
    {"width": 32, "height": 32, "fit": "squash", "rules": 2, "depth": 16},
    {"width": 32, "height": 32, "rules": 1, "depth": 12},
)


@pytest.mark.parametrize(
    "stated", INPUTS, ids=lambda d: "-".join(map(str, d.values())) or "default"
)
def test_pixels_are_the_same(stranger: ModuleType, stated: dict[str, Any]) -> None:
    """Every byte, and what one refuses the other refuses."""
    spec, refused = ImageInput(**stated), set()
    for name, data in PHOTOS.items():
        try:
            expected = spec.read(data).pixels
        except ImageError:
            refused.add(name)
            with pytest.raises(stranger.RefusedError):
                stranger.preprocess(data, stated)
            continue
        found = stranger.preprocess(data, stated)
        assert (found.dtype, found.shape) == (np.uint8, expected.shape), name
        assert np.abs(found.astype(int) - expected).max() == 0, name
    narrow = stated.get("rules") == 2 and stated["depth"] == 12
    colour = {"colour-16.png", "colour-alpha-16.png", "grey-alpha-16.png", "grey-16.png"}
    always = {"black-16.png", "grey-7-of-16.png"}
    expected_refusals = {"black-16.png"} | colour if narrow else always | {"grey-float.tif"}
    assert refused == expected_refusals


@pytest.mark.parametrize(
    "stated", [{"rules": 3}, {"rules": 2, "depth": 7}, {"rules": 2, "depth": 17}]
)
def test_unknown_rules_are_refused_by_both(stranger: ModuleType, stated: dict[str, Any]) -> None:
    with pytest.raises(ImageError):
        ImageInput(**stated).read(PHOTOS["grey.png"])
    with pytest.raises(stranger.RefusedError):
        stranger.preprocess(PHOTOS["grey.png"], stated)


@pytest.mark.parametrize(
    ("broken", "photo", "stated"),
    [
        ("upright", "exif-6.png", {}),
        ("fixed_point", "exif-1.png", {"width": 61, "height": 61}),
        ("dct_scale", "large.jpg", {}),
        ("share", "rgba.png", {}),
        ("weight", "exif-1.png", {}),
        ("inside", "exif-1.png", {"fit": "pad"}),
    ],
)
def test_the_comparison_can_fail(
    stranger: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    photo: str,
    stated: dict[str, Any],
) -> None:
    """One rule less, and pixels differ."""
    other: dict[str, Any] = {
        "upright": lambda pixels, _: pixels,
        "fixed_point": lambda x: int(x * (1 << 8)) << 14,
        "dct_scale": lambda *_: 1,
        "share": lambda x: x // 256,
        "weight": lambda x, _: float(abs(x) <= 0.5),
        "inside": lambda *sides: sides[2:],
    }
    monkeypatch.setattr(stranger, broken, other[broken])
    found = stranger.preprocess(PHOTOS[photo], stated)
    assert (found != ImageInput(**stated).read(PHOTOS[photo]).pixels).any()


# --- bundles ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a real run, with candidates of ONNX Runtime."""
    path = tmp_path_factory.mktemp("standard") / "shapes.edgetl"
    edgetl.export(
        trained, out=path, target="cpu", engine="onnxruntime", search="never", qat="never"
    )
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The photos as files."""
    root = tmp_path_factory.mktemp("photos")
    for name, data in PHOTOS.items():
        (root / name).write_bytes(data)
    return sorted(root.iterdir())


def changed(bundle: Path, path: Path, **changes: Any) -> Path:
    """The same networks with another input, task or settings, and the self-test that fits them."""
    with open_bundle(bundle) as opened:
        manifest = msgspec.structs.replace(opened.manifest, **changes)
        members = {name: opened.read(name) for name in manifest.members}
    golden = manifest.golden
    members[golden.pixels] = npy(manifest.input.read(members[golden.jpeg]).pixels)
    write_bundle(path, manifest, members)
    return path


def strangers_rows(bundle: Path, images: list[Path], *more: str) -> Any:
    done = subprocess.run(
        [sys.executable, STRANGER, bundle, *images, "--top", "9", *more],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def assert_same_answers(cli: Cli, bundle: Path, images: list[Path], candidate: str) -> int:
    """How many images have an answer; rows are the same, and probabilities within 1e-4."""
    done = cli("predict", bundle, *images, "--candidate", candidate, "--top", "9", "--json")
    expected, found = (
        json.loads(done.stdout),
        strangers_rows(bundle, images, "--candidate", candidate),
    )
    assert len(expected) == len(found) == len(images)
    for mine, other in zip(expected, found, strict=True):
        assert mine.keys() == other.keys()
        assert (mine["image"], mine["candidate"]) == (other["image"], other["candidate"])
        assert (mine["error"] is None) == (other["error"] is None), mine["image"]
        for one, two in zip(mine["predictions"], other["predictions"], strict=True):
            assert one | {"probability": 0} == two | {"probability": 0}, mine["image"]
            assert one["probability"] == pytest.approx(two["probability"], abs=1e-4)
    return sum(row["error"] is None for row in found)


def test_answers_of_a_trained_run_are_the_same(
    cli: Cli, exported: Path, folder: list[Path], shapes: Path
) -> None:
    with open_bundle(exported) as opened:
        shipped = [c for c in opened.manifest.candidates if c.rejected is None]
    assert "ort-fp32" in {c.name for c in shipped}
    assert any(c.settings.temperature != 1 for c in shipped)
    images = [*folder, *sorted(shapes.glob("*/0[0-4].png"))]
    for candidate in shipped:
        assert assert_same_answers(cli, exported, images, candidate.name) == len(images) - 3


@pytest.mark.parametrize("stated", INPUTS[2:4] + INPUTS[6:7], ids=["pad", "squash-bgr", "rules-2"])
def test_answers_of_other_inputs_are_the_same(
    cli: Cli, tiny_bundle: Path, folder: list[Path], tmp_path: Path, stated: dict[str, Any]
) -> None:
    path = changed(tiny_bundle, tmp_path / "other.edgetl", input=ImageInput(**stated))
    assert assert_same_answers(cli, path, folder, "ort-fp32") > 30


def test_answers_of_several_labels_are_the_same(
    cli: Cli, tiny_bundle: Path, folder: list[Path], tmp_path: Path
) -> None:
    with open_bundle(tiny_bundle) as opened:
        task = MultiLabel(labels=opened.manifest.task.labels)
        fitted = (
            MultiLabelSettings(temperature=1.7, calibrated=True, thresholds=(0.2, 0.6, 0.7)),
            MultiLabelSettings(),
        )
        candidates = tuple(
            msgspec.structs.replace(c, settings=fitted[i % 2])
            for i, c in enumerate(opened.manifest.candidates)
        )
    path = changed(tiny_bundle, tmp_path / "labels.edgetl", task=task, candidates=candidates)
    for name in ("ort-fp32", "ort-int8"):
        assert assert_same_answers(cli, path, folder, name) > 30
    rows = strangers_rows(path, folder)
    assert len({p["present"] for row in rows for p in row["predictions"]}) == 2


def test_damage_and_other_versions_are_refused(
    stranger: ModuleType, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, path = tiny_bundle.read_bytes(), tmp_path / "other.edgetl"

    def refused(data: bytes, message: str) -> None:
        path.write_bytes(data)
        with pytest.raises(stranger.RefusedError, match=message):
            stranger.open_bundle(path)

    stranger.open_bundle(tiny_bundle)
    refused(data[:1000] + b"?" + data[1001:], "wrong checksum")
    refused(data + b" ed25519:AbC", "no checksum")
    worse = data[:1000] + b"?" + data[1001:-71]
    refused(worse + b"sha256:" + sha256_bytes(worse).encode(), "CRC")
    with open_bundle(tiny_bundle) as opened:
        manifest = msgspec.structs.replace(opened.manifest, edgetl_bundle="1.1-rc")
        members = {name: opened.read(name) for name in manifest.members}
    monkeypatch.setattr(check, "BUNDLE_VERSION", "1.1-rc")  # of a later edgetl
    write_bundle(path, manifest, members)
    refused(path.read_bytes(), "of version 1.1-rc")


def test_the_tables_are_those_of_the_source() -> None:
    """Also every struct that the manifest reaches has its table in the document."""
    sys.path.insert(0, str(ROOT))
    try:
        bundle_docs = importlib.import_module("benchmarks.bundle_docs")
    finally:
        sys.path.remove(str(ROOT))
    text = (ROOT / "docs" / "bundle.md").read_text("utf-8")
    for name, written in bundle_docs.GENERATED.items():
        assert f"<!-- generated: {name} -->\n{written()}<!-- end -->" in text, name
