"""What would spoil training: each refusal says its cause, where it was seen, and the way out."""

from __future__ import annotations

from pathlib import Path

from edgetl.data.found import Found
from edgetl.data.ingest import Look
from edgetl.data.names import shown, twins
from edgetl.errors import DataError
from edgetl.inputs.base import Input
from edgetl.inputs.decode import FULL_DEPTH, MAX_PIXELS
from edgetl.inputs.image import ImageInput
from edgetl.spec import Photo, SkippedFile, Split

MAX_BAD, FEW_BAD = 0.05, 1
DARK, DIM = 4, 2  # unused bits that leave 16 and 64 of 256 levels
TITLES: dict[Split, str] = {"train": "training", "validation": "validation", "test": "test"}


def check_classes(labels: list[str], root: Path) -> None:
    """DataError for fewer than two classes."""
    if len(labels) < 2:
        raise DataError(
            f"Only one class, {labels[0]}, in {root}." if labels else f"No classes in {root}.",
            fix="a classifier needs at least two class folders.",
        )


def check_bad(skipped: list[SkippedFile], total: int, root: Path) -> None:
    """DataError when more than 5 % of the files cannot be read, and more than one."""
    if len(skipped) > max(MAX_BAD * total, FEW_BAD) or 2 * len(skipped) > total:
        names = "; ".join(f"{item.path} ({item.reason})" for item in skipped[:3])
        raise DataError(
            f"{len(skipped)} of {total} photos in {root} cannot be read, which is more than "
            f"{MAX_BAD:.0%}: {names}{'; …' if len(skipped) > 3 else ''}.",
            fix="replace these files, convert them to JPEG or PNG, or remove them.",
        )


def check_emptied(found: list[Found], kept: list[Found]) -> None:
    """DataError when a class of a split has lost all its photos to damage."""
    left = {(item.split, item.label) for item in kept}
    for item in found:
        if (item.split, item.label) not in left:
            where = f" in {item.split}" if item.split else ""
            raise DataError(
                f"Every photo of class {item.label}{where} is unreadable, {item.path} for one.",
                fix="replace these files.",
            )


def check_found(found: list[Found]) -> None:
    """DataError when a class is missing from a training or validation split that the user made."""
    made = {item.split for item in found}
    for split in ("train", "validation"):
        if split not in made:
            continue  # nothing was split, or validation is made from training
        have = {item.label for item in found if item.split == split}
        missing = sorted({item.label for item in found} - have)
        if missing:
            name = missing[0]
            twin = [
                n for group in twins({name, *have}) if name in group for n in group if n != name
            ]
            other = f" Its name differs little from '{twin[0]}', which is there." if twin else ""
            raise DataError(
                f"Class {name} has no {TITLES[split]} photo: it is only in "
                f"{_places([item for item in found if item.label == name])}.{other}"
                f"{_others(missing)}",
                fix=f"add {TITLES[split]} photos of {name}, or remove the class everywhere; "
                "without split folders (or a split column), a split is made."
                if split == "train"
                else f"add validation photos of {name}, or remove the class everywhere; without "
                "any validation photos, validation is made from training.",
            )


def check_split(photos: list[Photo], groups: list[int]) -> None:
    """DataError when the split that was made leaves a class without training or validation photos.

    `groups` are the photos' groups, which the split keeps together.
    """
    have = {(photo.split, photo.label) for photo in photos}
    labels = sorted({photo.label for photo in photos})
    missing = [n for n in labels if not {("train", n), ("validation", n)} <= have]
    if not missing:
        return
    name = missing[0]
    rows = [i for i, photo in enumerate(photos) if photo.label == name and photo.split != "test"]
    cause, fix = _cause(name, [photos[i] for i in rows], len({groups[i] for i in rows}))
    raise DataError(f"{cause}{_others(missing)}", fix=fix)


def _cause(name: str, photos: list[Photo], groups: int) -> tuple[str, str]:
    """Why the photos of a class, those that may be split, do not suffice, and what would."""
    first, count = photos[0].path, len(photos)
    fix = f"add photos of {name}, or remove the class."
    if count == 1:
        return (
            f"Class {name} has 1 photo to train and validate with, {first}; it needs at least 2.",
            fix,
        )
    named = {photo.group for photo in photos}
    if len({photo.sha256 for photo in photos}) == 1:
        return (
            f"All {count} photos of class {name} are the same file, {first} = {photos[1].path}: "
            "one picture cannot be in training and in validation.",
            fix.replace("add", "add different"),
        )
    if len(named) == 1 and "" not in named:
        return (
            f"All {count} photos of class {name} are in group {photos[0].group}, {first} for one: "
            "a group cannot be in training and in validation.",
            fix.replace(f"of {name}", f"of {name} of another group"),
        )
    if groups == 1:
        return (
            f"All {count} photos of class {name} show one picture or belong to one group, {first} "
            f"and {photos[1].path}: they cannot be in training and in validation.",
            fix.replace("add", "add different"),
        )
    sides = " and ".join(sorted({TITLES[photo.split] for photo in photos}))
    return (
        f"Groups that hold several classes leave all {count} photos of class {name} in {sides}, "
        f"{first} for one.",
        "make groups smaller or of one class each, or make the split yourself.",
    )


def _others(missing: list[str]) -> str:
    """A sentence on further classes that are missing."""
    return f" Missing as well: {shown(missing[1:])}." if len(missing) > 1 else ""


def _places(items: list[Found]) -> str:
    """Where photos are: "validation (3 photos, val/bird/1.png for one)"."""
    places: dict[str, list[str]] = {}
    for item in items:
        places.setdefault(TITLES[item.split] if item.split else "no split", []).append(item.path)
    return " and ".join(
        f"{place} ({len(paths)} photos, {paths[0]} for one)"
        if len(paths) > 1
        else f"{place} (1 photo, {paths[0]})"
        for place, paths in places.items()
    )


def dark_warning(looks: list[Look], spec: Input) -> list[str]:
    """A warning about 16-bit files whose samples use few of the bits that are kept."""
    depth = spec.depth if isinstance(spec, ImageInput) and spec.rules == 2 else FULL_DEPTH
    wide = [seen.bits for seen in looks if seen.bits]
    all_dim = bool(wide) and max(wide) <= depth - DIM
    dark = wide if all_dim else [bits for bits in wide if bits <= depth - DARK]
    if not dark:
        return []
    most = max(dark)
    level = (2**most - 1) >> (depth - 8)
    text = (
        f"{len(dark)} of {len(wide)} photos of more than 8 bits have samples of at most {most} "
        f"bits (below {2**most}): taken as {depth} bits they are "
        f"{'dark' if most > depth - DARK else 'nearly black'}, 0…{level} of 255"
    )
    if all_dim:
        return [f"{text}. --depth {most} stretches them (preprocessing rules 2)."]
    return [f"{text}, unlike the others. Save all photos at one depth."]


def huge_warning(photos: list[Found], looks: list[Look]) -> list[str]:
    """A warning about photos that are only read because their JPEG can be decoded smaller."""
    huge = [
        f"{photo.path} ({seen.stored[0]} × {seen.stored[1]})"
        for photo, seen in zip(photos, looks, strict=True)
        if seen.stored[0] * seen.stored[1] > MAX_PIXELS
    ]
    if not huge:
        return []
    return [
        f"{len(huge)} of {len(photos)} photos have more than {MAX_PIXELS / 1e6:.0f} million pixels "
        f"and were decoded at a smaller scale: {shown(huge, 5, '; ', '; and ')}."
    ]
