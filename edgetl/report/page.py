"""The report's page: a run's record, history and mistakes put into run.html."""

from __future__ import annotations

from typing import Any

import msgspec

from edgetl.report import Mistake, curves, text
from edgetl.report.matrix import matrix
from edgetl.runs.record import EpochRow, RunRecord
from edgetl.tasks.base import ClassScore, Evaluation

SKIPPED_SHOWN = 50
UNEVEN = 3  # times as many photos, from which on a class's rarity is remarked
SPLITS = ("train", "validation", "test")


def render(record: RunRecord, history: list[EpochRow], mistakes: list[Mistake]) -> str:
    """The whole report as HTML text; every text of users is escaped."""
    tested = record.test is not None
    evaluation, split = (record.test, "test") if tested else (record.validation, "validation")
    worst = sorted(mistakes, key=lambda mistake: -mistake.probability)
    return text.filled(
        "run.html",
        {
            "percent": text.percent,
            "number": text.number,
            "count": text.count,
            "duration": text.duration,
            "share": lambda value: f"{value:.1%}",
        },
        record=record,
        name=text.folder_name(record),
        shipped=text.shipped_name(record),
        metrics=record.task.metrics,
        stage_names=text.STAGES,
        verdict=text.verdict(record),
        stages=[
            (stage, [(key.replace("_", " "), text.detail(v)) for key, v in stage.details.items()])
            for stage in record.stages
        ],
        evaluation=evaluation,
        split=split,
        figures=_figures(record, evaluation, split),
        curves=_curves(record, history),
        matrix=matrix(evaluation, record.task.labels) if evaluation else None,
        classes=_classes(evaluation),
        ranked=any(c.average_precision is not None for c in evaluation.per_class)
        if evaluation
        else False,
        mistakes=[(mistake, text.data_uri(mistake.jpeg)) for mistake in worst],
        mistakes_split=mistakes[0].split if len({m.split for m in mistakes}) == 1 else "",
        no_mistakes=_no_mistakes(evaluation, split),
        counts=_counts(record),
        skipped_shown=SKIPPED_SHOWN,
        configuration=_configuration(record),
    )


def _figures(
    record: RunRecord, evaluation: Evaluation | None, split: str
) -> list[tuple[str, str, str]]:
    """Key figures: name, value, remark."""
    figures: list[tuple[str, str, str]] = []
    if evaluation is not None:
        photos = f"on {text.plural(evaluation.n, f'{split} photo')}"
        for metric in record.task.metrics:
            value = evaluation.metrics.get(metric.name)
            if value is None:
                continue
            remark = photos if not figures else "mean over classes"
            if metric.share and evaluation.n:
                low, high = text.interval(value, evaluation.n)
                remark += f"; 95{text.SPACE}% interval {low * 100:.1f}–{text.percent(high)}"
            shown = text.percent(value) if metric.share else text.number(value)
            figures.append((f"{split} {metric.title}", shown, remark))
    total, photos_of = sum(record.data.photos.values()), record.data.photos
    parts = ", ".join(f"{text.count(photos_of[name])} {name}" for name in _by_split(record))
    classes = text.plural(len(record.task.labels), "class", "classes")
    figures.append(("photos", text.count(total), f"{classes}; {parts}" if parts else classes))
    device = {"cpu": text.plural(record.threads, "CPU thread"), "cuda": "on a CUDA GPU"}
    figures.append(("time", text.duration(record.seconds), device[record.config.device]))
    return figures


def _by_split(record: RunRecord) -> dict[str, dict[str, int]]:
    counts = record.data.counts
    return {split: counts[split] for split in SPLITS if sum(counts.get(split, {}).values())}


def _curves(record: RunRecord, history: list[EpochRow]) -> dict[str, Any]:
    """Both curves and the rows behind them, or the reason why there are none."""
    rows = curves.trained_rows(history)
    if len(rows) > 1:
        metric = record.task.metrics[0]
        probe = next((stage.primary for stage in record.stages if stage.name == "probe"), None)
        kept = [stage.details.get("epoch kept") for stage in record.stages][-1:]
        return {
            "figures": [
                (curves.loss_svg(rows), _caption("Loss", rows)),
                (
                    curves.metric_svg(rows, metric, probe),
                    _caption(f"Validation {metric.title}", rows),
                ),
            ],
            "rows": rows,
            "kept": kept[0] if kept else None,
            "reason": "",
        }
    if rows:
        reason = "One epoch was trained: a curve needs at least two. Its figures:"
    elif history or any(stage.name == "probe" for stage in record.stages):
        reason = (
            "No curves: the probe fits one linear layer on fixed features in a single step, "
            "so there are no epochs to draw."
        )
    else:
        reason = "No curves: no epoch was recorded."
    return {"figures": [], "rows": rows, "kept": None, "reason": reason}


def _caption(what: str, rows: list[EpochRow]) -> str:
    """What the curve says, for those who do not see it."""
    first, last = rows[0], rows[-1]
    if what == "Loss":
        return (
            f"Loss over epochs {first.epoch} to {last.epoch}: training from "
            f"{text.number(first.loss)} to {text.number(last.loss)}, validation from "
            f"{text.number(first.validation_loss)} to {text.number(last.validation_loss)}."
        )
    return (
        f"{what} over epochs {first.epoch} to {last.epoch}: from "
        f"{text.percent(next(iter(first.metrics.values())))} to "
        f"{text.percent(next(iter(last.metrics.values())))}."
    )


def _classes(evaluation: Evaluation | None) -> list[tuple[ClassScore, str]]:
    """Classes by rising F1 with a mark where one is due; those without photos come last."""
    if evaluation is None:
        return []
    scores = sorted(evaluation.per_class, key=lambda score: (not score.n, score.f1, score.label))
    seen = [score.f1 for score in scores if score.n]
    lowest = seen[0] if seen and seen[0] < seen[-1] else None
    marks = {score.label: "lowest F1" for score in scores if score.n and score.f1 == lowest}
    marks |= dict.fromkeys(evaluation.never_predicted(), "never predicted")
    return [(score, marks.get(score.label, "")) for score in scores]


def _no_mistakes(evaluation: Evaluation | None, split: str) -> str:
    """What stands where the pictures would, when there are none."""
    if evaluation is None:
        return "Nothing was evaluated, so no mistakes are known."
    wrong = evaluation.n - sum(row[truth] for truth, row in enumerate(evaluation.confusion))
    if evaluation.confusion and not wrong:
        photos = text.plural(evaluation.n, f"{split} photo")
        return f"None: every one of the {photos} was classified correctly."
    return "No pictures of mistakes were kept."


def _counts(record: RunRecord) -> dict[str, Any]:
    """Photos by class and split, with totals, and each class's share of training, 0…1."""
    by_split = _by_split(record)
    train = by_split.get("train", {})
    rows = []
    for label in record.data.labels:
        cells = [labels.get(label, 0) for labels in by_split.values()]
        share = train.get(label, 0) / max(1, record.data.photos.get("train", 0))
        rows.append((label, cells, sum(cells), share))
    totals = [record.data.photos[split] for split in by_split]
    return {
        "splits": list(by_split),
        "rows": rows,
        "totals": totals,
        "total": sum(totals),
        "balance": _balance(train),
    }


def _balance(train: dict[str, int]) -> str:
    """How even the classes are in training, in a sentence or two."""
    if not train:
        return ""
    few, most = (pick(train, key=lambda label: train[label]) for pick in (min, max))
    if train[few] == train[most]:
        return f"Class balance in training: {text.plural(train[few], 'photo')} of every class."
    ratio = train[most] / max(1, train[few])
    said = (
        f"Class balance in training: from {text.plural(train[few], 'photo')} of “{few}” to "
        f"{text.count(train[most])} of “{most}”, 1 to {ratio:.3g}."
    )
    if ratio >= UNEVEN:
        said += " Accuracy is mostly about the large classes; macro-F1 counts every class alike."
    return said


def _epochs(record: RunRecord) -> str:
    """The option --epochs; where it was left open, how many were planned."""
    if record.config.epochs:
        return text.detail(record.config.epochs)
    planned = [stage.details["epochs"] for stage in record.stages if "epochs" in stage.details]
    return f"automatic, {text.detail(planned[-1])}" if planned else "automatic"


def _configuration(record: RunRecord) -> list[tuple[str, list[tuple[str, str]]]]:
    """Tables of names and values: options, images, weights, data, timings, versions."""
    config, origin = record.config, record.weights_origin
    images = msgspec.to_builtins(record.input)
    options = [
        (key, _epochs(record) if key == "epochs" else text.detail(getattr(config, key)))
        for key in config.__struct_fields__
    ]
    groups = [
        ("Options", options),
        (
            "Images",
            [
                *((key, text.detail(value)) for key, value in images.items()),
                ("mean", text.detail(record.normalize.mean)),
                ("deviation", text.detail(record.normalize.std)),
            ],
        ),
        (
            "Starting weights",
            [
                ("source", text.detail(origin.source)),
                ("licence", text.detail(origin.licence)),
                ("SHA-256", text.detail(origin.sha256)),
                *(("note", note) for note in origin.notes),
            ],
        ),
        (
            "Data",
            [
                ("folder", record.data.root),
                ("split by", record.data.split_by),
                ("SHA-256 of data.jsonl", record.data.sha256),
            ],
        ),
        ("Time", [(key, text.duration(value)) for key, value in record.timings_s.items()]),
        (
            "Versions",
            [*record.versions.items(), ("run format", text.detail(record.edgetl_run))],
        ),
    ]
    return [(title, rows) for title, rows in groups if rows]
