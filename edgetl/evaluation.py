"""`edgetl evaluate`: a run in PyTorch or a bundle in its engine, on samples of known truth."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgetl.errors import UsageError, missing_extra
from edgetl.files import read_jsonl, user_path
from edgetl.inputs.base import Pixels
from edgetl.runtime.choose import AUTO
from edgetl.runtime.model import load
from edgetl.runtime.scoring import evaluate_samples
from edgetl.spec import Photo, SkippedFile
from edgetl.tasks.base import Evaluation, Outputs, join


def evaluate(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    engine: str = AUTO,
    precision: str = AUTO,
    candidate: str = AUTO,
    advance: Callable[[int], None] = lambda _: None,
    skipped: list[SkippedFile] | None = None,
) -> Evaluation:
    """Score a run folder or a bundle on the test split of `data`, or on all of it.

    `labels` is a CSV as finetune takes it. Unreadable files are added to `skipped`; that a run was
    trained on some of the photos is logged. Raises UsageError, DataError, RunError, BundleError,
    EngineError.
    """
    table = os.fspath(labels) if labels else ""
    if user_path(model).is_dir():
        if not engine == precision == candidate == AUTO:
            raise UsageError(
                f"{model} is a run, which PyTorch runs: it has no engines and candidates.",
                fix="leave --engine, --precision and --candidate away, or give a bundle.",
            )
        scores, left_out = _evaluate_run(user_path(model), data, table, advance)
    else:
        with load(model, engine=engine, precision=precision, candidate=candidate) as opened:

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
        from edgetl.train.restore import load_network, reference_outputs
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
        table=table,
        advance=advance,
        trained_on={p.sha256 for p in photos if p.split != "test"},
    )
