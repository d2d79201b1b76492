"""Photos of single blood cells in class folders, cut from BCCD's annotated smears (MIT licence)."""

from __future__ import annotations

import random
import shutil
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

from PIL import Image

SIZE = 112
MOST = 600  # of a class; there are ten times as many red cells as others
MARGIN = 1.2  # of the box
SPLITS = ("train", "train", "train", "validation", "test")
SIDES = ("xmin", "ymin", "xmax", "ymax")


def crops(source: Path, folder: Path) -> None:
    """Write `folder`/SPLIT/CLASS/NUMBER.jpg, unless it is there; a smear is on one side only."""
    if folder.is_dir():
        return
    made = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    root = next(path.parent for path in sorted(source.rglob("Annotations")))
    found: dict[str, list[tuple[Path, list[int]]]] = {}
    for annotation in sorted((root / "Annotations").glob("*.xml")):
        photo = root / "JPEGImages" / f"{annotation.stem}.jpg"
        for item in ET.parse(annotation).iter("object"):
            ends = [
                int(item.findtext(f"bndbox/{k}", "0")) for k in ("xmin", "ymin", "xmax", "ymax")
            ]
            if photo.is_file() and min(ends[2] - ends[0], ends[3] - ends[1]) > 8:
                found.setdefault(item.findtext("name", ""), []).append((photo, ends))
    choose = random.Random(0)
    for name, items in sorted(found.items()):
        choose.shuffle(items)
        for number, (photo, ends) in enumerate(items[:MOST]):
            home = made / SPLITS[zlib.crc32(photo.stem.encode()) % len(SPLITS)] / name
            home.mkdir(parents=True, exist_ok=True)
            _cut(photo, ends).save(home / f"{number:04d}.jpg", quality=92)
    made.rename(folder)


def _cut(photo: Path, ends: list[int]) -> Image.Image:
    left, top, right, bottom = ends
    half = MARGIN * max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    with Image.open(photo) as opened:
        image = opened.convert("RGB")
    box = (
        int(max(0, x - half)),
        int(max(0, y - half)),
        int(min(image.width, x + half)),
        int(min(image.height, y + half)),
    )
    return image.crop(box).resize((SIZE, SIZE))
