"""What all samples share."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def save_photo(photo: Image.Image, path: Path) -> None:
    """Write one photo; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    photo.save(path, quality=90)  # of a JPEG; others know no such thing
