"""Every data type that is stored or passed between floors.

All are frozen and keyword-only. What users write (`Device`, `Recipe`, `FinetuneConfig`) refuses
unknown fields; what programs write (`Manifest`, `RunRecord` and their parts) ignores fields that a
later minor version may add. Fractions are 0…1, times carry their unit in the name.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Fit = Literal["crop", "pad", "squash"]
Strategy = Literal["auto", "probe", "finetune", "scratch"]
TorchDevice = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
EngineName = Literal["onnxruntime", "openvino", "tensorrt"]
Split = Literal["train", "validation", "test"]
Form = Literal[
    "float", "ort-qdq", "nncf", "trt-weak", "trt-strong", "trt-qdq-weak", "trt-qdq-strong"
]
Calibrator = Literal["minmax", "percentile", "entropy"]

RUN_VERSION = 1
BUNDLE_VERSION = "1.0"


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what users write: unknown fields are refused."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what programs write: unknown fields are ignored."""


# --- images -----------------------------------------------------------------------------------


class Preprocess(Record, frozen=True, kw_only=True):
    """How an image becomes uint8 `(N, size, size, 3)` RGB, by the `rules` of inputs/image.py."""

    size: int = 224
    fit: Fit = "crop"
    rules: int = 1
    depth: int = 16  # bits of grey samples in 16-bit and wider files, by rules 2


class Normalize(Record, frozen=True, kw_only=True):
    """Per-channel mean and deviation of RGB in 0…1, applied inside the graph."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class Photo(Record, frozen=True, kw_only=True):
    """One labelled photo of a data set; a row of data.jsonl."""

    path: str  # relative to the data folder, with forward slashes
    split: Split
    label: str
    sha256: str
    group: str = ""


class ClassScore(Record, frozen=True, kw_only=True):
    """Scores of one class on one split."""

    label: str
    precision: float
    recall: float
    f1: float
    n: int


class Evaluation(Record, frozen=True, kw_only=True):
    """Scores on one set of photos; `confusion[t][p]` counts truth t predicted as p."""

    accuracy: float
    macro_f1: float
    n: int
    labels: tuple[str, ...] = ()
    per_class: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


# --- training runs ----------------------------------------------------------------------------


class FinetuneConfig(Strict, frozen=True, kw_only=True):
    """Resolved options of `edgetl finetune`; what a resumed run must have in common."""

    data: str
    backbone: str
    weights: str  # "imagenet", "none" or a file
    strategy: Strategy
    epochs: int
    size: int
    fit: Fit
    flip: bool
    seed: int
    device: Literal["cpu", "cuda"]
    labels: str = ""
    depth: int = 16


class SkippedFile(Record, frozen=True, kw_only=True):
    """A file that was left out, and why; `n` files of the same kind, `path` being the first."""

    path: str
    reason: str
    n: int = 1


class DataSummary(Record, frozen=True, kw_only=True):
    """What was found in the data folder."""

    root: str
    labels: tuple[str, ...]
    counts: dict[str, dict[str, int]]  # split → label → photos
    sha256: str  # of data.jsonl
    split_by: str  # "seeded"; or "folders" or "csv", "…, validation seeded from training"
    skipped_files: tuple[SkippedFile, ...] = ()
    warnings: tuple[str, ...] = ()
    duplicates: int = 0  # photos that repeat another one, byte for byte or nearly


class WeightsOrigin(Record, frozen=True, kw_only=True):
    """Where the starting weights came from, and under which terms."""

    source: str  # torchvision's enum member, a file's name, or "random initialisation"
    sha256: str = ""
    licence: str = ""
    notes: tuple[str, ...] = ()  # what of the file was chosen, left out or converted


class EpochRow(Record, frozen=True, kw_only=True):
    """One line of metrics.jsonl."""

    stage: Literal["probe", "finetune", "scratch"]
    epoch: int
    loss: float
    learning_rate: float
    validation_accuracy: float
    validation_macro_f1: float
    validation_loss: float
    images_per_s: float
    seconds: float


class Stage(Record, frozen=True, kw_only=True):
    """Outcome of one way of training, on validation."""

    name: Literal["probe", "finetune", "scratch"]
    accuracy: float
    macro_f1: float
    loss: float
    seconds: float
    details: dict[str, Any] = {}


class RunRecord(Record, frozen=True, kw_only=True):
    """run.json: everything about a run but its weights."""

    edgetl_run: int
    status: Literal["running", "finished"]
    config: FinetuneConfig
    preprocess: Preprocess
    normalize: Normalize
    labels: tuple[str, ...]
    data: DataSummary
    weights_origin: WeightsOrigin
    created_utc: str
    versions: dict[str, str]
    threads: int
    strategy: str = ""  # what ships: probe, finetune or scratch
    stages: tuple[Stage, ...] = ()
    warnings: tuple[str, ...] = ()  # of framing and training; those of the photos are in `data`
    validation: Evaluation | None = None
    test: Evaluation | None = None
    seconds: float = 0.0
    timings_s: dict[str, float] = {}


# --- devices and recipes ----------------------------------------------------------------------


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
    engine: EngineName
    precision: Precision
    form: Form
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


class OnnxOptions(Strict, frozen=True, kw_only=True):
    """How somebody's ONNX file reads images; a run knows this by itself. None: the default."""

    calib: str | None = None  # folder of photos
    labels: str | None = None  # file with one label a line
    size: int | None = None
    fit: Fit | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    range_: Literal[1, 255] | None = None  # mean and std are of 0…1 or 0…255
    layout: Literal["auto", "nchw", "nhwc"] | None = None


# --- bundles ----------------------------------------------------------------------------------


class Artifact(Record, frozen=True, kw_only=True):
    """One model file inside a bundle."""

    path: str
    size: int
    sha256: str
    engine: EngineName


class Calibration(Record, frozen=True, kw_only=True):
    """Which training photos calibrated the quantized candidates."""

    n: int
    sha256: str  # over the sorted photo hashes


class ClassDrop(Record, frozen=True, kw_only=True):
    """A class whose recall a candidate lowered."""

    label: str
    lost: int  # photos that the reference had right and the candidate has wrong, less the reverse
    n: int


class Quantization(Record, frozen=True, kw_only=True):
    """How a candidate came to its integers."""

    calibration: str  # the method whose logits were nearest to FP32
    photos: Calibration | None = None
    divergence: float | None = None  # mean KL in nats on training photos kept out of calibration
    tried: dict[str, float] = {}  # divergence by calibration method
    kept_float: tuple[str, ...] = ()  # blocks that the search left in floating point
    trained: bool = False  # by quantization-aware training


class Candidate(Record, frozen=True, kw_only=True):
    """One way to run the model: its files, how well it did, and how fast it was where measured."""

    recipe: str
    engine: EngineName
    precision: Precision
    arch: tuple[str, ...] = ()  # machines that the files are meant for; empty: any
    min_engine: str = ""  # lowest version of the engine that reads the files
    artifacts: tuple[str, ...]  # member paths, in the order the engine wants them
    session: dict[str, str] = {}  # options the engine is opened with
    split: str = "validation"
    n: int = 0
    accuracy: float | None = None
    macro_f1: float | None = None
    reference_accuracy: float | None = None
    drop: float | None = None
    drop_interval: tuple[float, float] | None = None  # paired, 95 %
    macro_f1_drop: float | None = None
    regressions: tuple[ClassDrop, ...] = ()  # worst first
    quantization: Quantization | None = None
    loss_rise: float | None = None  # log-loss gained against the reference, nats
    loss_rise_interval: tuple[float, float] | None = None  # paired, 95 %
    agreement: float | None = None  # top-1 against the FP32 reference
    gate_divergence: float | None = None  # mean KL from it in nats on the photos that judge
    divergence: float | None = None  # the same on held-out training photos: decides ties
    undecidable: bool = False  # n < 1/max_drop: accuracy cannot show the permitted drop
    checked_with: str = ""  # engine and version that produced the accuracy
    temperature: float = 1.0
    calibrated: bool = False  # whether labels fitted the temperature; else probabilities are raw
    rejection_threshold: float = 0.0  # top probability that 95 % of validation photos reach
    p50_ms: float | None = None
    p90_ms: float | None = None
    measured_on: str | None = None  # machine fingerprint
    provisional: bool = False
    rejected: str | None = None


class Golden(Record, frozen=True, kw_only=True):
    """Members of the self-test: inputs, expected logits by recipe, and one JPEG with its pixels."""

    inputs: str
    logits: dict[str, str]
    jpeg: str
    pixels: str


class Provenance(Record, frozen=True, kw_only=True):
    """Where the model came from."""

    edgetl: str
    created_utc: str
    data_sha256: str
    weights: WeightsOrigin
    config: FinetuneConfig | None  # None for a model that was not trained by edgetl
    versions: dict[str, str]
    strategy: str
    max_drop: float
    test: Evaluation | None = None


class FrontPoint(Record, frozen=True, kw_only=True):
    """A placement on the Pareto front of a search; nothing of it need be shipped."""

    of: str  # the candidate that it changes
    kept_float: tuple[str, ...]
    hint: str  # precision of the rest, where the engine has a choice
    ratio: float  # of times, to the whole network in INT8
    divergence: float  # nats from FP32, on held-out training photos


class Manifest(Record, frozen=True, kw_only=True):
    """manifest.json of a bundle. Readers ignore unknown fields within a major version."""

    edgetl_bundle: str
    name: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    normalize: Normalize
    single_image: bool = False  # the files take one image a run, so that several run in turn
    targets: tuple[str, ...]
    order: tuple[str, ...]  # recipes, best first, where nothing was measured
    orders: dict[str, tuple[str, ...]] = {}  # the same by processor architecture
    artifacts: tuple[Artifact, ...]
    candidates: tuple[Candidate, ...]  # refused ones too, without artifacts
    chosen: str
    provisional: bool
    golden: Golden
    provenance: Provenance
    calibration: Calibration | None = None
    members: tuple[str, ...] = ()  # every other member of the file


class Measurement(Record, frozen=True, kw_only=True):
    """One benchmark row."""

    recipe: str
    engine: str
    engine_version: str
    precision: str
    provider: str
    batch: int
    threads: int
    warmup: int
    samples_ns: tuple[int, ...]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    unstable: str = ""  # why the median is not to be relied on, such as "p99 is 50 × p50"
    throughput: float  # images per second
    peak_rss_mib: float
    load_ms: float
    machine: str
    power_mode: str | None
    bundle_sha256: str | None  # None in a bundle's own rows: no file holds its own hash
    edgetl: str
    utc: str


class Prediction(Record, frozen=True, kw_only=True):
    """One class with its probability."""

    label: str
    probability: float


class Result(Record, frozen=True, kw_only=True):
    """The prediction for one image; `error` says why there is none."""

    image: str
    predictions: tuple[Prediction, ...]
    candidate: str
    error: str | None = None
