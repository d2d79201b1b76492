"""`edgetl finetune`: from a folder of photos to a finished run."""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import PIL
import torch
import torchvision
from PIL import Image

import edgetl
from edgetl.data.found import photo_lines, skipped_line
from edgetl.data.samples import is_sample
from edgetl.errors import DataError, UsageError, WeightsError
from edgetl.files import user_path, write_bytes, write_jsonl
from edgetl.options import FinetuneConfig, FinetuneOptions, takes
from edgetl.progress import progress_bar
from edgetl.report import Mistake, thumbnail, write_run_report
from edgetl.runs import folder as runs
from edgetl.runs.record import RUN_VERSION, EpochRow, RunRecord, Stage
from edgetl.spec import Split
from edgetl.tasks.base import TASKS, Evaluation, Outputs
from edgetl.train import guidance
from edgetl.train.backbones import BackboneInfo, Network, find_backbone
from edgetl.train.dataset import Dataset, load_dataset
from edgetl.train.infer import keep_to_cores, memory_kept
from edgetl.train.strategies import (
    Context,
    check_mirroring,
    fit_network,
    fit_probe_stage,
    held_out,
    named_photos,
)
from edgetl.train.tasks.base import twin_of
from edgetl.train.weights import find_weights, load_weights, save_network

log = logging.getLogger("edgetl")
MISTAKES, THUMBNAIL = 24, 160  # shown in the report, and their longest side in pixels


@takes(FinetuneOptions)
def finetune(
    data: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    options: FinetuneOptions | None = None,
    **changes: Any,
) -> RunRecord:
    """Train a classifier on the photos in `data` and write the run folder `out`.

    Returns the finished run's record. Raises UsageError, UnknownNameError, DataError, WeightsError,
    RunError or StorageError.
    """
    start = time.perf_counter()
    chosen = FinetuneOptions.of(options, changes)
    info = find_backbone(chosen.backbone)
    config = resolve(os.fspath(data), chosen, info)
    if resume and overwrite:
        raise UsageError("--resume and --overwrite contradict each other.", fix="give one of them.")
    home = user_path(out)
    with runs.locked(home):
        going_on = runs.claim(home, config, resume=resume, overwrite=overwrite)
        return _train(home, config, info, going_on=going_on, start=start, progress=progress)


def resolve(data: str, options: FinetuneOptions, info: BackboneInfo) -> FinetuneConfig:
    """What a run on the photos in `data` is to be.

    UsageError where torch sees no such device, or the backbone takes no images of that size.
    """
    size = options.size or info.size
    if info.only_size and size != info.size:
        raise UsageError(
            f"{info.name} takes images of {info.size}x{info.size} pixels and no others.",
            fix=f"give --size {info.size}, or another --backbone.",
        )
    weights = options.weights or ("none" if options.strategy == "scratch" else "imagenet")
    cuda = torch.cuda.is_available()
    if options.device == "cuda" and not cuda:
        raise UsageError("--device cuda: torch sees no CUDA device here.", fix="use --device cpu.")
    chosen: dict[str, Any] = {
        "data": data if is_sample(data) else _absolute(data),
        "backbone": info.name,
        "size": size,
        "weights": weights if weights in ("imagenet", "none") else _absolute(weights),
        "strategy": "scratch" if weights == "none" else options.strategy,
        "device": "cuda" if options.device != "cpu" and cuda else "cpu",
        "labels": _absolute(options.labels) if options.labels else None,
    }
    return FinetuneConfig(**msgspec.structs.asdict(options) | chosen)


def _absolute(path: str) -> str:
    return str(user_path(path).resolve())


@memory_kept()
def _train(
    home: Path,
    config: FinetuneConfig,
    info: BackboneInfo,
    *,
    going_on: bool,
    start: float,
    progress: bool,
) -> RunRecord:
    keep_to_cores()
    timings, kind = dict[str, float](), TASKS.find(config.task)
    reads = kind.reads(config.size, config.fit, config.depth)
    spec = reads.seen(config.crop_pct, info.interpolation)
    bar = partial(progress_bar, show=progress)
    # first: a download that fails should not wait for the photos
    place = find_weights(info, config.weights, bar=partial(bar, unit="bytes"))
    clock = time.perf_counter()
    dataset = load_dataset(
        config.data,
        kind,
        spec,
        home / runs.CACHE / runs.PIXELS,
        labels_csv=config.labels or "",
        seed=config.seed,
        ignore=home,
        bar=bar,
    )
    timings["photos"] = time.perf_counter() - clock
    twin = twin_of(dataset.task)
    model = twin.network(config.backbone, seed=config.seed)
    origin = load_weights(model, info, place)
    skipped = map(skipped_line, dataset.summary.skipped_files)
    for text in (*dataset.summary.warnings, *skipped, *origin.notes):
        log.warning("%s", text)
    record = RunRecord(
        edgetl_run=RUN_VERSION,
        status="running",
        config=config,
        task=dataset.task,
        input=spec,
        normalize=info.normalize,
        data=dataset.summary,
        weights_origin=origin,
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=versions(),
        threads=torch.get_num_threads(),
    )
    if going_on:
        before = runs.read_run(home)
        _check_same(record, before)
        record = msgspec.structs.replace(record, created_utc=before.created_utc)
    runs.write_run(home, record)  # first: it is what makes the folder a run
    write_bytes(home / runs.PHOTOS, photo_lines(dataset.photos))
    of_run = (home, config, spec, dataset, twin, info.normalize, progress, timings)
    context = Context(*of_run, [], held_out(dataset))
    paths = [dataset.root / dataset.photos[i].path for i in dataset.rows("train")]
    context.warn(guidance.framing(paths, spec))
    with named_photos(context):
        return _finish(context, record, _stages(context, model), start=start)


def _check_same(now: RunRecord, before: RunRecord) -> None:
    if now.data.sha256 != before.data.sha256:
        raise DataError(
            f"The photos in {now.data.root} are not those that the run was started with.",
            fix="restore them, or start anew with --overwrite.",
        )
    if now.input != before.input:
        raise DataError(
            f"The run was started with photos read as {before.input}, and now it is {now.input}.",
            fix="start anew with --overwrite.",
        )
    if now.weights_origin.sha256 != before.weights_origin.sha256:
        raise WeightsError(
            "The starting weights are not those that the run was started with.",
            fix="restore them, or start anew with --overwrite.",
        )
    if now.threads != before.threads:
        log.warning(
            "the run was started with %d threads and goes on with %d: results may differ in the "
            "last digits",
            before.threads,
            now.threads,
        )


def _stages(context: Context, model: Network) -> tuple[Network, list[Stage], list[EpochRow]]:
    """Train as the strategy says; the network that is best on validation is returned."""
    strategy = context.config.strategy
    found = None if strategy == "scratch" else fit_probe_stage(context, model)
    if found is None:
        if strategy == "probe":
            raise UsageError(
                f"--task {context.config.task} has no probe.", fix="give --strategy finetune."
            )
        network, stage, history = fit_network(
            context, model, "scratch" if strategy == "scratch" else "finetune"
        )
        return network, [stage], history
    probed, probe_stage, row = found
    if strategy == "probe":
        return probed, [probe_stage], [row]
    if context.config.flip:
        check_mirroring(context, probed)
    tuned, tuned_stage, history = fit_network(context, probed, "finetune")
    stages, rows = [probe_stage, tuned_stage], [row, *history]
    n = len(context.dataset.rows("validation"))
    if context.dataset.task.metrics[0].share:
        context.warn(guidance.far_below(probe_stage, tuned_stage, n, context.config))
    if strategy == "auto" and _shipped(context, stages) is probe_stage:
        log.warning(
            "fine-tuning (%.4f) did not beat the probe (%.4f) on validation: the probe ships",
            tuned_stage.primary,
            probe_stage.primary,
        )
        return probed, stages, rows
    return tuned, stages, rows


def _shipped(context: Context, stages: list[Stage]) -> Stage:
    """Of `auto` the best on validation, the later of equal ones; else the last."""
    if context.config.strategy != "auto":
        return stages[-1]
    rank = context.dataset.task.rank
    return max(reversed(stages), key=lambda stage: rank(stage.metrics, stage.loss))


def _finish(
    context: Context,
    record: RunRecord,
    trained: tuple[Network, list[Stage], list[EpochRow]],
    *,
    start: float,
) -> RunRecord:
    """Score, write the weights and the report, and mark the run as finished, last."""
    model, stages, history = trained
    home, dataset = context.home, context.dataset
    clock = time.perf_counter()
    results: dict[Split, tuple[Evaluation, Outputs]] = {}
    settings: Any = None
    splits: tuple[Split, ...] = ("validation", "test")
    for split in splits:
        if len(dataset.rows(split)):
            held = context.validation if split == "validation" else held_out(dataset, split)
            outputs = held.outputs(model, record.normalize, context.config.device)
            targets = held.targets
            settings = settings or dataset.task.fit(outputs, targets)  # on validation, as export's
            results[split] = dataset.task.evaluate(outputs, targets, settings), outputs
    context.timings["evaluation"] = time.perf_counter() - clock
    scores = {split: evaluation for split, (evaluation, _) in results.items()}
    context.warn(guidance.never_right(scores, dataset.summary.counts["train"]))
    shown: Split = "test" if "test" in results else "validation"
    metadata = {"format": "pt", "edgetl": edgetl.__version__, "backbone": context.config.backbone}
    save_network(model, home / runs.MODEL, metadata)
    write_jsonl(home / runs.METRICS, history)
    mistakes = worst_mistakes(dataset, shown, results[shown][1], settings)
    record = msgspec.structs.replace(
        record,
        status="finished",
        strategy=_shipped(context, stages).name,
        stages=tuple(stages),
        warnings=tuple(context.warnings),
        settings=settings,
        validation=scores["validation"],
        test=scores.get("test"),
        seconds=round(time.perf_counter() - start, 3),
        timings_s={k: round(v, 3) for k, v in context.timings.items()},
    )
    write_run_report(home / runs.REPORT, record, history, mistakes)
    runs.write_run(home, record)
    runs.tidy(home)
    return record


def worst_mistakes(
    dataset: Dataset, split: Split, outputs: Outputs, settings: Any
) -> list[Mistake]:
    """Wrong answers on a split, the surest first, with JPEG thumbnails of what was seen."""
    rows = dataset.rows(split)
    found = []
    for wrong in dataset.task.mistakes(outputs, dataset.targets(rows), settings)[:MISTAKES]:
        image = Image.fromarray(np.asarray(dataset.pixels[rows[wrong.row]]))
        found.append(
            Mistake(
                path=dataset.photos[rows[wrong.row]].path,
                truth=wrong.truth,
                predicted=wrong.predicted,
                probability=wrong.confidence,
                split=split,
                jpeg=thumbnail(image, THUMBNAIL),
            )
        )
    return found


def versions() -> dict[str, str]:
    """Versions of what decides a training's result."""
    return {
        "edgetl": edgetl.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        **({"timm": sys.modules["timm"].__version__} if "timm" in sys.modules else {}),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }
