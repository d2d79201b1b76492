"""Score a bundle, or anything else that gives logits, on labelled photos."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from edgetl.data.checks import check_bad
from edgetl.data.found import Scan, data_folder
from edgetl.data.ingest import look_all
from edgetl.data.names import nfc
from edgetl.data.scan import scan
from edgetl.errors import DataError
from edgetl.inputs.image import Pixels
from edgetl.metrics import Logits, evaluate_logits
from edgetl.spec import Evaluation, Preprocess, SkippedFile

log = logging.getLogger("edgetl")

BLOCK = 64


def labelled_photos(data: str | os.PathLike[str], labels: tuple[str, ...]) -> tuple[Path, Scan]:
    """The test split of a data folder if it has one, else every photo; warnings are logged."""
    root = data_folder(data)
    known = tuple(nfc(label) for label in labels)
    found = scan(root, need_train=False, only="test", known=known)
    for text in found.warnings:
        log.warning("%s", text)
    unknown = sorted({item.label for item in found.photos} - set(known))
    if unknown:
        raise DataError(
            f"The model does not know class {', '.join(unknown)} of {root}.",
            fix=f"its classes are {', '.join(labels)}; rename or remove the folders.",
        )
    return root, found


def evaluate_photos(
    data: str | os.PathLike[str],
    labels: tuple[str, ...],
    spec: Preprocess,
    run: Callable[[Pixels], Logits],
    *,
    advance: Callable[[int], None] = lambda _: None,
    trained_on: Collection[str] = (),
) -> tuple[Evaluation, list[SkippedFile]]:
    """Score `run`, which gives logits `(N, classes)` of images `(N, size, size, 3)`.

    `trained_on` are the SHA-256 of photos that training or its choices saw; how many of them are
    scored is logged.
    """
    root, scanned = labelled_photos(data, labels)
    found = scanned.photos
    column = {nfc(label): i for i, label in enumerate(labels)}
    logits: list[Logits] = []
    truth: list[int] = []
    skipped: list[SkippedFile] = []
    known = 0
    waiting: list[Pixels] = []
    for item, seen in zip(found, look_all([root / f.path for f in found], spec), strict=True):
        advance(1)
        if seen.pixels is None:
            skipped.append(SkippedFile(path=item.path, reason=seen.error))
            continue
        known += seen.sha256 in trained_on
        truth.append(column[item.label])
        waiting.append(seen.pixels)
        if len(waiting) == BLOCK:
            logits.append(run(np.stack(waiting)))
            waiting.clear()
    if waiting:
        logits.append(run(np.stack(waiting)))
    check_bad(skipped, len(found), root)
    if known:
        log.warning(
            "%d of the %d photos are among those that the model was trained and chosen on: these "
            "scores say little about new photos",
            known,
            len(truth),
        )
    return evaluate_logits(np.concatenate(logits), np.array(truth, np.int64), labels), [
        *skipped,
        *scanned.skipped,
    ]
