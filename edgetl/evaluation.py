"""`edgetl evaluate`: a run in PyTorch or a bundle in its engine, on samples of known truth."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgetl.data.checks import check_bad
from edgetl.data.found import Found, Scan, data_folder
from edgetl.data.ingest import look_all
from edgetl.data.names import nfc
from edgetl.errors import UsageError, missing_extra
from edgetl.files import read_jsonl, user_path
from edgetl.inputs.base import Geometry, Input, Pixels
from edgetl.options import EvaluateOptions, LoadOptions, fields, takes
from edgetl.runtime.model import load
from edgetl.spec import Photo, SkippedFile
from edgetl.tasks.base import Evaluation, Outputs, Task, check_known, join

log = logging.getLogger("edgetl")

BLOCK = 64


@takes(EvaluateOptions)
def evaluate(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    advance: Callable[[int], None] = lambda _: None,
    skipped: list[SkippedFile] | None = None,
    options: EvaluateOptions | None = None,
    **changes: Any,
) -> Evaluation:
    """Score a run folder or a bundle on the test split of `data`, or on all of it.

    Unreadable files are added to `skipped`; that a run was trained on some of the photos is logged.
    Raises UsageError, DataError, RunError, BundleError, EngineError.
    """
    asked = EvaluateOptions.of(options, changes)
    table = asked.labels or ""
    if user_path(model).is_dir():
        if any(getattr(asked, field.name) != field.default for field in fields(LoadOptions)):
            raise UsageError(
                f"{model} is a run, which PyTorch runs: it has no engines and candidates.",
                fix="leave --engine, --precision, --candidate, --threads away, or give a bundle.",
            )
        scores, left_out = _evaluate_run(user_path(model), data, table, advance)
    else:
        with load(model, options=asked) as opened:

            def one_by_one(images: Pixels) -> Outputs:
                return join([opened.run(images[i : i + 1]) for i in range(len(images))])

            scores, left_out = evaluate_samples(
                data,
                opened.task,
                opened.input,
                one_by_one,
                settings=opened.candidate.settings,
                table=table,
                advance=advance,
            )
    if skipped is not None:
        skipped += left_out
    return scores


def _evaluate_run(
    run: Path, data: str | os.PathLike[str], table: str, advance: Callable[[int], None]
) -> tuple[Evaluation, list[SkippedFile]]:
    try:
        from edgetl.runs.folder import PHOTOS, finished_run
        from edgetl.train.infer import load_network, reference_outputs
    except ModuleNotFoundError as error:
        raise missing_extra("train", "Evaluating a run") from error
    record = finished_run(run)
    network = load_network(run, record)
    photos: list[Photo] = []
    with contextlib.suppress(OSError, msgspec.MsgspecError):  # only to warn; export insists on it
        photos = read_jsonl(run / PHOTOS, Photo)
    return evaluate_samples(
        data,
        record.task,
        record.input,
        lambda images: reference_outputs(network, record, images),
        settings=record.settings,
        table=table,
        advance=advance,
        trained_on={p.sha256 for p in photos if p.split != "test"},
    )


def labelled_samples(data: str | os.PathLike[str], task: Task, table: str) -> tuple[Path, Scan]:
    """The test split of a data folder if it has one, else everything; warnings are logged."""
    root = data_folder(data)
    known = tuple(nfc(label) for label in task.labels)
    found = task.scan(root, table, need_train=False, only="test", known=known)
    for text in found.warnings:
        log.warning("%s", text)
    tested = tuple(item for item in found.photos if item.split == "test")
    if tested:
        found = msgspec.structs.replace(found, photos=tested)
    check_known(
        task,
        found.photos,
        str(root),
        "correct the table." if table else "rename or remove the folders.",
    )
    return root, found


def evaluate_samples(
    data: str | os.PathLike[str],
    task: Task,
    spec: Input,
    run: Callable[[Pixels], Outputs],
    *,
    settings: Any = None,
    table: str = "",
    advance: Callable[[int], None] = lambda _: None,
    trained_on: Collection[str] = (),
) -> tuple[Evaluation, list[SkippedFile]]:
    """Score `run`, which gives the task's outputs of images `(N, H, W, 3)`.

    `settings` are the candidate's, `table` is a CSV of what is true. `trained_on` are the SHA-256
    of samples that training or its choices saw; how many of them are scored is logged.
    """
    root, scanned = labelled_samples(data, task, table)
    found = scanned.photos
    outputs: list[Outputs] = []
    read: list[Found] = []
    geometries: list[Geometry] = []
    skipped: list[SkippedFile] = []
    known = 0
    waiting: list[Pixels] = []
    for item, seen in zip(found, look_all([root / f.path for f in found], spec), strict=True):
        advance(1)
        if seen.pixels is None or seen.geometry is None:
            skipped.append(SkippedFile(path=item.path, reason=seen.error))
            continue
        known += seen.sha256 in trained_on
        read.append(item)
        geometries.append(seen.geometry)
        waiting.append(seen.pixels)
        if len(waiting) == BLOCK:
            outputs.append(run(np.stack(waiting)))
            waiting.clear()
    if waiting:
        outputs.append(run(np.stack(waiting)))
    check_bad(skipped, len(found), root)
    if known:
        log.warning(
            "%d of the %d photos are among those that the model was trained and chosen on: these "
            "scores say little about new photos",
            known,
            len(read),
        )
    scores = task.evaluate(join(outputs), task.targets(read, geometries), settings)
    return scores, [*skipped, *scanned.skipped]
