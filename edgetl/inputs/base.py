"""What every kind of input has in common: pixels, and the way back to the photo."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgetl.registry import Registry
from edgetl.spec import Interpolation

Pixels = npt.NDArray[np.uint8]
Points = npt.NDArray[np.floating[Any]]


class Geometry(NamedTuple):
    """Where an input's pixels lie in its photo, upright by EXIF: `photo = input * scale + offset`.

    Points are (x, y) in pixels, (0, 0) being the upper left corner of the upper left pixel.
    """

    scale: tuple[float, float]  # photo pixels per input pixel, in x and y
    offset: tuple[float, float]  # where the input's corner lies in the photo
    size: tuple[int, int]  # width and height of the photo

    def to_photo(self, points: Points) -> Points:
        """Points `(..., 2)` of the input in the photo's own pixels; they may lie outside."""
        return np.asarray(points * np.array(self.scale) + np.array(self.offset))

    def to_input(self, points: Points) -> Points:
        """Points `(..., 2)` of the photo in the input's pixels."""
        return np.asarray((points - np.array(self.offset)) / np.array(self.scale))


class Read(NamedTuple):
    """One image as a network reads it, and what its pixels do not show any more."""

    pixels: Pixels  # (H, W, 3)
    geometry: Geometry
    bits: int  # that the largest sample of a 16-bit or wider file has; 0 for 8-bit images
    stored: tuple[int, int]  # (width, height) in the file


class Input:
    """A kind of input: a frozen struct with a `type` tag, which a run and a bundle store whole.

    A plug-in adds one by the entry point `edgetl.inputs`.
    """

    __slots__ = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of what `read` returns."""
        raise NotImplementedError

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as Pillow wants it."""
        return self.shape[1], self.shape[0]

    def seen(self, crop: float, interpolation: Interpolation) -> Input:  # noqa: ARG002
        """With that share of a photo and that filter; inputs that crop and resize none stay."""
        return self

    def enlarged(self) -> Input:
        """What random crops are taken from in training: more of each photo, where it shows less."""
        return self

    def read(self, source: Any) -> Read:
        """Decode and fit one image; ImageError when it cannot be read."""
        raise NotImplementedError

    def photo(self, source: Any) -> Image.Image:
        """The whole photo in RGB, in whose pixels results are told; ImageError as `read`."""
        return INPUTS.find("image")().photo(source)


INPUTS: Registry[type[Input]] = Registry(
    "input", "edgetl.inputs", {"image": "edgetl.inputs.image:ImageInput"}, Input
)
