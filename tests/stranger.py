"""A stranger's reader of bundles, written from docs/bundle.md alone: it imports nothing of edgetl.

    python stranger.py BUNDLE IMAGE... [--candidate NAME] [--pixels FILE.npz]

Prints a JSON list with an object for each image. NumPy does the arithmetic, Pillow the decoding
and nothing else, ONNX Runtime runs the network. P1 … P16 are the rules of the document.
"""

import argparse
import hashlib
import io
import json
import math
import platform
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

PADDING = (124, 116, 104)
SIDEWAYS = (5, 6, 7, 8)
TOLERANCE = {"fp32": 0.001, "fp16": 0.03, "bf16": 0.06, "int8": 0.15}
OFF = ("optimization.disable_specified_optimizers", "WeightBiasQuantization")


class RefusedError(Exception):
    """What the rules refuse."""


# --- the file -----------------------------------------------------------------------------------


def open_bundle(path):
    """The manifest, and a function that reads members."""
    data = Path(path).read_bytes()
    comment = re.search(rb"sha256:([0-9a-f]{64})( ed25519:[A-Za-z0-9+/=:._-]{1,512})?\Z", data)
    if comment is None:
        raise RefusedError("no checksum at the end")
    if hashlib.sha256(data[: comment.start()]).hexdigest().encode() != comment[1]:
        raise RefusedError("the checksum is wrong")
    archive = zipfile.ZipFile(io.BytesIO(data))
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise RefusedError("a compressed member")
    manifest = json.loads(archive.read("manifest.json"))
    if manifest["edgetl_bundle"].partition(".")[0] != "1" or manifest.get("needs"):
        raise RefusedError("another major version, or needs that are not known here")
    if {*archive.namelist()} != {"manifest.json", *manifest["members"]}:
        raise RefusedError("the manifest lists other members")
    hashes = {artifact["path"]: artifact["sha256"] for artifact in manifest["artifacts"]}

    def read(name):
        found = archive.read(name)
        if hashlib.sha256(found).hexdigest() != hashes.get(name, hashlib.sha256(found).hexdigest()):
            raise RefusedError(f"the SHA-256 of {name} is wrong")
        return found

    return manifest, read


# --- preprocessing ------------------------------------------------------------------------------


class Stated:
    """The manifest's `input`, with its defaults."""

    def __init__(self, stated):
        self.width, self.height = stated.get("width", 224), stated.get("height", 224)
        self.fit, self.crop = stated.get("fit", "crop"), stated.get("crop", 0.875)
        self.kernel, self.order = (stated.get("interpolation", "bilinear"),
                                   stated.get("order", "rgb"))  # fmt: skip
        rules, self.depth = stated.get("rules", 1), stated.get("depth", 16)
        if stated["type"] != "image" or rules not in (1, 2):
            raise RefusedError("an input or rules that are not known here")
        if rules == 1:
            self.depth = 16
        if not 8 <= self.depth <= 16:
            raise RefusedError("a depth that is not known here")


def preprocess(data, stated):
    """A file's bytes as uint8 (H, W, 3), by the manifest's `input`."""
    spec = Stated(stated)
    image = Image.open(io.BytesIO(data))
    turned = image.getexif().get(0x0112, 1)
    if image.format in ("JPEG", "MPO"):
        scale = dct_scale(*image.size, turned, spec)
        # Pillow takes the largest scale that keeps the size it is given: this one.
        image.draft(image.mode, (image.width // scale, image.height // scale))
    wide_colour = has_wide_colour(data)
    image.load()
    if image.format == "TIFF":
        turned = image.getexif().get(0x0112, 1)  # Pillow turns some of them itself
    rgb = upright(to_rgb(image, wide_colour, spec.depth), turned)
    found = fitted(rgb, spec)
    return found if spec.order == "rgb" else found[..., ::-1]


def dct_scale(width, height, turned, spec):
    """P3: 8, 4, 2 or 1, by which a JPEG is decoded smaller."""
    if spec.fit == "crop":
        least = round(spec.width / spec.crop), round(spec.height / spec.crop)
    elif spec.fit == "squash":
        least = spec.width, spec.height
    else:
        least = inside(*((height, width) if turned in SIDEWAYS else (width, height)), spec)
    if turned in SIDEWAYS:
        least = least[::-1]
    fitting = (s for s in (8, 4, 2) if s * least[0] <= width and s * least[1] <= height)
    return next(fitting, 1)


def upright(pixels, turned):
    """P4."""
    if turned in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if turned in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if turned in (3, 4, 7, 8) else pixels


def has_wide_colour(data):
    """P6: whether a PNG has colour, or grey with alpha, in 16 bits. Other kinds are not read."""
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[24] == 16 and data[25] in (2, 4, 6)


def to_rgb(image, wide_colour, depth):
    """P5 to P7: uint8 (h, w, 3)."""
    found, key, alpha = np.asarray(image), image.info.get("transparency"), None
    if wide_colour and (depth != 16 or not found[..., :3].any()):
        raise RefusedError("16-bit colour of another depth, or of which nothing is left")
    if image.mode[0] in "IF":
        return three(narrowed(found, depth, real=image.mode == "F"))
    if image.mode in ("1", "L"):
        colours = three(found.astype(np.uint8) * (255 if image.mode == "1" else 1))
        alpha = None if key is None else np.where(colours[..., 0] == key, 0, 255)
    elif image.mode == "P":
        colours = np.array(image.getpalette("RGB")).reshape(-1, 3)[found]
        if key is not None:
            alphas = np.full(256, 255)
            if isinstance(key, bytes):
                alphas[: len(key)] = list(key)
            else:
                alphas[key] = 0
            alpha = alphas[found]
    elif image.mode == "RGB":
        colours = found
        alpha = None if key is None else np.where((found == key).all(axis=2), 0, 255)
    elif image.mode in ("LA", "RGBA"):
        colours = three(found[..., 0]) if image.mode == "LA" else found[..., :3]
        alpha = found[..., -1]
    elif image.mode == "CMYK":
        ink = found.astype(int)
        light = 255 - ink[..., 3:]
        colours = light - (2 * ink[..., :3] * light + 255) // 510
    else:
        raise RefusedError(f"samples of the kind {image.mode}")
    if alpha is not None:
        alpha = alpha[..., np.newaxis].astype(int)
        colours = (2 * (colours * alpha + 255 * (255 - alpha)) + 255) // 510
    return colours.astype(np.uint8)


def three(grey):
    """Grey as three equal colours."""
    return np.repeat(grey[..., np.newaxis], 3, axis=2)


def narrowed(samples, depth, *, real):
    """P7: the upper 8 of `depth` bits."""
    low, high = float(samples.min()), float(samples.max())
    if (real and depth == 16) or not (low >= 0 and high < 2**depth):
        raise RefusedError("samples that do not fit their depth")
    if 0 < high < 2 ** (depth - 8):
        raise RefusedError("nothing but black would be left")
    return (samples.astype(np.int64) >> (depth - 8)).astype(np.uint8)


def fitted(pixels, spec):
    """P8: uint8 (H, W, 3)."""
    height, width = pixels.shape[:2]
    size = spec.width, spec.height
    if spec.fit == "crop":
        wide = min(width, height * spec.width / spec.height) * spec.crop
        high = min(height, width * spec.height / spec.width) * spec.crop
        left, top = (width - wide) / 2, (height - high) / 2
        return resized(pixels, size, (left, top, left + wide, top + high), spec.kernel)
    whole = (0, 0, width, height)
    if spec.fit == "squash":
        return resized(pixels, size, whole, spec.kernel)
    wide, high = inside(width, height, spec)
    left, top = (spec.width - wide) // 2, (spec.height - high) // 2
    found = np.full((spec.height, spec.width, 3), PADDING, np.uint8)
    found[top : top + high, left : left + wide] = resized(pixels, (wide, high), whole, spec.kernel)
    return found


def inside(width, height, spec):
    """P8: the size of a whole picture within W x H."""
    scale = min(spec.width / width, spec.height / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resized(pixels, size, box, kernel):
    """P9: widths first, then heights; 8 bits in between."""
    left, top, right, bottom = np.array(box, np.float32)
    across = one_pass(pixels.swapaxes(0, 1), size[0], left, right, kernel)
    return one_pass(across.swapaxes(0, 1), size[1], top, bottom, kernel)


def one_pass(pixels, count, begin, end, kernel):
    """P9: `count` places from `begin` to `end` (binary32) of the first axis."""
    scale = float(end - begin) / count
    stretch = max(scale, 1.0)
    support = {"bilinear": 1.0, "bicubic": 2.0}[kernel] * stretch
    found = np.empty((count, *pixels.shape[1:]), np.uint8)
    for place in range(count):
        centre = float(begin) + (place + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), len(pixels))
        weights = [weight((i - centre + 0.5) * (1.0 / stretch), kernel) for i in range(first, last)]
        total = 0.0
        for one in weights:
            total += one
        fixed = [one / total * 2**22 for one in weights]
        whole = np.array([math.trunc(x + (0.5 if x >= 0 else -0.5)) for x in fixed], np.int64)
        summed = 2**21 + np.tensordot(whole, pixels[first:last].astype(np.int64), axes=1)
        found[place] = np.clip(summed >> 22, 0, 255)
    return found


def weight(x, kernel):
    """P9: the filter."""
    x = abs(x)
    if kernel == "bilinear":
        return 1.0 - x if x < 1.0 else 0.0
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0


# --- running ------------------------------------------------------------------------------------


def opened(manifest, candidate, read):
    """P12, P16: a function from images (N, H, W, 3) to outputs by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry(*OFF)
    if candidate["precision"] == "int8" and overflows():
        options.add_session_config_entry("session.x64quantprecision", "1")
    (path,) = candidate["artifacts"]
    session = onnxruntime.InferenceSession(read(path), options, providers=["CPUExecutionProvider"])
    names = [output["name"] for output in manifest["outputs"]]

    def run(images):
        images = np.ascontiguousarray(images)
        return dict(zip(names, session.run(names, {"images": images}), strict=True))

    return run


def overflows():
    """P16: whether this is an x86-64 processor without VNNI."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return not {"avx512_vnni", "avx_vnni"} & set(flags)


def self_test(manifest, candidate, read, run):
    """The chapter Self-test, for the preprocessing and one candidate."""
    golden = manifest["golden"]

    def array(name):
        return np.load(io.BytesIO(read(name)), allow_pickle=False)

    made = preprocess(read(golden["jpeg"]), manifest["input"])
    apart = np.abs(made.astype(int) - array(golden["pixels"])).max()
    if apart > 3:
        raise RefusedError(f"self-test: pixels differ by {apart}")
    inputs = array(golden["inputs"])
    rows = [run(inputs[i : i + 1]) for i in range(len(inputs))]
    for name, member in golden["outputs"][candidate["name"]].items():
        expected = array(member).reshape(len(inputs), -1)
        found = np.concatenate([row[name] for row in rows]).reshape(expected.shape)
        ranges = np.ptp(expected, axis=0)
        middle = max(float(np.sort(ranges)[(len(ranges) - 1) // 2]), 1e-6)
        scale = np.maximum(np.maximum(ranges, middle), 0.01 * np.abs(expected).max(axis=0))
        worst = float((np.abs(found - expected) / scale).max())
        if not worst <= TOLERANCE[candidate["precision"]]:
            raise RefusedError(f"self-test: {name} differ by {worst} of their range")


def answers(task, settings, logits):
    """P14 and P15: labels and probabilities, the likeliest first."""
    scaled = logits.astype(np.float64) / (settings or {}).get("temperature", 1.0)
    if task["type"] == "classification":
        chances = np.exp(scaled - scaled.max())
        chances /= chances.sum()
    elif task["type"] == "multilabel":
        chances = 1 / (1 + np.exp(-scaled))
    else:
        raise RefusedError(f"the task {task['type']}")
    return [
        {"label": task["labels"][i], "probability": float(chances[i])}
        for i in np.argsort(-chances, kind="stable")
    ]


def main():
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("images", nargs="*")
    parser.add_argument("--candidate")
    parser.add_argument("--pixels")
    given = parser.parse_args()
    manifest, read = open_bundle(given.bundle)
    shipped = [c for c in manifest["candidates"] if c.get("rejected") is None]
    candidate = next(
        c for c in shipped if c["engine"] == "onnxruntime" and given.candidate in (None, c["name"])
    )
    run = opened(manifest, candidate, read)
    self_test(manifest, candidate, read, run)
    rows, kept = [], {}
    for path in given.images:
        made = preprocess(Path(path).read_bytes(), manifest["input"])
        kept[Path(path).name] = made
        found = answers(
            manifest["task"], candidate.get("settings"), run(made[np.newaxis])["logits"][0]
        )
        rows.append({"image": path, "candidate": candidate["name"], "predictions": found})
    if given.pixels:
        np.savez(given.pixels, **kept)
    json.dump(rows, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
