"""A stranger's reader of bundles, written from docs/bundle.md alone: nothing of edgetl is imported.

    python stranger.py BUNDLE IMAGE... [--candidate NAME] [--pixels FILE.npz]

Prints a JSON document: a list with an object for each image, as `edgetl predict --json` does. NumPy
stands for the arithmetic, Pillow for the decoders only, ONNX Runtime for the engine. Names in
brackets are the rules of the chapter "Preprocessing".
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

COMMENT, VERSION = 71, "1.0-rc"
PADDING = (124, 116, 104)
TOLERANCE = {"fp32": 0.001, "fp16": 0.03, "bf16": 0.06, "int8": 0.15}


Array = np.ndarray[Any, Any]
Run = Callable[[Array], dict[str, Array]]


class RefusedError(Exception):
    """What the rules refuse."""


# --- Container, checksum, manifest --------------------------------------------------------------


def open_bundle(path: str | Path) -> tuple[dict[str, Any], Callable[[str], bytes]]:
    """The manifest and a function that reads members, after the checks."""
    data = Path(path).read_bytes()
    comment = re.fullmatch(rb"sha256:([0-9a-f]{64})", data[-COMMENT:])
    if comment is None:
        raise RefusedError("no checksum at the end")
    if hashlib.sha256(data[:-COMMENT]).hexdigest().encode() != comment[1]:
        raise RefusedError("wrong checksum")
    archive = zipfile.ZipFile(io.BytesIO(data))
    check_layout(data, archive)
    hashes: dict[str, str] = {}

    def read(name: str) -> bytes:
        try:
            found = archive.read(name)
        except (zipfile.BadZipFile, KeyError) as error:
            raise RefusedError(str(error)) from error
        if name in hashes and hashlib.sha256(found).hexdigest() != hashes[name]:
            raise RefusedError(f"wrong SHA-256 of {name}")
        return found

    manifest = json.loads(read("manifest.json"))
    if manifest["edgetl_bundle"] != VERSION:
        raise RefusedError(f"of version {manifest['edgetl_bundle']}, and this reads {VERSION}")
    if manifest["input"]["type"] != "image" or manifest.get("needs"):
        raise RefusedError("of an unknown input, or with needs")
    if {*archive.namelist()} != {"manifest.json", *manifest["members"]}:
        raise RefusedError("other members than it lists")
    hashes |= {artifact["path"]: artifact["sha256"] for artifact in manifest["artifacts"]}
    return manifest, read


def check_layout(data: bytes, archive: zipfile.ZipFile) -> None:
    """Chapter "Container": members lie one after the other, each with the one permitted header."""
    position = 0
    for info in archive.infolist():
        name = info.filename.encode()
        sizes = (info.CRC, info.file_size, info.file_size, len(name), 0)
        header = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 33, *sizes) + name
        if info.header_offset != position or not data.startswith(header, position):
            raise RefusedError(f"a header of {info.filename} that is not permitted")
        position += len(header) + info.file_size
    end = struct.unpack("<4s4H2IH", data[-COMMENT - 22 : -COMMENT])
    if end[0] != b"PK\x05\x06" or end[6] != position:
        raise RefusedError("data after the last member")
    if archive.namelist()[0] != "manifest.json":
        raise RefusedError("no manifest in front")


# --- Preprocessing ------------------------------------------------------------------------------


def preprocess(data: bytes, stated: dict[str, Any]) -> Array:
    """Rules P1 to P10: a file's bytes as uint8 (H, W, 3), by the manifest's `input`."""
    rules, depth = stated.get("rules", 1), stated.get("depth", 16)
    if rules not in (1, 2) or (rules == 2 and not 8 <= depth <= 16):
        raise RefusedError("unknown rules")
    image = Image.open(io.BytesIO(data))
    orientation = image.getexif().get(0x0112, 1)
    if image.format in ("JPEG", "MPO"):
        scale = dct_scale(*image.size, orientation, stated)
        if scale > 1:
            # Pillow takes the largest scale that keeps the size that it is told.
            image.draft(image.mode, (image.width // scale, image.height // scale))
    wide = is_wide_colour(data)
    image.load()
    if image.format == "TIFF":
        orientation = image.getexif().get(0x0112, 1)  # Pillow may have turned it already
    rgb = upright(to_rgb(image, depth if rules == 2 else 16, wide), orientation)
    fitted = fit(rgb, stated)
    return fitted[..., ::-1] if stated.get("order", "rgb") == "bgr" else fitted


def target(stated: dict[str, Any]) -> tuple[int, int, float]:
    """(width, height, crop) of the input."""
    return stated.get("width", 224), stated.get("height", 224), stated.get("crop", 0.875)


def dct_scale(width: int, height: int, orientation: int, stated: dict[str, Any]) -> int:
    """[P3] By how much a JPEG is decoded smaller: 8, 4, 2 or 1."""
    turned = orientation in (5, 6, 7, 8)
    wide, high, share = target(stated)
    match stated.get("fit", "crop"):
        case "crop":
            least = round(wide / share), round(high / share)
        case "squash":
            least = wide, high
        case "pad":
            least = inside(*((height, width) if turned else (width, height)), wide, high)
    if turned:
        least = least[::-1]
    fitting = (s for s in (8, 4, 2) if s * least[0] <= width and s * least[1] <= height)
    return next(fitting, 1)


def inside(width: int, height: int, wide: int, high: int) -> tuple[int, int]:
    """[P8.3] The inner size of fit `pad`; Python rounds half to even."""
    scale = min(wide / width, high / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def upright(pixels: Array, orientation: int) -> Array:
    """[P4] The table of orientations."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    mirrored = orientation in (2, 3, 6, 7)
    flipped = orientation in (3, 4, 7, 8)
    return pixels[:: -1 if flipped else 1, :: -1 if mirrored else 1]


def is_wide_colour(data: bytes) -> bool:
    """[P6.1] Whether a PNG has 16-bit colours, or grey with alpha; it knows no other such files."""
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[24] == 16 and data[25] in (2, 4, 6)


def to_rgb(image: Image.Image, depth: int, wide: bool) -> Array:
    """[P5], [P6] uint8 (H, W, 3)."""
    found = np.asarray(image)
    if image.mode[0] in "IF":
        return three(upper(found, depth, image.mode == "F"))
    if wide and (depth != 16 or not found[..., :3].any()):
        raise RefusedError("16-bit colours of another depth, or of which nothing is left")
    colours, alpha = planes(image, found)
    if alpha is not None:
        alpha = alpha[..., np.newaxis].astype(int)
        colours = share(colours * alpha + 255 * (255 - alpha))
    return colours.astype(np.uint8)


def planes(image: Image.Image, found: Array) -> tuple[Array, Array | None]:
    """[P5] Colours (H, W, 3), and alpha (H, W) where there is any."""
    key = image.info.get("transparency")
    match image.mode:
        case "1" | "L":
            colours = three(found.astype(np.uint8) * (255 if image.mode == "1" else 1))
            return colours, None if key is None else np.where(colours[..., 0] == key, 0, 255)
        case "P":
            table = np.zeros((256, 3), np.uint8)
            stored = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
            table[: len(stored)] = stored
            alphas = np.full(256, 255)
            if isinstance(key, bytes):
                alphas[: len(key)] = list(key)
            elif key is not None:
                alphas[key] = 0
            return table[found], None if key is None else alphas[found]
        case "RGB":
            same = None if key is None else (found == np.array(key)).all(axis=2)
            return found, None if same is None else np.where(same, 0, 255)
        case "LA":
            return three(found[..., 0]), found[..., 1]
        case "RGBA":
            return found[..., :3], found[..., 3]
        case "CMYK":
            light = 255 - found[..., 3:].astype(int)
            return light - share(found[..., :3] * light), None
    raise RefusedError(f"pixels of kind {image.mode}")


def share(x: Array) -> Array:
    """[P5.3] x / 255 to the nearest."""
    return (2 * x + 255) // 510


def three(grey: Array) -> Array:
    """Grey as three equal channels."""
    return np.repeat(grey[..., np.newaxis], 3, axis=2)


def upper(samples: Array, depth: int, real: bool) -> Array:
    """[P6] The upper 8 of `depth` bits of grey samples."""
    low, high = float(samples.min()), float(samples.max())
    if (real and depth == 16) or not (low >= 0 and high < 2**depth):
        raise RefusedError("samples that do not fit their depth")
    if 0 < high < 2 ** (depth - 8):
        raise RefusedError("nothing but black would be left")
    return (samples.astype(np.int64) >> (depth - 8)).astype(np.uint8)


def fit(pixels: Array, stated: dict[str, Any]) -> Array:
    """[P7], [P8] The picture at the size of the input."""
    height, width = pixels.shape[:2]
    wide, high, share = target(stated)
    kernel = stated.get("interpolation", "bilinear")
    match stated.get("fit", "crop"):
        case "crop":
            w = min(width, height * wide / high) * share
            h = min(height, width * high / wide) * share
            left, top = (width - w) / 2, (height - h) / 2
            return resized(pixels, (wide, high), (left, top, left + w, top + h), kernel)
        case "squash":
            return resized(pixels, (wide, high), (0, 0, width, height), kernel)
    w, h = inside(width, height, wide, high)
    left, top = (wide - w) // 2, (high - h) // 2
    found = np.empty((high, wide, 3), np.uint8)
    found[:] = PADDING
    found[top : top + h, left : left + w] = resized(pixels, (w, h), (0, 0, width, height), kernel)
    return found


def resized(pixels: Array, size: tuple[int, int], box: Any, kernel: str) -> Array:
    """[P9] First along the rows, then along the columns, in 8 bits between the two."""
    left, top, right, bottom = np.float32(box)
    across = one_pass(pixels.swapaxes(0, 1), size[0], left, right, kernel).swapaxes(0, 1)
    return one_pass(across, size[1], top, bottom, kernel)


def one_pass(pixels: Array, count: int, begin: Any, end: Any, kernel: str) -> Array:
    """[P9] Along the first axis, from `begin` to `end`, to `count` places."""
    scale = float(end - begin) / count  # the difference is a binary32
    stretch = max(scale, 1.0)
    support = (1 if kernel == "bilinear" else 2) * stretch
    found = np.empty((count, *pixels.shape[1:]), np.uint8)
    for place in range(count):
        centre = float(begin) + (place + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), len(pixels))
        weights = [weight((i - centre + 0.5) * (1.0 / stretch), kernel) for i in range(first, last)]
        total = 0.0
        for one in weights:  # in this order
            total += one
        fixed = [fixed_point(one / total if total != 0 else one) for one in weights]
        block = pixels[first:last].astype(np.int64)
        summed = np.tensordot(np.array(fixed, np.int64), block, axes=1) + (1 << 21)
        found[place] = np.clip(summed >> 22, 0, 255)
    return found


def weight(x: float, kernel: str) -> float:
    """[P9.6] The filter."""
    x = abs(x)
    if kernel == "bilinear":
        return 1.0 - x if x < 1.0 else 0.0
    a = -0.5
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


def fixed_point(x: float) -> int:
    """[P9.7] 22 bits after the point, half away from zero."""
    return math.trunc(x * (1 << 22) + (0.5 if x >= 0 else -0.5))


# --- Running ------------------------------------------------------------------------------------


def runner(manifest: dict[str, Any], candidate: dict[str, Any], read: Any) -> Run:
    """Chapter "Running a candidate": from images (N, H, W, 3) to outputs by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    entry = options.add_session_config_entry
    entry("optimization.disable_specified_optimizers", "WeightBiasQuantization")
    stated = candidate.get("session", {})
    if stated not in ({}, {"qdq": "unfused"}):
        raise RefusedError(f"session options {stated}")
    if stated:
        entry("session.disable_quant_qdq", "1")
    if candidate["precision"] == "int8":
        entry("session.x64quantprecision", "1")  # harmless where sums cannot overflow
    (path,) = candidate["artifacts"]
    opened = onnxruntime.InferenceSession(read(path), options, providers=["CPUExecutionProvider"])
    names = [output["name"] for output in manifest["outputs"]]

    def run(images: Array) -> dict[str, Array]:
        found = opened.run(names, {"images": np.ascontiguousarray(images)})
        return dict(zip(names, found, strict=True))

    return run


def answers(task: dict[str, Any], settings: dict[str, Any], logits: Array) -> list[dict[str, Any]]:
    """Chapter "Answers": a row for each class, the likeliest first."""
    if not np.isfinite(logits).all():
        raise RefusedError("no finite answer")
    scaled = logits.astype(np.float64) / settings.get("temperature", 1.0)
    if task["type"] == "classification":
        chances = np.exp(scaled - scaled.max())
        chances /= chances.sum()
    elif task["type"] == "multilabel":
        chances = 1 / (1 + np.exp(-scaled))
    else:
        raise RefusedError(f"the task {task['type']}")
    least = settings.get("thresholds") or [0.5] * len(chances)
    rows = []
    for label, chance, threshold in zip(task["labels"], chances, least, strict=True):
        rows.append({"label": label, "probability": float(chance)})
        if task["type"] == "multilabel":
            rows[-1]["present"] = bool(chance >= threshold)
    # which keeps the order of equal ones
    return sorted(rows, key=lambda row: (not row.get("present", False), -row["probability"]))


def self_test(manifest: dict[str, Any], read: Any, candidate: dict[str, Any], run: Run) -> None:
    """Chapter "Self-test"."""
    golden = manifest["golden"]

    def array(name: str) -> Array:
        return np.load(io.BytesIO(read(name)), allow_pickle=False)

    made = preprocess(read(golden["jpeg"]), manifest["input"])
    pixels = int(np.abs(made.astype(int) - array(golden["pixels"])).max())
    worst = 0.0
    inputs = array(golden["inputs"])
    for name, member in golden["outputs"][candidate["name"]].items():
        expected = array(member)
        found = np.concatenate([run(inputs[i : i + 1])[name] for i in range(len(inputs))])
        expected, found = (of.reshape(len(inputs), -1) for of in (expected, found))
        ranges = np.ptp(expected, axis=0)
        least = max(np.sort(ranges)[(len(ranges) - 1) // 2], 1e-6)
        scale = np.maximum(np.maximum(ranges, least), 0.01 * np.abs(expected).max(axis=0))
        worst = max(worst, float((np.abs(found - expected) / scale).max()))
    if pixels > 3 or not worst <= TOLERANCE[candidate["precision"]]:
        raise RefusedError(f"self-test: pixels differ by {pixels}, outputs by {worst}")


def main(words: list[str] | None = None) -> int:
    """The command line; 1 where an image has no answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("images", nargs="*")
    parser.add_argument("--candidate")
    parser.add_argument("--top", type=int, default=3)
    parser.add_argument("--pixels")
    given = parser.parse_args(words)
    manifest, read = open_bundle(given.bundle)
    mine = [
        c for c in manifest["candidates"]
        if c.get("rejected") is None and c["engine"] == "onnxruntime"
        and given.candidate in (None, c["name"])
    ]  # fmt: skip
    if not mine:
        raise RefusedError("no candidate that runs here")
    chosen = min(mine, key=lambda c: manifest["order"].index(c["name"]))
    run = runner(manifest, chosen, read)
    self_test(manifest, read, chosen, run)
    rows: list[dict[str, Any]] = []
    kept: dict[str, Array] = {}
    for path in given.images:
        row: dict[str, Any] = {"image": path, "predictions": [], "candidate": chosen["name"]}
        rows.append(row | {"error": None})
        try:
            made = preprocess(Path(path).read_bytes(), manifest["input"])
            logits = run(made[np.newaxis])["logits"][0]
            found = answers(manifest["task"], chosen.get("settings") or {}, logits)
        except (RefusedError, OSError, SyntaxError) as error:  # the last two: Pillow's decoders
            rows[-1]["error"] = str(error)
            continue
        kept[Path(path).name] = made
        present = sum(row.get("present", False) for row in found)
        rows[-1]["predictions"] = found[: max(given.top, present)]
    if given.pixels:
        np.savez(given.pixels, **kept)
    json.dump(rows, sys.stdout, indent=1)
    return int(any(row["error"] is not None for row in rows))


if __name__ == "__main__":
    sys.exit(main())
