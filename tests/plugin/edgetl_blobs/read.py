"""The input: a whole photo in grey, letterboxed."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgetl.inputs.base import Input, Read
from edgetl.inputs.image import sized
from edgetl.spec import Record


class Grey(Record, Input, frozen=True, kw_only=True, tag="grey"):
    """As edgetl's own input reads a photo by `pad`, without its colours."""

    side: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """A square; networks read three channels, here of equal values."""
        return self.side, self.side, 3

    def read(self, source: Any) -> Read:
        """The geometry stays that of the letterboxed photo."""
        found = sized(self.side, "pad").read(source)
        grey = found.pixels.mean(axis=2, keepdims=True).round().astype(np.uint8)
        return found._replace(pixels=grey.repeat(3, axis=2))

    def __str__(self) -> str:
        return f"{self.side} px in grey"
