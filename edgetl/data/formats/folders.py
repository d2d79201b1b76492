"""Class and split of every photo by the folders that it lies in; what is unclear is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from edgetl.data.found import Found
from edgetl.data.names import annotated, is_utf8, nfc, shown, split_of, unclear_splits
from edgetl.data.walk import Walk, contents
from edgetl.errors import DataError
from edgetl.spec import SkippedFile, Split


class Labelled(NamedTuple):
    """Photos by their folders, other files in these, and warnings."""

    photos: list[Found]
    others: list[SkippedFile]
    warnings: list[str]


class _Level(NamedTuple):
    """What one folder holds: photos of its own, and the photos under each folder in it."""

    home: str  # "" or "train/"
    loose: list[str]
    folders: dict[str, list[str]]


def by_folders(
    root: Path,
    seen: Walk,
    *,
    need_train: bool,
    only: Split | None = None,
    known: tuple[str, ...] = (),
) -> Labelled:
    """Photos of split folders, or of class folders where there are no split folders.

    `only` is the split that is wanted alone if it is there. Where all class folders are `known`
    labels, whatever lies in them is taken for theirs. Raises DataError for everything that may
    mean two things.
    """
    top = _level(seen, "")
    splits = _splits(root, top)
    if not splits:
        _check_no_splits(root, top, known)
        return _classes(root, seen, top, None, known)
    if need_train and "train" not in splits.values():
        raise DataError(
            f"{root} has {shown(sorted(splits))} but no train folder{_others(top, splits)}.",
            fix="add train/<class>/…, or rename the split folders to have a split made.",
        )
    result = Labelled([], [], _beside(root, top, splits, need_train))
    for name, split in splits.items():
        if only not in splits.values() or split == only:
            part = _classes(root, seen, _level(seen, f"{name}/"), split, known)
            result.photos.extend(part.photos)
            result.others.extend(part.others)
            result.warnings.extend(part.warnings)
    return result


def _level(seen: Walk, home: str) -> _Level:
    inside = [name.removeprefix(home) for name in seen.folders if name.startswith(home)]
    level = _Level(home, [], {name: [] for name in inside if "/" not in name})
    for path in seen.photos:
        if path.startswith(home):
            name, slash, _ = path.removeprefix(home).partition("/")
            (level.folders[name] if slash else level.loose).append(path)
    return level


def _splits(root: Path, top: _Level) -> dict[str, Split]:
    """Folder → split, {} where the folders are classes."""
    named = {name: split for name in top.folders if (split := split_of(name))}
    nested = [n for n in named if any(path.count("/") > 1 for path in top.folders[n])]
    classes = [name for name, photos in top.folders.items() if photos and name not in named]
    if not nested and classes:
        return {}  # a folder of photos is a class, even if it is called "train" or "test"
    torn = [name for name in nested if any(path.count("/") == 1 for path in top.folders[name])]
    if torn and classes and len(nested) == 1:  # several splits explain each other
        raise DataError(
            f"{torn[0]} in {root} holds photos and folders and lies beside {shown(classes)}: it "
            "may be a split or a class.",
            fix="if it is a class, take the folders in it away; if it is a split, keep photos only "
            "in its class folders.",
        )
    first: dict[Split, str] = {}
    for name, split in named.items():
        if first.setdefault(split, name) != name:
            raise DataError(
                f"{root} has both {first[split]} and {name}, which mean the same split.",
                fix="keep one of them.",
            )
    return named


def _check_no_splits(root: Path, top: _Level, known: tuple[str, ...]) -> None:
    """DataError where folders that are taken for classes are named as splits are."""
    unclear = unclear_splits(name for name, photos in top.folders.items() if photos)
    if unclear and not set(map(nfc, unclear)) <= set(known):
        raise DataError(
            f"{shown(unclear)} in {root} may be splits or classes.",
            fix="if they are splits, rename them to train, validation and test and keep class "
            "folders alone in them; if they are classes, give them names without these words.",
        )


def _others(top: _Level, splits: dict[str, Split]) -> str:
    """What lies beside split folders, for a message."""
    counts = [f"{n} ({_count(len(p))})" for n, p in top.folders.items() if p and n not in splits]
    return f"; beside lies {shown(counts)}" if counts else ""


def _beside(root: Path, top: _Level, splits: dict[str, Split], need_train: bool) -> list[str]:
    """Warnings of photos outside the split folders; DataError for what may be a split as well."""
    classes = {sub for name in splits for sub in _inner(top, name)}
    others = [name for name, photos in top.folders.items() if photos and name not in splits]
    alike = [name for name in others if _inner(top, name) & classes]
    if alike and need_train:
        raise DataError(
            f"{shown(alike)} in {root} {'holds' if len(alike) == 1 else 'hold'} class folders as "
            f"{shown(sorted(splits))} {'does' if len(splits) == 1 else 'do'}, but the name means "
            "no split.",
            fix="rename it to train, validation or test, or move it elsewhere.",
        )
    warnings = [_loose(root, top, "split")] if top.loose else []
    if others:
        counts = shown(f"{name} ({_count(len(top.folders[name]))})" for name in others)
        warnings.append(
            f"Not used, because the name means no split: {counts}, beside {shown(sorted(splits))}."
        )
    return warnings


def _count(number: int) -> str:
    return "1 photo" if number == 1 else f"{number} photos"


def _inner(top: _Level, name: str) -> set[str]:
    """Names of the folders with photos in a top folder, in the form in which they are compared."""
    return {nfc(p.split("/")[1]).casefold() for p in top.folders[name] if p.count("/") > 1}


def _loose(root: Path, level: _Level, kind: str) -> str:
    first = level.loose[0].rpartition("/")[2]
    return (
        f"Photos beside the {kind} folders in {root / level.home} are not used: "
        f"{len(level.loose)}, {first} for one."
    )


def _classes(
    root: Path, seen: Walk, level: _Level, split: Split | None, known: tuple[str, ...]
) -> Labelled:
    """The photos of the class folders in one folder."""
    home = root / level.home
    if not level.folders:
        loose = f", but {_count(len(level.loose))}" if level.loose else ""
        raise DataError(
            f"No class folders in {home}{loose}.",
            fix="put the photos into one folder a class, named after the class.",
        )
    labels = _labels(home, list(level.folders))
    inner = {  # photos of each class by the folder that they lie in within its own, "" if in none
        labels[name]: Counter(_sub(path.removeprefix(f"{level.home}{name}/")) for path in photos)
        for name, photos in level.folders.items()
    }
    result = Labelled([], [], [])
    if not set(inner) <= set(known):
        _check_annotated(home, inner)
        _check_wrapped(home, inner)
        _check_splits(home, inner)
        result.warnings.extend(_check_same(home, inner))
    others = [file for file in seen.others if file.path.startswith(level.home)]
    for name, photos in level.folders.items():
        start = f"{level.home}{name}/"
        inside = [file for file in others if file.path.startswith(start)]
        if not photos:
            held = f": {contents(inside)}" if inside else ""
            raise DataError(
                f"Class folder {home / name} holds no photo{held}.",
                fix="add photos or remove the folder.",
            )
        result.photos.extend(Found(path=p, label=labels[name], split=split) for p in photos)
        result.others.extend(inside)
    if level.loose:
        result.warnings.append(_loose(root, level, "class"))
    return result


def _sub(path: str) -> str:
    """The folder in a class folder in which a photo lies, "" if in none."""
    return path.rpartition("/")[0].partition("/")[0]


def _labels(home: Path, names: list[str]) -> dict[str, str]:
    """Folder → class; DataError for names that cannot be told apart or written down."""
    labels: dict[str, str] = {}
    for name in names:
        if not is_utf8(name):
            raise DataError(
                f"The name of class folder {name!a} in {home} is not UTF-8.",
                fix="rename it; `convmv -r -f latin1 -t utf-8 --notest FOLDER` renames all.",
            )
        twin = next((other for other, label in labels.items() if label == nfc(name)), None)
        if twin is not None:
            raise DataError(
                f"Class folders {twin!a} and {name!a} in {home} have the same name, "
                f"{nfc(name)}, written in two ways.",
                fix="move the photos of one into the other.",
            )
        labels[name] = nfc(name)
    return labels


# --- whether class folders can be anything else than classes, by what lies in them ------------


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
