"""Find labelled photos: split folders, plain class folders, or a CSV file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from edgetl.data.formats.folders import by_folders
from edgetl.data.formats.table import by_table
from edgetl.data.found import SEPARATOR, Found, Scan, by_kind
from edgetl.data.names import shown, twins
from edgetl.data.walk import Walk, walk
from edgetl.files import user_path
from edgetl.spec import Split


def scan(
    root: Path,
    labels_csv: str = "",
    *,
    need_train: bool = True,
    only: Split | None = None,
    known: tuple[str, ...] = (),
    ignore: Path | None = None,
    column: str = "label",
    seen: Walk | None = None,
) -> Scan:
    """Find every photo under `root`, by path; class and split come from folders or from the CSV.

    `only` is the split that is wanted alone if it is there, `known` are the classes if they are
    known, `ignore` is a folder to pass over, `column` is that of the classes in the CSV, `seen`
    what is under `root` if that is known. Raises DataError for what is missing or may mean two
    things.
    """
    seen = seen or walk(root, ignore)
    if labels_csv:
        photos, warnings = by_table(root, user_path(labels_csv), seen, column)
        warnings += _twins(photos, known, several=column == "labels")
        return Scan(photos=tuple(photos), warnings=tuple(warnings))
    found = by_folders(root, seen, need_train=need_train, only=only, known=known)
    used = {item.path for item in found.photos}
    misnamed = [path for path in seen.misnamed if path in used]
    if misnamed:
        found.warnings.append(
            f"Photos by their content, though not by their names, are used as well: "
            f"{len(misnamed)}, {shown(misnamed)}."
        )
    return Scan(
        photos=tuple(found.photos),
        skipped=by_kind(found.others),
        warnings=(*found.warnings, *_twins(found.photos, known)),
    )


def _twins(photos: list[Found], known: tuple[str, ...], *, several: bool = False) -> list[str]:
    """A warning about classes that are probably one; `known` ones are what they are."""
    names = (f.label.split(SEPARATOR) if several else [f.label] for f in photos)
    counts = Counter(name for each in names for name in each if name)
    groups = [
        " and ".join(f"'{n}' ({counts[n]})" for n in group)
        for group in twins(counts)
        if not set(group) <= set(known)
    ]
    if not groups:
        return []
    return [
        "Taken for different classes, though their names differ in no more than capitals, blanks "
        f"or a dot at the end: {shown(groups)}."
    ]
