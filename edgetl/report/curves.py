"""Training curves as inline SVG whose colours follow the page's theme."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from edgetl.report.text import percent
from edgetl.runs.record import EpochRow
from edgetl.tasks.base import Metric

# Colours that stand for the page's variables: matplotlib draws with the left ones, and the
# finished SVG refers to the right ones, so that light and dark mode need no second drawing.
INK, MUTED, GRID, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
THEME = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    FIRST: "var(--series-1)",
    SECOND: "var(--series-2)",
}
WIDTH_IN, HEIGHT_IN = 5.2, 3.1
RC = {"svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 10}


def trained_rows(history: list[EpochRow]) -> list[EpochRow]:
    """Rows of the stage that trains by epochs, by rising epoch; a repeated epoch counts once."""
    rows = [row for row in history if row.stage != "probe"]
    last = {row.epoch: row for row in rows if row.stage == rows[-1].stage}
    return [last[epoch] for epoch in sorted(last)]


def loss_svg(rows: list[EpochRow]) -> Markup:
    """Loss on training and validation photos against epoch."""
    figure, axes = _axes("Loss")
    epochs = [row.epoch for row in rows]
    _line(axes, epochs, [row.loss for row in rows], FIRST, "training")
    _line(axes, epochs, [row.validation_loss for row in rows], SECOND, "validation")
    return _svg(figure, axes, "loss")


def metric_svg(rows: list[EpochRow], metric: Metric, probe: float | None) -> Markup:
    """The primary metric on validation against epoch, the probe's (0…1) as a dashed line."""
    figure, axes = _axes(f"Validation {metric.title}")
    values = [row.metrics[metric.name] for row in rows]
    _line(axes, [row.epoch for row in rows], values, FIRST, "by epoch")
    if probe is not None:
        axes.axhline(
            probe,
            color=MUTED,
            linestyle=(0, (5, 3)),
            linewidth=1.4,
            label=f"probe, {percent(probe)}",
        )
    low, high = axes.get_ylim()
    room = max(0.0, 0.04 - (high - low)) / 2  # a flat curve must not look like a mountain range
    axes.set_ylim(max(low - room, -0.02), min(high + room, 1.02))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, "g")))
    return _svg(figure, axes, metric.name)


def _axes(title: str) -> tuple[Any, Any]:
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
        axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=24)
    axes.set_xlabel("epoch", color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.tick_params(colors=MUTED, length=0, labelsize=9.5)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    return figure, axes


def _line(axes: Any, epochs: list[int], values: list[float], color: str, label: str) -> None:
    marker = {FIRST: "o", SECOND: "s"}[color] if len(epochs) <= 40 else ""
    axes.plot(epochs, values, color=color, linewidth=2, marker=marker, markersize=4, label=label)


def _svg(figure: Any, axes: Any, name: str) -> Markup:
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 0.985), ncols=2, frameon=False,
        labelcolor=INK, fontsize=9.5, borderaxespad=0, handlelength=2.2, columnspacing=1.6,
    )  # fmt: skip
    target = io.StringIO()
    with matplotlib.rc_context({**RC, "svg.hashsalt": name}):
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(target, format="svg", transparent=True, metadata=metadata)
    return Markup(_for_page(target.getvalue(), name))


def _for_page(svg: str, name: str) -> str:
    """The `<svg>` element alone: no prologue, own ids, the page's fonts and colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', svg)
    size = view.group(0) if view else ""
    svg = re.sub(r"<svg[^>]*>", f'<svg {size} aria-hidden="true" focusable="false">', svg, count=1)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]+", r"\1 var(--font)", svg)
    for color, variable in THEME.items():
        svg = svg.replace(color, variable)
    return re.sub(r"\n\s*", "\n", svg)
