"""Tables of backbones and of their weights, for docs.py."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from statistics import mean
from typing import Any

from benchmarks.common import machine_line, read_rows, table
from edgetl.train.backbones import find_backbone, lite

NONE = "Not measured yet.\n"


def measured() -> str:
    """Accuracy, time and size of every backbone whose weights are here."""
    rows = read_rows("backbones")
    if not rows:
        return NONE
    body = []
    last = rows[-1]["machine"]  # times of one machine only
    for name in dict.fromkeys(row["backbone"] for row in rows):
        own = [row for row in rows if row["backbone"] == name]
        kinds = {k: [r for r in own if r["strategy"] == k] for k in ("probe", "finetune", "export")}
        made = kinds["export"]
        body.append(
            [
                name,
                f"{find_backbone(name).parameters / 1e6:.2f}",
                str(find_backbone(name).size),
                *(_spread([r["test"] for r in kinds[k]]) for k in ("probe", "finetune")),
                ", ".join(dict.fromkeys(r["chosen"] for r in made)) or "–",
                _low([r["p50_ms"] for r in made if r["machine"] == last], 2),
                *(_spread([r[k] for r in made if r[k] is not None]) for k in DROPS),
                _low([r["bundle_mib"] for r in made], 1),
            ]
        )
    header = [
        "backbone", "M parameters", "pixels", "probe", "fine-tuned", "chosen", "p50, ms",
        "INT8 drop", "after QAT", "bundle, MiB",
    ]  # fmt: skip
    where = ", ".join(dict.fromkeys(row["machine"].split(" #")[0] for row in rows))
    times = last.split(" #")[0]
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    said = "Test accuracy on clothing: the mean of the seeds, their range, and their number."
    return (
        f"{said}\n\n"
        + table(header, body)
        + f"\nMeasured on {where}, times on {times}; commits {commits}.\n"
    )


DROPS = ("drop_plain", "drop_qat")


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{mean(values):.4f} ({min(values):.4f}…{max(values):.4f}; {len(values)})"


def _low(values: list[float], digits: int) -> str:
    return f"{min(values):.{digits}f}" if values else "–"


def families() -> str:
    """What became of one small member of each family of backbones."""
    rows = read_rows("backbone_contract")
    if not rows:
        return NONE
    body = [[row["family"], row["backbone"], *_became(row)] for row in rows]
    header = ["family", "backbone", "canonical ONNX", "ort-int8", "ov-int8-symmetric", "trt-int8"]
    return table(header, body)


def _became(row: dict[str, Any]) -> list[str]:
    if "refused" in row:
        return [f"refused: {row['refused'].split(' Fix:')[0]}", "–", "–", "–"]
    found = []
    for name in ("ort-int8", "ov-int8-symmetric", "trt-int8-weak"):
        made = row["candidates"].get(name)
        if made is None:
            found.append("–")
        elif made["divergence"] is None:
            found.append(f"refused: {made['refused'].split(':')[0]}")
        else:
            found.append(f"built, {made['divergence']:.4f} nats")
    exact = row["candidates"]["ort-fp32"]["divergence"]
    return [f"opset {row['opset']}, {exact:.0e} nats from torch", *found]


def framing() -> str:
    """The probe by what of a photo the network sees, the lowest log-loss in bold."""
    rows = read_rows("framing")
    if not rows:
        return NONE
    kinds = dict.fromkeys((row["fit"], row["crop"]) for row in rows)
    body = []
    for key in dict.fromkeys((row["data"], row["backbone"]) for row in rows):
        own = [row for row in rows if (row["data"], row["backbone"]) == key]
        best = min(row["log_loss"] for row in own)
        cells = [f"{row['accuracy']:.4f}, {row['log_loss']:.4f}" for row in own]
        marked = [
            f"**{c}**" if row["log_loss"] == best else c for c, row in zip(cells, own, strict=True)
        ]
        body.append([f"{key[0]} ({own[0]['photos']} photos)", key[1], *marked])
    names = [f"`{f}`" + (f" of {c:g}" if f == "crop" else "") for f, c in kinds]
    return table(["photos", "backbone", *names], body) + machine_line(rows)


def kept_epoch() -> str:
    """What each rule that keeps an epoch would have shipped."""
    rows = read_rows("kept_epoch")
    if not rows:
        return NONE
    body = []
    for key in dict.fromkeys((row["backbone"], row["seed"]) for row in rows):
        own = [r for r in rows if (r["backbone"], r["seed"]) == key and r["epoch"]]
        best = max(own, key=lambda row: (row["accuracy"], -row["loss"]))
        error = sqrt(best["accuracy"] * (1 - best["accuracy"]) / best["validation"])
        near = [row for row in own if row["accuracy"] >= best["accuracy"] - error]
        chosen = best, min(own, key=lambda row: row["loss"]), near[-1]
        cells = [f"{row['other_accuracy']:.4f} ({row['epoch']})" for row in chosen]
        body.append([key[0], str(key[1]), str(best["other"]), *cells])
    header = [
        "backbone", "seed", "photos", "highest accuracy", "lowest loss", "latest within an error",
    ]  # fmt: skip
    return table(header, body) + machine_line(rows)


def installed() -> str:
    """The files of weights that install."""
    body = [
        [name, f"`{one.package.replace('_', '-')}` 0.1.0", f"`{one.file}`", f"`{one.sha256}`"]
        for name, one in lite.LITES.items()
    ]
    return table(["backbone", "package", "file", "SHA-256"], body)


GENERATED: dict[str, Callable[[], str]] = {
    "backbones": measured,
    "framing": framing,
    "kept-epoch": kept_epoch,
    "backbone-families": families,
    "installed-weights": installed,
}
