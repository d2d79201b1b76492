"""The README's plot: accuracy against time of every candidate of the fine-tuned run.

`python -m benchmarks.docs` draws it. The file names the hash of what it shows and of this module,
so that a check needs no drawing, whose bytes depend on matplotlib's version.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.common import ROOT, read_rows

PATH = ROOT / "docs" / "images" / "candidates.svg"
COLOURS = {"onnxruntime": "#c2570c", "openvino": "#1d5fa8"}
ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
MARKS = {"FP32": "o", "INT8": "s", "INT8, trained for it": "D", "INT8, partly float": "^"}
GREY, INK = "#6b7280", "#1f2937"
NEAR = 0.03  # candidates share a text where times differ by less than this share


def shown() -> list[dict[str, Any]]:
    """Candidates that were measured and scored on the test photos."""
    keys = ("recipe", "engine", "precision", "p50_ms", "test_accuracy", "test_n", "chosen")
    return [
        {key: row[key] for key in keys}
        for row in read_rows("export_search")
        if (row["part"], row["row"]) == ("clothing", "candidate")
        and row["p50_ms"] is not None
        and row.get("test_accuracy") is not None
    ]


def mark() -> str:
    """What a file that is up to date holds."""
    data = msgspec.json.encode(shown()) + Path(__file__).read_bytes()
    return f"data-sha256:{hashlib.sha256(data).hexdigest()}"


def is_current() -> bool:
    """Whether the drawn file shows today's rows."""
    return PATH.is_file() and mark() in PATH.read_text("utf-8")


def draw(path: Path = PATH) -> None:
    """Draw it, as what the suffix says."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows = shown()
    chosen = next(row for row in rows if row["chosen"])
    mpl.rcParams |= {"svg.hashsalt": "edgetl", "font.size": 10, "text.color": INK}
    figure = Figure(figsize=(8, 4.4), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for row in rows:
        axes.plot(
            row["p50_ms"],
            100 * row["test_accuracy"],
            MARKS[kind(row)],
            color=COLOURS[row["engine"]],
            markersize=8,
            markeredgecolor="white",
            clip_on=False,
            zorder=3,
        )
    place = chosen["p50_ms"], 100 * chosen["test_accuracy"]
    axes.plot(*place, "o", markersize=17, markerfacecolor="none", markeredgecolor=INK, zorder=2)
    for group in groups(rows):
        first, last = group[0], group[-1]
        left = crowded(last, rows)  # which side of the marks is free
        axes.annotate(
            "\n".join(row["recipe"] + " (chosen)" * row["chosen"] for row in group),
            ((first if left else last)["p50_ms"], 100 * first["test_accuracy"]),
            (-12 if left else 12, 0),
            textcoords="offset points",
            va="center",
            ha="right" if left else "left",
            fontsize=9,
            linespacing=1.3,
        )
    photos = chosen["test_n"]
    axes.set_xlabel("time of one image in the engine, p50, ms (lower is better)")
    axes.set_ylabel("accuracy on test photos, %")
    axes.set_title(
        f"One fine-tuned MobileNetV2, {len(rows)} measured candidates, {photos} test photos: "
        f"one photo is {100 / photos:.2f} points",
        fontsize=10,
        loc="left",
        color=GREY,
    )
    axes.set_xlim(left=0, right=1.02 * max(row["p50_ms"] for row in rows))
    axes.margins(y=0.16)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    engines = dict.fromkeys(row["engine"] for row in rows)
    axes.legend(
        handles=[
            *(Patch(color=COLOURS[engine], label=ENGINES[engine]) for engine in engines),
            *(Line2D([], [], marker=m, ls="", c=GREY, label=k) for k, m in MARKS.items()),
        ],
        loc=(0.64, 0.02),
        frameon=False,
        fontsize=9,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"Date": None, "Description": mark()} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=about, dpi=110)


def kind(row: dict[str, Any]) -> str:
    """What its mark stands for."""
    if row["precision"] != "int8":
        return "FP32"
    if "-mixed" in row["recipe"]:
        return "INT8, partly float"
    return "INT8, trained for it" if row["recipe"].endswith("-qat") else "INT8"


def crowded(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether a text to the right of it would meet another mark, or the plot's end."""
    end = max(other["p50_ms"] for other in rows)
    near = [
        other["p50_ms"] - row["p50_ms"]
        for other in rows
        if other["test_accuracy"] == row["test_accuracy"]
    ]
    return row["p50_ms"] > 0.85 * end or any(0 < gap < 0.2 * end for gap in near)


def groups(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Candidates of equal accuracy and nearly equal time, which share one text."""
    found: list[list[dict[str, Any]]] = []
    for row in sorted(rows, key=lambda row: (row["test_accuracy"], row["p50_ms"])):
        last = found[-1][-1] if found else None
        if (
            last is not None
            and last["test_accuracy"] == row["test_accuracy"]
            and row["p50_ms"] < (1 + NEAR) * last["p50_ms"]
        ):
            found[-1].append(row)
        else:
            found.append([row])
    return found
