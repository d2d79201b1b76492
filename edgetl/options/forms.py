"""Options that have a text form of their own: what stands on a command line, and what it means."""

from __future__ import annotations

import re

from edgetl.errors import UsageError
from edgetl.spec import Size

Colours = tuple[float, float, float]


def seconds(flag: str, text: str) -> float:
    """Seconds of a time such as 90s, 10m or 1h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found:
        raise UsageError(f"{flag} {text} is not a time.", fix="give one such as 90s, 10m or 1h.")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def colours(flag: str, text: str) -> Colours:
    """Three numbers, or one for all three."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise UsageError(f"{flag} {text} is not one number or three.", fix="give R,G,B.")
    return values[0], values[1], values[2]


def sides(flag: str, text: str) -> Size:
    """Pixels a side, or height and width."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    if not found:
        raise UsageError(f"{flag} {text} is not a size.", fix="give 224, or 192x320: height first.")
    height, width = int(found[1]), int(found[2] or found[1])
    return height if height == width else (height, width)
