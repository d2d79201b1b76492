"""JPEG file → top-k in the runtime, against decode + resize + bare engine, and 12-megapixel photos.

    python -m benchmarks.end_to_end BUNDLE [--data DIR]

BUNDLE is one that `benchmarks.main_job` left, with an int8 candidate of ONNX Runtime. Both ways
take turns on the same photos. Then every test photo is upscaled to 12 megapixels, and accuracy is
compared. Writes results/end_to_end.jsonl.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import edgetl
from benchmarks.common import parser, write_rows
from edgetl.engines import Options, find_engine

TURNS = 3
WIDTH = 4000
PIXELS = 12_000_000


class Bare:
    """The shortest way by hand: Pillow's decode and resize, then the engine's session."""

    def __init__(self, model: edgetl.Model) -> None:
        candidate = model.candidate
        files = tuple(model.bundle.read(path) for path in candidate.artifacts)
        options = Options(precision=candidate.precision, session=candidate.session)
        self.session = find_engine(candidate.engine).open(files, options)
        self.crop = getattr(model.input, "crop", 1.0)

    def __call__(self, path: Path) -> None:
        image = Image.open(path).convert("RGB")
        side = min(image.size) * self.crop
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        small = image.resize((224, 224), Image.Resampling.BILINEAR, box=box)
        self.session.run(np.asarray(small)[np.newaxis])


def timed(call: Any, path: Path) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter_ns()
    call(path)
    return (time.perf_counter_ns() - start) / 1e6


def compare(model: edgetl.Model, paths: list[Path]) -> dict[str, Any]:
    """Medians of both ways over all photos, in turns."""
    bare = Bare(model)
    ours: list[float] = []
    theirs: list[float] = []
    for path in paths[:10]:
        model.predict(path)
        bare(path)
    for _ in range(TURNS):
        for path in paths:
            ours.append(timed(model.predict, path))
            theirs.append(timed(bare, path))
    middle, other = statistics.median(ours), statistics.median(theirs)
    return {
        "row": "file to top-k",
        "candidate": model.candidate.name,
        "p50_ms": middle,
        "bare_p50_ms": other,
        "ratio": middle / other,
        "n": len(paths),
        "samples_ms": np.round(ours, 3).tolist(),
        "bare_samples_ms": np.round(theirs, 3).tolist(),
    }


def upscaled(path: Path) -> bytes:
    """A 12-megapixel JPEG of a photo, its aspect kept."""
    image = Image.open(path).convert("RGB")
    scale = (PIXELS / (image.width * image.height)) ** 0.5
    size = (round(image.width * scale), round(image.height * scale))
    stream = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def large(model: edgetl.Model, paths: list[Path]) -> dict[str, Any]:
    """Time and accuracy on 12-megapixel copies of the photos."""
    milliseconds: list[float] = []
    right = right_large = same = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "large.jpg"
        for path in paths:
            copy.write_bytes(upscaled(path))
            start = time.perf_counter_ns()
            big = model.predict(copy)[0].predictions[0].label
            milliseconds.append((time.perf_counter_ns() - start) / 1e6)
            small = model.predict(path)[0].predictions[0].label
            right += small == path.parent.name
            right_large += big == path.parent.name
            same += small == big
    count = len(paths)
    return {
        "row": "12 megapixels",
        "candidate": model.candidate.name,
        "p50_ms": statistics.median(milliseconds),
        "accuracy": right / count,
        "accuracy_12mp": right_large / count,
        "difference": (right_large - right) / count,
        "same_top1": same / count,
        "n": count,
        "samples_ms": np.round(milliseconds, 3).tolist(),
    }


def main() -> None:
    """Run and write."""
    options = parser(__doc__)
    options.add_argument("bundle", type=Path)
    given = options.parse_args()
    paths = sorted((given.data / "test").glob("*/*.jpg"))
    with edgetl.load(given.bundle, engine="onnxruntime", precision="int8") as model:
        rows = [compare(model, paths), large(model, paths)]
    for row in rows:
        print({k: v for k, v in row.items() if not isinstance(v, list)})
    print(write_rows("end_to_end", rows))


if __name__ == "__main__":
    main()
