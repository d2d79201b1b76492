"""Walk a folder and tell photos from other files: the one way in which photos are looked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import NamedTuple

import msgspec

from edgetl.data.found import by_kind, skipped_line
from edgetl.errors import DataError
from edgetl.files import decode_json
from edgetl.inputs.formats import FOREIGN, HEAD, PHOTOS, SUFFIXES, kind_of
from edgetl.spec import SkippedFile

# Folders that systems, file servers and programs make; like hidden ones they are nobody's photos.
_SYSTEM = frozenset(
    {
        "@eadir", "@recycle", "@recently-snapshot", "@__thumb", "#recycle", "#snapshot",
        "$recycle.bin", "recycler", "system volume information", "lost+found", "__macosx",
        "__pycache__",
    }
)  # fmt: skip
_CLUTTER = frozenset(
    {
        "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "readme", "license", "licence",
        "copying", "makefile", "dockerfile", "sha256sums", "md5sums",
    }
)  # fmt: skip
_TEXTS = frozenset(
    f".{name}" for name in (
        "txt", "md", "rst", "csv", "tsv", "json", "jsonl", "xml", "yaml", "yml", "toml", "ini",
        "cfg", "log", "htm", "html", "url", "xmp", "aae", "py", "ipynb", "sh", "md5", "sha1",
        "sha256",
    )
)  # fmt: skip
# A name that states a format of another kind is believed, whatever the bytes are.
_OTHERS = {
    ".dcm": "DICOM", ".dicom": "DICOM", ".npy": "NumPy", ".npz": "NumPy", ".mat": "MATLAB",
    ".h5": "HDF5", ".hdf5": "HDF5", ".nii": "NIfTI", ".pdf": "PDF", ".psd": "Photoshop",
    ".svg": "SVG", ".mp4": "video", ".mov": "video", ".avi": "video", ".mkv": "video",
    ".webm": "video", ".m4v": "video", ".thm": "a camera's thumbnail", ".zip": "an archive",
    ".tar": "an archive", ".gz": "an archive", ".7z": "an archive", ".rar": "an archive",
}  # fmt: skip


class Walk(NamedTuple):
    """Paths relative to the folder, with forward slashes; a folder's files come before its own."""

    photos: list[str]
    misnamed: list[str]  # those of `photos` that are photos by their bytes, not by their names
    others: list[SkippedFile]  # neither photos nor clutter
    folders: list[str]


def walk(root: Path, ignore: Path | None = None) -> Walk:
    """Every photo under `root`, in order of names; links are followed.

    Passed over are hidden and system folders, runs of edgetl and folders that were made for such
    runs, and the folder `ignore`. A file is a photo if its suffix is one of photos, or if its bytes
    are unless its suffix states another format. Raises DataError when a folder cannot be listed.
    """
    found = Walk([], [], [], [])
    skip = os.path.realpath(ignore) if ignore else ""
    _visit(str(root), "", (os.path.realpath(root),), skip, found)
    return found


def images_in(folder: Path, tell: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Every photo under a folder; `tell` gets a line on each kind of other file.

    DataError when there is no photo.
    """
    found = walk(folder)
    kinds = by_kind(found.others)
    if not found.photos:
        held = f": {contents(found.others)}" if kinds else ""
        raise DataError(
            f"No images in folder {folder}{held}.", fix="give a folder that holds images."
        )
    for file in kinds:
        tell(skipped_line(msgspec.structs.replace(file, path=f"{folder}/{file.path}")))
    return [folder / path for path in found.photos]


def contents(files: list[SkippedFile]) -> str:
    """What files that are no photos are, with numbers."""
    return "; ".join(
        f"{'1 file is' if k.n == 1 else f'{k.n} files are'} {k.reason}" for k in by_kind(files)
    )


def _visit(home: str, inside: str, above: tuple[str, ...], skip: str, found: Walk) -> bool:
    """Add what is in `home`: `inside` is its path from the root, `above` the real ones above.

    True if there is a run in it, at any depth.
    """
    try:
        with os.scandir(home) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"Cannot list {home}: {error.strerror}.", fix="make the folder readable."
        ) from error
    folders = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _holds(entry.is_dir):
            folders.append(entry)
        else:
            _judge(entry, f"{inside}{entry.name}", found)
    has_run = False
    for entry in folders:
        real = os.path.realpath(entry.path)
        if entry.name.lower() in _SYSTEM or real in above:  # a link upwards has no end
            continue
        if real == skip or is_run(real):
            has_run = True
            continue
        photos, listed = len(found.photos), len(found.folders)
        found.folders.append(f"{inside}{entry.name}")
        if _visit(entry.path, f"{inside}{entry.name}/", (*above, real), skip, found):
            has_run = True
            if len(found.photos) == photos:  # "runs/", made to hold runs
                del found.folders[listed:]
    return has_run


def _holds(is_so: Callable[[], bool]) -> bool:
    """What an entry says of itself; a link that goes in a circle or behind a closed door is no."""
    try:
        return is_so()
    except OSError:
        return False


def _judge(entry: os.DirEntry[str], path: str, found: Walk) -> None:
    """Decide whether a file is a photo."""
    name = entry.name.lower()
    suffix = PurePath(name).suffix
    if name in _CLUTTER or suffix in _TEXTS:
        return
    if not _holds(entry.is_file) and not entry.is_symlink():  # a pipe would be waited for for ever
        found.others.append(SkippedFile(path=path, reason="not a regular file"))
    elif suffix in SUFFIXES or suffix in FOREIGN:  # also a broken link: reading it says so
        found.photos.append(path)
    else:
        reason = _reason(entry.path, suffix)
        if reason:
            found.others.append(SkippedFile(path=path, reason=reason))
        else:
            found.photos.append(path)
            found.misnamed.append(path)


def _reason(path: str, suffix: str) -> str:
    """Why a file is no photo, by its suffix and its bytes; "" if it is one all the same."""
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(HEAD)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    kind = kind_of(head)
    other = f"{suffix} ({_OTHERS[suffix]})" if suffix in _OTHERS else ""
    if kind in PHOTOS:
        return other and f"{other} by name although {kind} by content: rename it if it is a photo"
    if other:
        return f"{other}, no photo"
    named = f" ({suffix})" if suffix[1:].isalpha() and len(suffix) < 12 else ""
    return f"{kind or ('of no known kind' if head else 'empty')}, no photo{named}"


class RunMark(msgspec.Struct):
    """What tells run.json from other files, in every version of it."""

    edgetl_run: int


def is_run(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is a run that edgetl wrote, of whatever version."""
    try:
        decode_json(Path(folder, "run.json").read_bytes(), RunMark)
    except (OSError, msgspec.DecodeError):
        return False
    return True
