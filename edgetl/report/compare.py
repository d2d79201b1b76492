"""The page of a comparison: figures, where answers moved, and thumbnails of the worst images."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path, PurePath

from PIL import Image

from edgetl.errors import ImageError
from edgetl.files import write_bytes
from edgetl.inputs.base import Input
from edgetl.report import text, thumbnail
from edgetl.runtime.compare.comparison import ComparedImage, Comparison, Pair

THUMBNAIL = 224


def write_comparison(path: Path, found: Comparison) -> None:
    """Write a comparison as one HTML file that needs nothing else, whole or not at all.

    The images are read again for their thumbnails, by each preprocessing that was compared.
    """
    write_bytes(path, render(found).encode("utf-8", "replace"))


def render(found: Comparison) -> str:
    """The page as HTML text; every text of users is escaped."""
    specs = list(dict.fromkeys(side.preprocess for side in found.sides))
    return text.filled(
        "compare.html",
        {
            "percent": lambda value: text.NONE if value is None else text.percent(value, ".2f"),
            "number": lambda value: text.NONE if value is None else f"{value:.4f}",
            "count": text.count,
        },
        found=found,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        bundles=list(dict.fromkeys(PurePath(side.bundle).name for side in found.sides)),
        figures=_figures(found),
        several=len(specs) > 1,
        pairs=[(pair, _interval(pair)) for pair in found.pairs],
        images=[
            (image, place, [_thumbnail(image, spec) for spec in specs])
            for image, place in zip(found.images, _places(found), strict=True)
        ],
        differing=sum(not image.agree for image in found.images),
    )


def _figures(found: Comparison) -> list[tuple[str, str, str]]:
    """Key figures: name, value, remark."""
    images = text.plural(found.n, "image")
    worst = min(found.pairs, key=lambda pair: pair.agreement)
    low, high = text.interval(worst.agreement, found.n)
    remark = f"of {images}; 95{text.SPACE}% interval {low * 100:.1f}–{text.percent(high)}"
    named = "" if len(found.pairs) == 1 else f", lowest: {worst.other}"
    figures = [(f"same answer{named}", text.percent(worst.agreement), remark)]
    if found.known:
        scores = [f"{100 * (side.accuracy or 0.0):.1f}" for side in found.sides]
        value, order = " · ".join(scores), "in the candidates’ order"
        if len(scores) > 2:
            value, order = "–".join((min(scores, key=float), max(scores, key=float))), "all of them"
        known = f"{order}, on {text.plural(found.known, 'image')} of known class"
        figures.append((f"score: {found.metric} in %", value, known))
    apart = [pair.probability_max for pair in found.pairs if pair.probability_max is not None]
    if apart:
        figures.append(("largest change of a probability", f"{max(apart):.3f}", "of 0…1"))
    kl = [pair.kl_mean for pair in found.pairs if pair.kl_mean is not None]
    if kl:
        figures.append(("KL divergence", f"{max(kl):.4f}", "mean over images, in nats"))
    return figures


def _interval(pair: Pair) -> str:
    """The accuracy drop in points, with its interval."""
    if pair.drop is None or pair.drop_interval is None:
        return text.NONE
    low, high = (100 * bound for bound in pair.drop_interval)
    return f"{100 * pair.drop:.2f} ({low:.2f} … {high:.2f})"


def _places(found: Comparison) -> list[str]:
    """The images' paths without the folders that all have in common."""
    paths = [os.path.abspath(image.image) for image in found.images]  # noqa: PTH100
    try:
        common = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    except ValueError:  # none, or on several drives
        return [image.image for image in found.images]
    return [PurePath(path).relative_to(common).as_posix() for path in paths]


def _thumbnail(image: ComparedImage, spec: Input) -> str:
    """The image as a candidate saw it, as a data URI; "" when it cannot be read any more."""
    try:
        seen = spec.read(image.image).pixels
    except ImageError:
        return ""
    shown = seen[..., ::-1] if getattr(spec, "order", "rgb") == "bgr" else seen
    return text.data_uri(thumbnail(Image.fromarray(shown), THUMBNAIL))
