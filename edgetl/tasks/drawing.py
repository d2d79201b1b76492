"""Words on a photo."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont


def write_on(image: Image.Image, lines: Sequence[str]) -> Image.Image:
    """A copy of an image in RGB with lines in its upper left corner, as large as there is room."""
    drawn = image.convert("RGB").copy()
    pen, size = ImageDraw.Draw(drawn), max(12, min(drawn.size) // 24)
    while True:
        font, words = _lettering(size, lines)
        low = size * 5 // 4  # from one line to the next
        wide = max((pen.textlength(text, font) for text in words), default=0)
        if size <= 8 or (wide + size <= drawn.width and low * len(words) <= drawn.height):
            break
        size = max(8, size * 9 // 10)
    for line, text in enumerate(words):
        place = size // 2, size // 4 + line * low
        pen.rectangle(pen.textbbox(place, text, font), fill="black", outline="black", width=2)
        pen.text(place, text, "white", font)
    return drawn


def _lettering(size: int, lines: Sequence[str]) -> tuple[Any, list[str]]:
    """A font of that size that is here, and the lines as it can write them.

    Where the system has no DejaVu, Pillow brings ASCII: accents are left out, all else is "?".
    """
    with contextlib.suppress(OSError):
        return ImageFont.truetype("DejaVuSans.ttf", size), list(lines)
    bare = (re.sub(r"[\u0300-\u036f]", "", unicodedata.normalize("NFKD", line)) for line in lines)
    return ImageFont.load_default(size), [t.encode("ascii", "replace").decode() for t in bare]
