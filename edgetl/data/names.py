"""What names of folders, classes and splits mean."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from edgetl.spec import Split

_SPLITS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trn"),
    "validation": (
        "validation", "validate", "validating", "valid", "val", "dev", "develop", "development",
        "eval", "evaluation",
    ),
    "test": ("test", "testing", "tst"),
}  # fmt: skip
_MEANT: dict[str, Split] = {word: split for split, words in _SPLITS.items() for word in words}
# Words beside the split's own that say nothing more: "train_set", "Test Images", "train2017".
_FILLERS = re.compile(
    r"(data|set|dataset|split|folder|subset|images?|imgs?|photos?|pictures?|samples|(19|20)\d\d)"
)
# Folders of these names side by side are pictures and what is drawn on them, not classes.
_PICTURES = frozenset(
    {"images", "image", "imgs", "img", "jpegimages", "photos", "photo", "pictures", "rgb"}
)
_NEVER_CLASSES = frozenset({"images", "imgs", "img", "jpegimages"})
_MARKS = frozenset(
    {
        "masks", "mask", "labels", "label", "annotations", "annotation", "annots", "segmentation",
        "segmentations", "segmentationclass", "segmentationobject", "imagesets", "groundtruth",
        "gt", "bbox", "bboxes", "boxes", "boundingboxes", "landmarks", "keypoints", "depth",
        "trimaps", "polygons",
    }
)  # fmt: skip


def split_of(name: str) -> Split | None:
    """The split that a folder's name, or a cell of a table, means; None for any other name."""
    words = [part for w in re.findall(r"[^\W_]+", name.casefold()) for part in _unglued(w)]
    telling = [word for word in words if not _FILLERS.fullmatch(word)]
    return _MEANT.get(telling[0]) if len(telling) == 1 else None


def unclear_splits(names: Iterable[str]) -> list[str]:
    """Names that differ in nothing but the split that they speak of: seg_train and seg_test."""
    alike: dict[tuple[str, ...], dict[str, Split]] = {}
    for name in names:
        words = [part for w in re.findall(r"[^\W\d_]+", name.casefold()) for part in _unglued(w)]
        said = [word for word in words if word in _MEANT]
        if len(said) == 1:
            rest = tuple(w for w in words if w not in _MEANT and not _FILLERS.fullmatch(w))
            alike.setdefault(rest, {})[name] = _MEANT[said[0]]
    found = (group for group in alike.values() if len(set(group.values())) > 1)
    return [name for group in found for name in group]


def _unglued(word: str) -> tuple[str, ...]:
    """("train", "set") of "trainset"; a word that is no split with something behind it as it is."""
    found = re.fullmatch(rf"({'|'.join(_MEANT)}){_FILLERS.pattern}", word)
    return (found[1], found[2]) if found else (word,)


def annotated(names: Iterable[str]) -> bool:
    """Whether folders of these names are pictures beside their masks, boxes or labels."""
    plain = {re.sub(r"[\W_]+", "", name.casefold()) for name in names}
    if not plain & _MARKS or not plain & _PICTURES:
        return False
    return plain <= _MARKS | _PICTURES or bool(plain & _NEVER_CLASSES)


def nfc(text: str) -> str:
    """Text in the one form in which names are compared: é is one character, not e and an accent."""
    return unicodedata.normalize("NFC", text)


def twins(labels: Iterable[str]) -> list[list[str]]:
    """Classes that people take for one: they differ in capitals, blanks or a dot at the end."""
    groups: dict[str, list[str]] = {}
    for label in sorted(set(labels)):
        groups.setdefault(" ".join(label.casefold().split()).rstrip(". "), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def order_of_numbers(labels: Iterable[str]) -> list[str]:
    """A warning where classes are numbers: as all classes they are in order of text, 1, 10, 2."""
    names = sorted(set(labels))
    numbers = all(name.isascii() and name.isdigit() for name in names)
    if not numbers or names == sorted(names, key=int):
        return []
    return [
        f"Classes that are numbers are in the order of text, {shown(names)}: read answers by "
        "label, not by position."
    ]


def is_utf8(name: str) -> bool:
    """Whether a file's name is UTF-8; Python reads other bytes as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def shown(names: Iterable[str], most: int = 5, between: str = ", ", last: str = " and ") -> str:
    """Names for a message, at most `most` of them, and how many more there are."""
    listed = list(names)
    left = len(listed) - most
    return between.join(listed[:most]) + (f"{last}{left} more" if left > 0 else "")
