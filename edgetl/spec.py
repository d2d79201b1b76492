"""Every data type that is stored or passed between floors, and the words that they share.

All are frozen and keyword-only. What users write (`Device`, `Recipe`, options) refuses unknown
fields; what programs write (`Manifest`, `RunRecord` and their parts) ignores fields that a later
minor version may add. Fractions are 0…1, times carry their unit in the name.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Fit = Literal["crop", "pad", "squash"]
Interpolation = Literal["bilinear", "bicubic"]
Order = Literal["rgb", "bgr"]  # of colours
Size = int | tuple[int, int]  # of a square, or (height, width); pixels
LARGEST_SIDE = 8192  # pixels of an input
Strategy = Literal["auto", "probe", "finetune", "scratch"]
TorchDevice = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Split = Literal["train", "validation", "test"]
Calibrator = Literal["minmax", "percentile", "entropy"]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what users write: unknown fields are refused."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what programs write: unknown fields are ignored."""


class Photo(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One labelled photo of a data set; a row of data.jsonl."""

    path: str  # relative to the data folder, with forward slashes
    split: Split
    label: str
    sha256: str
    group: str = ""
    target: Any = None  # what else a task knows of it, as JSON holds it


class SkippedFile(Record, frozen=True, kw_only=True):
    """A file that was left out, and why; `n` files of the same kind, `path` being the first."""

    path: str
    reason: str
    n: int = 1


class DataSummary(Record, frozen=True, kw_only=True):
    """What was found in the data folder."""

    root: str
    labels: tuple[str, ...]
    photos: dict[str, int]  # by split
    counts: dict[str, dict[str, int]]  # split → label → photos that show it
    sha256: str  # of data.jsonl
    split_by: str  # "seeded"; or "folders" or "csv", "…, validation seeded from training"
    skipped_files: tuple[SkippedFile, ...] = ()
    warnings: tuple[str, ...] = ()
    duplicates: int = 0  # photos that repeat another one, byte for byte or nearly


class WeightsOrigin(Record, frozen=True, kw_only=True):
    """Where the starting weights came from, and under which terms."""

    source: str  # torchvision's enum member, a file's name, or "random initialisation"
    sha256: str = ""  # of the file
    licence: str = ""  # terms of the weights
    notes: tuple[str, ...] = ()  # what of the file was chosen, left out or converted


class Normalize(Record, frozen=True, kw_only=True):
    """Per-channel mean and deviation of RGB in 0…1, applied inside the graph."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # subtracted
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)  # divided by afterwards


class Device(Strict, frozen=True, kw_only=True):
    """A device profile: devices/NAME.toml (fields explained in devices/README.md)."""

    name: str
    title: str
    kind: Literal["cpu", "x86", "arm", "jetson"]
    recipes: tuple[str, ...]
    dla_recipes: tuple[str, ...] = ()  # tried as well with `export --dla`
    runtime: bool = True
    members: tuple[str, ...] = ()
    arch: str = ""
    cpu: str = ""
    cores: int = 0
    features: tuple[str, ...] = ()
    gpu: str = ""
    compute_capability: str = ""
    memory_gib: float = 0
    bandwidth_gbs: float = 0
    dla_cores: int = 0
    tops_int8_dense: float = 0
    tflops_fp16_dense: float = 0
    power_modes: tuple[str, ...] = ()
    jetpack: tuple[str, ...] = ()
    tensorrt: tuple[str, ...] = ()
    python: str = ""
    notes: str = ""
    sources: tuple[str, ...] = ()


class Recipe(Strict, frozen=True, kw_only=True):
    """An export recipe: export/NAME.toml (fields explained in export/README.md)."""

    name: str
    title: str
    engine: str
    precision: Precision
    form: str  # of those that the engine's backend knows
    arch: tuple[str, ...] = ()
    min_engine: str = ""
    max_opset: int = 17
    activation: Literal["", "quint8", "qint8"] = ""
    per_channel: bool = False
    calibration: tuple[Calibrator, ...] = ()  # tried in turn; the nearest to FP32 is kept
    calibration_images: int = 0
    exclude: tuple[str, ...] = ()  # operator types that stay in floating point
    fold_normalisation: bool = False  # into the first convolution; exporter/onnx/fold.py
    preset: Literal["", "performance", "mixed"] = ""
    fast_bias_correction: bool = True
    session: dict[str, str] = {}
    notes: str = ""


class Measurement(Record, frozen=True, kw_only=True):
    """One benchmark row."""

    candidate: str = msgspec.field(name="recipe")  # its name, by the key that it always had
    engine: str  # that ran it
    engine_version: str  # of the engine's package
    precision: str  # of the candidate
    provider: str  # what the engine says it ran on
    batch: int  # images a run
    threads: int  # of the engine
    warmup: int  # runs that do not count
    samples_ns: tuple[int, ...]  # time of each run that counts, in nanoseconds
    p50_ms: float  # median time of a run
    p90_ms: float  # 90th percentile
    p99_ms: float  # 99th percentile
    unstable: str = ""  # why the median is not to be relied on, such as "p99 is 50 × p50"
    throughput: float  # images per second
    peak_rss_mib: float  # largest memory of the process
    load_ms: float  # until the engine could run
    machine: str  # fingerprint of the machine
    power_mode: str | None  # of a Jetson, where there is one
    bundle_sha256: str | None  # None in a bundle's own rows: no file holds its own hash
    edgetl: str  # version that measured
    utc: str  # when, ISO 8601
