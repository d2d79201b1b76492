"""Stored structs as the rows of --json: metrics stand beside the other keys, by their names."""

from __future__ import annotations

from typing import Any

import msgspec

from edgetl.bundle.manifest import Candidate, Manifest
from edgetl.inputs.base import Input
from edgetl.runs.record import Stage
from edgetl.runtime.compare.comparison import Comparison
from edgetl.tasks.base import Evaluation, Task


def evaluation_row(found: Evaluation | None) -> dict[str, Any] | None:
    """Such as accuracy, macro_f1, n, labels, per_class, confusion."""
    if found is None:
        return None
    row = msgspec.to_builtins(found)
    return {**row.pop("metrics"), **row}


def stage_row(stage: Stage) -> dict[str, Any]:
    """Such as name, accuracy, macro_f1, loss, seconds, details."""
    row = msgspec.to_builtins(stage)
    return {"name": row.pop("name"), **row.pop("metrics"), **row}


def candidate_row(candidate: Candidate, task: Task) -> dict[str, Any]:
    """A candidate, and of each score its value, drop (or rise) and interval under its own name.

    The primary metric's are called reference_NAME, drop and drop_interval. `recipe` is the
    candidate's name, as it was before candidates had variants, and scripts look it up by that.
    """
    row: dict[str, Any] = msgspec.to_builtins(candidate) | {"recipe": candidate.name}
    row |= msgspec.to_builtins(candidate.settings or task.Settings())
    for place, metric in enumerate(task.metrics):
        score = candidate.scores.get(metric.name)
        lost = "rise" if metric.rises else "drop"
        prefix = f"{metric.name}_{lost}" if place else lost
        row[metric.name] = score and score.value
        if not place:
            row[f"reference_{metric.name}"] = score and score.reference
        row[prefix] = score and score.drop
        row[f"{prefix}_interval"] = score and score.interval
    return row


def input_row(found: Input) -> dict[str, Any]:
    """Such as size, height, width, fit; `size` is None where the sides differ."""
    row: dict[str, Any] = msgspec.to_builtins(found)
    height, width, _ = found.shape
    return {"size": height if height == width else None, **row}


def comparison_document(found: Comparison) -> dict[str, Any]:
    """A comparison with each side's input as above."""
    document: dict[str, Any] = msgspec.to_builtins(found)
    for row, side in zip(document["sides"], found.sides, strict=True):
        row["preprocess"] = input_row(side.preprocess)
    return document


def manifest_document(manifest: Manifest) -> dict[str, Any]:
    """A manifest, its candidates as above, and its labels."""
    document: dict[str, Any] = msgspec.to_builtins(manifest)
    rows = [candidate_row(c, manifest.task) for c in manifest.candidates]
    more = {"labels": manifest.task.labels, "preprocess": input_row(manifest.input)}
    return document | more | {"candidates": rows}
