"""Handwritten digits: the 1,797 real ones of 8x8 pixels that scikit-learn brings.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from edgetl.data.samples.base import save_photo
from edgetl.errors import missing_extra

SIZE = 64  # pixels, as Pillow enlarges them


def draw(folder: Path) -> None:
    """FOLDER/<digit>/NNNN.png."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise missing_extra("train", "sample:digits") from error
    digits = load_digits()
    for index, (image, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        grey = Image.fromarray((image * (255 / 16)).round().astype(np.uint8))
        large = grey.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        save_photo(large, folder / str(digit) / f"{index:04d}.png")
