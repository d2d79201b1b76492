"""State dicts in the files that training programs write: found, unwrapped, stripped of prefixes.

Nothing here runs code of a file: pickles are read by torch's restricted reader alone.
"""

from __future__ import annotations

import json
import pickle
import re
import shlex
import warnings
import zipfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from edgetl.data.names import shown
from edgetl.errors import WeightsError

Tensors = dict[str, torch.Tensor]
# Where checkpoints keep the network; running averages go first, as they score better.
WRAPPED_IN = (
    "model_ema", "state_dict_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict",
    "model_state", "model", "net", "network", "module", "weights", "params",
)  # fmt: skip
# What torch.compile, FSDP and activation checkpointing put between the names of layers.
WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
TRUST = "if you trust where it comes from (this runs what is pickled in it), convert it once: "
SAVE = (
    "s.save_file({k: torch.as_tensor(v).detach().clone().contiguous() "
    "for k, v in c.items() if hasattr(v, 'shape')}, sys.argv[2])"
)
UNPICKLE = (
    "c = torch.load(sys.argv[1], 'cpu', weights_only=False); "
    f"c = next((c[k] for k in {WRAPPED_IN} if isinstance(c, dict) and c.get(k) is not None), c); "
    "c = c.state_dict() if hasattr(c, 'state_dict') else c"
)
UNSCRIPT = "c = torch.jit.load(sys.argv[1], 'cpu').state_dict()"


def read_tensors(path: Path) -> tuple[Tensors, list[str]]:
    """The state dict in a file of safetensors or of torch.save, whatever its name, and notes.

    Notes say what was chosen or left out. Raises WeightsError for all that holds no state dict.
    """
    if not path.is_file():
        raise WeightsError(
            f"No weights file at {path}.", fix="give --weights imagenet, none or a file's path."
        )
    try:
        if is_safetensors(path):
            return read_safetensors(path)[0], []
        _refuse_others(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on old files
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # both readers raise many kinds on damaged files
        raise _unreadable(path, error) from error
    return _unwrapped(loaded, path)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the header's length, then its JSON."""
    with path.open("rb") as stream:
        start = stream.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32


def read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Tensors and metadata; by the file's bytes, as the library opens no path that is no UTF-8."""
    data = path.read_bytes()
    tensors: Tensors = safetensors.torch.load(data)  # checks the header
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, header.get("__metadata__", {})


def _refuse_others(path: Path) -> None:
    """WeightsError that names what stands in the place of weights."""
    with path.open("rb") as stream:
        start = stream.read(64)
    if start.startswith(b"version https://git-lfs"):
        what, fix = "is a pointer of Git LFS, not the weights", "fetch the file: git lfs pull"
    elif start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        what, fix = "is a web page, not weights", "download the file itself."
    elif start.startswith(b"PK") and not zipfile.is_zipfile(path):
        what, fix = "is cut off or damaged", "fetch or copy it again."
    elif start.startswith(b"PK") and _is_torchscript(path):
        what, fix = "is a TorchScript program, not a state dict", TRUST + _command(path, UNSCRIPT)
    elif start.startswith((b"PK", b"\x80")):
        return
    else:
        what, fix = "is neither safetensors nor a file of torch.save", "give one of these."
    raise WeightsError(f"Cannot read weights {path}: it {what}.", fix=fix)


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _unreadable(path: Path, error: Exception) -> WeightsError:
    """The error for a file that its reader refused; a pickled object is named."""
    text = str(error)
    found = re.search(r"GLOBAL (\S+)", text)
    if isinstance(error, pickle.UnpicklingError) and found:
        return WeightsError(
            f"Cannot read weights {path}: it holds pickled objects, {found.group(1)} for one, and "
            "loading these could run code.",
            fix=TRUST + _command(path, UNPICKLE),
        )
    if isinstance(error, pickle.UnpicklingError):
        return WeightsError(
            f"Cannot read weights {path}: it is damaged, or a pickle not of torch.save.",
            fix="load it as its maker does, and save the state dict as safetensors.",
        )
    reason = text.splitlines()[0].rstrip(".") if text else repr(error)
    return WeightsError(
        f"Cannot read weights {path}: {reason}.",
        fix="give a whole file of safetensors, or of torch.save with plain tensors.",
    )


def _command(path: Path, load: str) -> str:
    target = path.with_name(f"{path.name.partition('.')[0]}.safetensors")
    code = f"import sys, torch, safetensors.torch as s; {load}; {SAVE}"
    return f'python -c "{code}" {shlex.quote(str(path))} {shlex.quote(str(target))}'


def _unwrapped(loaded: Any, path: Path) -> tuple[Tensors, list[str]]:
    """The state dict within a checkpoint, with a note where there was a choice."""
    notes: list[str] = []
    while isinstance(loaded, dict):
        holders = [key for key in WRAPPED_IN if _holds_tensors(loaded.get(key))]
        if not holders and not any(torch.is_tensor(value) for value in loaded.values()):
            holders = [key for key, value in loaded.items() if _holds_tensors(value)]
            if len(holders) > 1:
                raise WeightsError(
                    f"{path} holds several state dicts: {shown(map(str, holders))}.",
                    fix="save the one of the network, best as safetensors.",
                )
        if not holders:
            break
        if len(holders) > 1:
            others = ", ".join(f"'{key}'" for key in holders[1:])
            notes.append(
                f"{path.name}: the weights under '{holders[0]}' are used (also there: {others})"
            )
        loaded = loaded[holders[0]]
    if not _holds_tensors(loaded):
        keys = f"; its keys are {shown(map(repr, loaded))}" if isinstance(loaded, dict) else ""
        raise WeightsError(
            f"{path} holds no state dict of tensors{keys}.",
            fix="save model.state_dict(), best as safetensors.",
        )
    tensors = {key: value for key, value in loaded.items() if torch.is_tensor(value)}
    if left := [str(key) for key in loaded if key not in tensors]:
        notes.append(f"{path.name}: not used, as they are no tensors: {shown(left)}")
    return tensors, notes


def _holds_tensors(value: Any) -> bool:
    """Whether a value is a state dict, or a dict that holds one."""
    return isinstance(value, dict) and any(
        isinstance(key, str) and (torch.is_tensor(item) or _holds_tensors(item))
        for key, item in value.items()
    )


def without_prefix(
    tensors: Tensors, wanted: Collection[str], *, name: str
) -> tuple[Tensors, list[str]]:
    """The tensors of the network under the names that it `wanted`, without what wrappers prepend.

    The prefix (`module.`, `model.`, `backbone.net.`) is that under which most names are found. What
    stands beside it belongs to other modules and is left out, with a note.
    """
    tensors = {WRAPPERS.sub("", key): value for key, value in tensors.items()}
    votes = Counter(
        key[:start]
        for key in tensors
        for start in (0, *(index + 1 for index, letter in enumerate(key) if letter == "."))
        if key[start:] in wanted
    )
    most = max(votes.values(), default=0)
    if 2 * most < len(wanted):
        return tensors, []
    prefix = min(
        (prefix for prefix in votes if votes[prefix] == most),
        key=lambda prefix: (prefix != "", "ema" not in prefix, len(prefix), prefix),
    )
    if not prefix:
        return tensors, []
    kept = {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}
    left = [key for key in tensors if not key.startswith(prefix)]
    rest = f"; not used: {shown(left)}" if left else ""
    return kept, [f"{name}: the prefix '{prefix}' was taken off {len(kept)} names{rest}"]
