"""Numbers and names as the reports print them, and templates filled with them."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edgetl.files import encode_json
from edgetl.runs.record import RunRecord, Stage

HERE = Path(__file__).parent
SPACE = "\N{NO-BREAK SPACE}"
NONE = "–"
STAGES = {"probe": "Probe", "finetune": "Fine-tuning", "scratch": "From scratch"}


def filled(template: str, filters: dict[str, Callable[..., str]], **values: Any) -> str:
    """A template of this folder as HTML text; every text of users is escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    css = Markup((HERE / "report.css").read_text("utf-8"))
    return environment.get_template(template).render(css=css, **values)


def percent(value: float, style: str = ".1f") -> str:
    """A fraction 0…1 as percent with one digit after the point, or in another `style`."""
    return f"{round(value * 100, 6):{style}}{SPACE}%" if math.isfinite(value) else NONE


def number(value: float, style: str = ".3f") -> str:
    """A number in `style`, a dash where it is not finite."""
    return f"{value:{style}}" if math.isfinite(value) else NONE


def count(value: int) -> str:
    """A whole number with thousands apart."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def duration(seconds: float) -> str:
    """Seconds as the two largest units that matter."""
    if not math.isfinite(seconds):
        return NONE
    if seconds < 59.5:
        return f"{seconds:.1f}{SPACE}s" if seconds < 9.95 else f"{seconds:.0f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"


def plural(value: int, one: str, many: str = "") -> str:
    """A count with its noun."""
    return f"{count(value)}{SPACE}{one if value == 1 else many or one + 's'}"


def detail(value: Any) -> str:
    """Any plain value on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(detail(item) for item in value) or NONE
    if isinstance(value, dict):
        return encode_json(value).decode()
    return NONE if value is None or value == "" else str(value)


def folder_name(record: RunRecord) -> str:
    """Name of the data folder, without the way to it."""
    root = record.data.root or record.config.data
    return PurePath(root).name or root


def shipped_name(record: RunRecord) -> str:
    """What ships, strategy and backbone."""
    backbone = record.config.backbone
    return {
        "probe": f"probe on {backbone}",
        "finetune": f"fine-tuned {backbone}",
        "scratch": f"{backbone}, trained from scratch",
    }.get(record.strategy, f"{backbone}, unfinished run")


def verdict(record: RunRecord) -> str:
    """Which stage ships and why, in a sentence or two."""
    stages = {stage.name: stage for stage in record.stages}
    probe, tuned = stages.get("probe"), stages.get("finetune")
    if not record.strategy:
        return "Nothing ships yet: the run is not finished."
    if record.strategy == "scratch":
        return (
            "The network trained from scratch ships; there are no pretrained weights "
            "under it, so there is no probe to compare it with."
        )
    name = {"probe": "probe", "finetune": "fine-tuned network"}.get(record.strategy, "model")
    if probe is None or tuned is None:
        why = f"strategy “{record.config.strategy}”"
        return f"The {name} ships: no other stage was trained ({why})."
    return f"The {name} ships{_comparison(record, probe, tuned)}"


def _comparison(record: RunRecord, probe: Stage, tuned: Stage) -> str:
    """Figures of both stages, with the reason that they give for what ships, if they do."""
    strategy, gain = record.strategy, tuned.primary - probe.primary
    why = "; on validation"
    if strategy == "probe" and gain <= 0:
        why = ", because fine-tuning did not beat it on validation"
    elif strategy == "finetune" and gain > 0:
        why = ", because it beats the probe on validation"
    first, *others = [m for m in record.task.metrics if m.name in tuned.metrics]
    shown = percent if first.share else number
    text = (
        f"{why}: {first.title} {shown(tuned.primary)} after fine-tuning and "
        f"{shown(probe.primary)} with the probe"
    )
    for metric in others:
        after, before = tuned.metrics[metric.name], probe.metrics[metric.name]
        text += f", {metric.title} {number(after)} and {number(before)}"
    text += "."
    if strategy == "probe" or gain >= 0:
        text += " What ships is never worse than the probe on validation."
    return text


def data_uri(jpeg: bytes) -> str:
    """A JPEG as the page holds it; "" for none."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" if jpeg else ""


def interval(accuracy: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share `accuracy` (0…1) seen on `n` photos."""
    z = 1.959964
    centre = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    spread = z * math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - spread), min(1.0, centre + spread)
