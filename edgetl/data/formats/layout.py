"""Whether class folders can be anything else than classes, by what lies in them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from edgetl.data.names import annotated, nfc, shown, split_of
from edgetl.errors import DataError


def check_classes_are_clear(home: Path, inner: dict[str, Counter[str]]) -> list[str]:
    """Warnings about the class folders in `home`; DataError where they may be no classes.

    `inner` has, for each class folder, the number of photos in each folder in it, and in itself
    under "".
    """
    _check_annotated(home, inner)
    _check_wrapped(home, inner)
    _check_splits(home, inner)
    return _check_same(home, inner)


def _check_annotated(home: Path, inner: dict[str, Counter[str]]) -> None:
    groups = [(home, list(inner)), *((home / name, list(subs)) for name, subs in inner.items())]
    for folder, inside in groups:
        names = [name for name in inside if name]
        if annotated(names):
            raise DataError(
                f"{shown(names)} in {folder} are photos and what is drawn on them, as for "
                "detection or segmentation, not classes.",
                fix="put the photos alone into one folder a class, or name their classes by "
                "--labels FILE.csv.",
            )


def _check_splits(home: Path, inner: dict[str, Counter[str]]) -> None:
    turned = {n: subs for n, subs in inner.items() if subs and all(map(split_of, subs))}
    if len(turned) > 1 or any(len(subs) > 1 for subs in turned.values()):
        name, subs = max(turned.items(), key=lambda item: len(item[1]))
        raise DataError(
            f"Class folder {home / name} holds the splits {shown(sorted(subs))}.",
            fix=f"turn them round: {min(subs)}/{name}/… instead of {name}/{min(subs)}/….",
        )


def _check_wrapped(home: Path, inner: dict[str, Counter[str]]) -> None:
    filled = {name: subs for name, subs in inner.items() if subs}
    if len(filled) == 1:
        ((name, subs),) = filled.items()
        if "" not in subs and len(subs) > 1:
            raise DataError(
                f"Only one folder with photos, {name}, in {home}; it holds {shown(sorted(subs))}.",
                fix=f"if these are the classes or splits, give {home / name}, or move them up.",
            )


def _check_same(home: Path, inner: dict[str, Counter[str]]) -> list[str]:
    """DataError where all folders hold the same folders and nothing else; a warning if some do."""
    folders = [{nfc(sub).casefold() for sub in subs if sub} for subs in inner.values()]
    names = set().union(*folders)
    if len(inner) < 2 or len(names) < 2:  # one name in all, as cat/images and dog/images, is clear
        return []
    if all(found == names for found in folders) and not any("" in subs for subs in inner.values()):
        raise DataError(
            f"All folders in {home} ({shown(inner)}) hold the same folders ({shown(sorted(names))})"
            " and no photos of their own: either may be the classes.",
            fix="put the photos into one folder a class, directly; or name the class (and, as "
            "group, the other folder) of each photo by --labels FILE.csv.",
        )
    held = Counter(name for found in folders for name in found)
    shared = sorted(name for name, count in held.items() if count > 1)
    if not shared:
        return []
    return [
        f"Several class folders in {home} hold folders of the same names ({shown(shared)}); the "
        f"outer folders ({shown(inner)}) are taken for the classes."
    ]
