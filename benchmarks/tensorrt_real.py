"""Build and run TensorRT engines for real, and compare them with ONNX Runtime on the same photos.

On the host, which needs no GPU, write what the other machine needs:

    pip download msgspec --no-deps --only-binary=:all: --python-version 3.10 -d wheels
    python -m benchmarks.tensorrt_real --prepare DIR --wheel wheels/msgspec-*.whl [--data PHOTOS]

On a machine with an NVIDIA GPU, Python 3.10, NumPy and TensorRT 8.5 to 10.11, and nothing else:

    python DIR/tensorrt_real.py --device DIR --rows DIR/tensorrt_real.jsonl

and take that file home to results/. Four backbones, each as FP16 (FP32 file, builder's flag) and as
INT8 (explicit Q/DQ), batch 1, with and without a CUDA graph. Each backbone is a folder of its own,
so that they can travel one at a time. The device half builds without cuBLAS and cuDNN, which such a
machine may lack (`--external-tactics on` uses them). No row of it has been written so far: it was
run up to the point where no CUDA device answers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

BACKBONES = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0")
PHOTOS, CALIBRATION, CLASSES = 16, 32, 10
WARMUP, RUNS = 50, 500
FORMS = {"fp16": "fp32.onnx", "int8": "qdq.onnx"}  # what each precision is built from
CODE = ("__init__.py", "errors.py", "spec", "files.py", "engines")  # of edgetl


# --- host ---------------------------------------------------------------------------------------


def prepare(folder: Path, wheels: list[Path], data: Path, weights: Path) -> None:
    """Write networks, photos, ONNX Runtime's logits and the code for the device half."""
    from benchmarks.common import ROOT, commit
    from edgetl.engines import Options, find_engine

    folder.mkdir(parents=True)
    shutil.copy(Path(__file__), folder)
    code = folder / "code"
    for name in CODE:
        source, target = ROOT / "edgetl" / name, code / "edgetl" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(code)
    images = photos(data, PHOTOS + CALIBRATION)
    engine = find_engine("onnxruntime")
    for backbone in BACKBONES:
        home = folder / backbone
        home.mkdir()
        files, origin = networks(backbone, images[PHOTOS:], weights)
        np.save(home / "images.npy", images[:PHOTOS])
        for precision, (data_, options) in files.items():
            (home / FORMS[precision]).write_bytes(data_)
            kind = "int8" if precision == "int8" else "fp32"
            session = engine.open((data_,), Options(precision=kind, session=options))
            logits = [session.run(images[i : i + 1])["logits"] for i in range(PHOTOS)]
            session.close()
            np.save(home / f"{precision}.npy", np.concatenate(logits))
        stated = {"weights": origin, "onnxruntime": engine.version(), "commit": commit()}
        (home / "stated.json").write_text(json.dumps(stated))
        spread = np.load(home / "fp16.npy").std(0).mean()
        if spread < 1e-3:
            raise SystemExit(f"{backbone} says the same of every photo: nothing to compare.")
        size = sum(path.stat().st_size for path in home.iterdir()) / 2**20
        print(f"{home}: {size:.1f} MiB, weights: {origin}")


def photos(data: Path, count: int) -> Any:
    """Photos from all over a folder, uint8 `(count, 224, 224, 3)`."""
    from edgetl.data.walk import images_in
    from edgetl.inputs.image import ImageInput

    found = images_in(data)
    if len(found) < count:
        raise SystemExit(f"{data} holds {len(found)} photos, and {count} are needed.")
    order = np.random.default_rng(0).permutation(len(found))[:count]
    return np.stack([ImageInput().read(found[i]).pixels for i in order])


def networks(
    backbone: str, calibration: Any, weights: Path
) -> tuple[dict[str, tuple[bytes, dict[str, str]]], str]:
    """The file of each precision with the options that ONNX Runtime scores it with, and whence."""
    from edgetl.engines.onnxruntime import UNFUSED
    from edgetl.exporter.onnx.trace import trace
    from edgetl.exporter.quantize.calibration import activation_ranges, float_tensors
    from edgetl.exporter.tensorrt.qdq import trt_qdq
    from edgetl.inputs.image import ImageInput
    from edgetl.spec import Normalize
    from edgetl.train.backbones import build_network, find_backbone
    from edgetl.train.weights import find_weights, load_weights

    model = build_network(backbone, CLASSES, "logits", seed=0)
    trained = backbone in weights.name and weights.is_file()
    info = find_backbone(backbone)
    origin = load_weights(model, info, find_weights(info, str(weights) if trained else "none"))
    if not trained:
        fit_batch_norm(model, calibration)
    canonical = trace(model.eval(), ImageInput(), Normalize())
    tensors = float_tensors(canonical)
    ranges = activation_ranges(canonical, calibration, tensors, methods=("percentile",))
    quantized = trt_qdq(canonical, ranges["percentile"], strong=False)
    whence = origin.source if trained else f"{origin.source}, batch norm fitted to photos"
    return {"fp16": (canonical, {}), "int8": (quantized, UNFUSED)}, whence


def fit_batch_norm(model: Any, images: Any) -> None:
    """Fit a random network's batch norm: else every photo has the same logits, and any engine fits.

    `images` is uint8 `(N, 224, 224, 3)`; one pass in training mode, without gradients.
    """
    import torch

    from edgetl.spec import Normalize

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    mean, std = (torch.tensor(v)[:, None, None] for v in (Normalize().mean, Normalize().std))
    batch = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    torch.manual_seed(0)  # of dropout and stochastic depth
    with torch.no_grad():
        model.train()(batch.float())


# --- device -------------------------------------------------------------------------------------


def device(folder: Path, rows: Path, tactics: str) -> None:
    """Build, compare and measure every backbone that is in the folder; a row a configuration."""
    os.environ["EDGETL_CACHE"] = str(folder / "cache")
    sys.path.insert(0, str(folder / "code"))
    if not (folder / "code").is_dir():
        raise SystemExit(f"tensorrt_real: {folder} was not made by --prepare.")
    from edgetl.engines import tensorrt

    if reason := tensorrt.missing({"typing": "weak"}):
        raise SystemExit(f"tensorrt_real: {reason}")
    homes = [folder / name for name in BACKBONES if (folder / name / "stated.json").is_file()]
    if not homes:
        raise SystemExit(f"tensorrt_real: no backbone lies in {folder}: run --prepare first.")
    with rows.open("a", encoding="utf-8") as out:
        for home in homes:
            for precision in FORMS:
                for graph in ("off", "on"):
                    row = measured(home, precision, graph, tactics)
                    out.write(json.dumps(row) + "\n")
                    out.flush()
                    print({k: v for k, v in row.items() if k != "samples_ns"}, flush=True)


def measured(home: Path, precision: str, graph: str, tactics: str) -> dict[str, Any]:
    """One row: agreement with ONNX Runtime and wall times of `run`, copies included."""
    from edgetl.engines import Options, tensorrt
    from edgetl.engines.tensorrt import cuda

    images, expected = np.load(home / "images.npy"), np.load(home / f"{precision}.npy")
    session = {"typing": "weak", "graph": graph, "external_tactics": tactics}
    options = Options(precision=precision, session=session)
    files = ((home / FORMS[precision]).read_bytes(),)
    ahead = tensorrt.prepare(files, options, 1)
    begin = time.perf_counter_ns()
    opened = tensorrt.open(files, options)
    load_ms = (time.perf_counter_ns() - begin) / 1e6
    try:
        found = np.concatenate(
            [opened.run(images[i : i + 1])["logits"] for i in range(len(images))]
        )
        samples = [timed(opened, images[i % len(images)][None]) for i in range(WARMUP + RUNS)]
        described = opened.describe()
    finally:
        opened.close()
    kept = samples[WARMUP:]
    p50, p90, p99 = np.percentile(kept, [50, 90, 99]) / 1e6
    return {
        "backbone": home.name,
        "precision": precision,
        "tensorrt": described.version,
        "cuda": cuda.runtime_version(),
        "gpu": cuda.device_name(),
        "provider": described.provider,
        "cuda_graph": graph,
        "external_tactics": tactics,
        "built_in_s": ahead.build_s,
        "engine_mib": ahead.size_mib,
        "from_cache": ahead.cached,
        "load_ms": round(load_ms, 2),
        "n": len(images),
        "finite": bool(np.isfinite(found).all()),
        "top1_agreement": float((found.argmax(1) == expected.argmax(1)).mean()),
        "worst_difference": float(np.abs(found - expected).max() / np.ptp(expected)),
        "mean_difference": float(np.abs(found - expected).mean() / np.ptp(expected)),
        "p50_ms": round(float(p50), 4),
        "p90_ms": round(float(p90), 4),
        "p99_ms": round(float(p99), 4),
        "samples_ns": kept,
        "utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **json.loads((home / "stated.json").read_text()),
    }


def timed(session: Any, image: Any) -> int:
    """Nanoseconds of one run: copy in, compute, copy out."""
    begin = time.perf_counter_ns()
    session.run(image)
    return time.perf_counter_ns() - begin


def main() -> None:
    """Run the host's half or the device's."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = options.add_mutually_exclusive_group(required=True)
    what.add_argument("--prepare", type=Path, metavar="DIR")
    what.add_argument("--device", type=Path, metavar="DIR")
    options.add_argument("--wheel", type=Path, action="append", default=[])
    options.add_argument("--rows", type=Path, help="where the device half adds its rows")
    options.add_argument("--external-tactics", choices=("on", "off"), default="off")
    shared = Path(__file__).resolve().parent.parent.parent / "shared"
    options.add_argument("--data", type=Path, default=shared / "data" / "clothing")
    options.add_argument(
        "--weights",
        type=Path,
        default=shared / "weights" / "mobilenet_v2-imagenet1k.safetensors",
        help="for the backbone whose name the file bears; the others stay random",
    )
    given = options.parse_args()
    if given.device:
        rows = given.rows or given.device / "tensorrt_real.jsonl"
        device(given.device.resolve(), rows, given.external_tactics)
    else:
        if not given.wheel:
            raise SystemExit("tensorrt_real: --wheel is missing: see --help for the command.")
        prepare(given.prepare, given.wheel, given.data, given.weights)


if __name__ == "__main__":
    main()
