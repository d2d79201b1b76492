"""manifest.json of a bundle, and its parts."""

from __future__ import annotations

from typing import Any

from edgetl.inputs.base import Input
from edgetl.options import FinetuneConfig
from edgetl.spec import Normalize, Precision, Record, WeightsOrigin
from edgetl.tasks.base import ClassDrop, Evaluation, Output, Score, Task

BUNDLE_VERSION = "1.0-rc"  # of the format; a release candidate is read by its own version only


class Artifact(Record, frozen=True, kw_only=True):
    """One model file inside a bundle, which several candidates may share."""

    path: str  # its member
    size: int  # bytes of the member
    sha256: str  # of the member's bytes: 64 lower-case hex digits


class Calibration(Record, frozen=True, kw_only=True):
    """Which training photos calibrated the quantized candidates."""

    n: int  # photos
    sha256: str  # over the sorted photo hashes


class Quantization(Record, frozen=True, kw_only=True):
    """How a candidate came to its integers."""

    calibration: str  # the method whose logits were nearest to FP32
    photos: Calibration | None = None  # that calibrated it
    divergence: float | None = None  # mean KL in nats on training photos kept out of calibration
    tried: dict[str, float] = {}  # divergence by calibration method
    kept_float: tuple[str, ...] = ()  # blocks that the search left in floating point
    trained: bool = False  # by quantization-aware training


class Candidate(Record, frozen=True, kw_only=True):
    """One way to run the model: its files, how well it did, and how fast it was where measured."""

    name: str  # unique in the bundle
    recipe: str  # export recipe that it was built by
    variant: str = ""  # of the recipe: "qat", "mixed", …; "" for the recipe as it is
    engine: str  # that runs it: "onnxruntime", "openvino", "tensorrt" or a plug-in's
    precision: Precision  # of the network as a whole; parts of it may have more bits
    arch: tuple[str, ...] = ()  # machines that the files are meant for; empty: any
    min_engine: str = ""  # lowest version of the engine that reads the files
    artifacts: tuple[str, ...]  # member paths, in the order the engine wants them
    session: dict[str, str] = {}  # options the engine is opened with
    split: str = "validation"  # "agreement" where the samples that judge have no labels
    n: int = 0  # samples that judged it
    scores: dict[str, Score] = {}  # by metric, the primary one first; empty without labels
    settings: Any = None  # of the task, fitted for this candidate
    regressions: tuple[ClassDrop, ...] = ()  # classes with fewer samples right, worst first
    quantization: Quantization | None = None  # of integer candidates
    agreement: float | None = None  # share of samples with the FP32 reference's answer
    gate_divergence: float | None = None  # distance from it on the samples that judge
    divergence: float | None = None  # the same on held-out training samples: decides ties
    undecidable: bool = False  # n < 1/max_drop: scores cannot show the permitted drop
    checked_with: str = ""  # engine and version that gave the scores
    p50_ms: float | None = None  # median latency of one image, where measured
    p90_ms: float | None = None  # its 90th percentile
    measured_on: str | None = None  # machine fingerprint
    provisional: bool = False  # not measured on a machine that it is for
    rejected: str | None = None  # why the gate refused it


class Golden(Record, frozen=True, kw_only=True):
    """Members of the self-test: inputs, expected outputs, and one JPEG with its pixels."""

    inputs: str  # images as the model files read them
    outputs: dict[str, dict[str, str]]  # by candidate, then by output: what it returned for these
    jpeg: str  # a drawn JPEG
    pixels: str  # what the preprocessing makes of it


class Provenance(Record, frozen=True, kw_only=True):
    """Where the model came from."""

    edgetl: str  # version that wrote the bundle
    created_utc: str  # ISO 8601
    data_sha256: str  # of the run's data.jsonl, which lists the photos and their hashes
    weights: WeightsOrigin  # that training started from
    config: FinetuneConfig | None  # of the training run; null: edgetl did not train it
    versions: dict[str, str]  # of packages, by name; "machine": what exported
    strategy: str  # how it was trained: "probe", "finetune", "scratch"; "given": not by edgetl
    max_drop: float  # loss of the primary metric that the gate permitted
    test: Evaluation | None = None  # on photos that decided nothing


class FrontPoint(Record, frozen=True, kw_only=True):
    """A placement on the Pareto front of a search; nothing of it need be shipped."""

    of: str  # the candidate that it changes
    kept_float: tuple[str, ...]  # blocks in floating point
    hint: str  # precision of the rest, where the engine has a choice
    ratio: float  # of times, to the whole network in INT8
    divergence: float  # nats from FP32, on held-out training photos


class Manifest(Record, frozen=True, kw_only=True):
    """manifest.json of a bundle. Readers ignore unknown fields within a major version."""

    edgetl_bundle: str  # version of this format
    name: str  # name of the model
    task: Task  # what the outputs mean
    input: Input  # how an image becomes what the network reads
    normalize: Normalize  # applied inside the files; here for the record
    outputs: tuple[Output, ...]  # of every candidate's files
    needs: tuple[str, ...] = ()  # what a reader must know besides; nothing so far
    single_image: bool = False  # the files take one image a run, so that several run in turn
    targets: tuple[str, ...]  # device profiles that it was exported for
    order: tuple[str, ...]  # candidates, best first, where nothing was measured
    orders: dict[str, tuple[str, ...]] = {}  # the same by processor architecture
    artifacts: tuple[Artifact, ...]  # the model files
    candidates: tuple[Candidate, ...]  # refused ones too, without artifacts
    chosen: str  # the candidate to run, where nothing else is known
    provisional: bool  # the choice was not measured on the device
    golden: Golden  # members of the self-test
    provenance: Provenance  # where the model came from
    calibration: Calibration | None = None  # photos that calibrated any candidate
    members: tuple[str, ...] = ()  # every other member of the file

    def candidate(self, name: str) -> Candidate:
        """The candidate of a name that is there."""
        return next(c for c in self.candidates if c.name == name)
