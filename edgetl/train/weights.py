"""Starting weights: torchvision's, a file's, or none; and how a classifier is stored."""

from __future__ import annotations

import json
import os
import pickle
import re
import urllib.error
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torchvision

from edgetl.errors import WeightsError
from edgetl.files import sha256_file, write_bytes
from edgetl.spec import WeightsOrigin
from edgetl.train.backbones import BackboneInfo, Classifier, find_backbone

IMAGENET_LICENCE = (
    "Weights published by torchvision (BSD-3-Clause) and trained on ImageNet-1k, whose terms of "
    "use may bind what is derived from it; check them for your use."
)
Tensors = dict[str, torch.Tensor]
AUXILIARY = re.compile(r"aux\d*\.")  # heads that only the original training had


def load_weights(model: Classifier, backbone: str, weights: str) -> WeightsOrigin:
    """Fill the body of `model` from `imagenet`, a file, or leave it (`none`); say the origin.

    Every key and shape of the body must match; the file's own head is not used. Raises
    WeightsError that lists the mismatches, or says which file to fetch and where to put it.
    """
    if weights == "none":
        return WeightsOrigin(source="random initialisation", licence="none needed")
    info = find_backbone(backbone)
    if weights == "imagenet":
        path = _local_copy(info)
        licence = IMAGENET_LICENCE
        if path is None:
            tensors, path = _from_torchvision(info)
            source = f"torchvision {info.weights}"
        else:
            tensors = read_tensors(path)
            source = f"{path.name}, found in the folder that EDGETL_WEIGHTS names"
    else:
        path = Path(weights).expanduser()
        tensors, source = read_tensors(path), path.name
        licence = file_licence(path)
    assign(model, tensors, source=str(path))
    return WeightsOrigin(source=source, sha256=sha256_file(path), licence=licence)


def file_licence(path: Path) -> str:
    """What the file itself says of its licence."""
    if path.suffix == ".safetensors":
        with safetensors.safe_open(str(path), framework="pt") as opened:
            metadata = opened.metadata() or {}
        stated = metadata.get("license") or metadata.get("licence")
        if stated:
            return str(stated)
    return "not stated in the file; ask whoever made it"


def read_tensors(path: Path) -> Tensors:
    """Read a state dict from safetensors, or from .pth without running any code of it."""
    if not path.is_file():
        raise WeightsError(
            f"No weights file at {path}.", fix="give --weights imagenet, none or a file's path."
        )
    try:
        if path.suffix == ".safetensors":
            tensors: Tensors = safetensors.torch.load_file(path)
            return tensors
        if path.suffix in (".pth", ".pt"):
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
            for key in ("state_dict", "model"):
                if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
                    loaded = loaded[key]
            if isinstance(loaded, dict) and all(torch.is_tensor(v) for v in loaded.values()):
                return dict(loaded)
            raise WeightsError(
                f"{path} holds no state dict of tensors.",
                fix="save model.state_dict(), best as safetensors.",
            )
    except WeightsError:
        raise
    except Exception as error:  # both readers raise many kinds on damaged files
        raise WeightsError(
            f"Cannot read weights {path}: {str(error).splitlines()[0] if str(error) else error!r}",
            fix="give a whole .safetensors or .pth file of plain tensors.",
        ) from error
    raise WeightsError(
        f"Weights {path} have an unknown suffix '{path.suffix}'.",
        fix="give a .safetensors or .pth file.",
    )


def assign(model: Classifier, tensors: Tensors, *, source: str) -> None:
    """Copy `tensors` into the body; WeightsError lists what does not fit."""
    head = {f"{model.head_name}.weight", f"{model.head_name}.bias"}
    wanted = model.body.state_dict()
    given = {
        key: value
        for key, value in tensors.items()
        if key not in head and (key in wanted or not AUXILIARY.match(key))
    }
    optional = {key for key in wanted if key.endswith("num_batches_tracked")}
    problems = [f"{key} is missing" for key in wanted if key not in given and key not in optional]
    problems += [f"{key} is not part of the network" for key in given if key not in wanted]
    problems += [
        f"{key} is {tuple(given[key].shape)}, wanted {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    if problems:
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise WeightsError(
            f"Weights {source} do not fit the backbone: {'; '.join(problems[:6])}{more}.",
            fix="give the weights of this very backbone, or name their backbone by --backbone.",
        )
    model.body.load_state_dict(wanted | given)


def _local_copy(info: BackboneInfo) -> Path | None:
    folder = os.environ.get("EDGETL_WEIGHTS", "")
    if not folder:
        return None
    home = Path(folder).expanduser()
    if not home.is_dir():
        raise WeightsError(
            f"EDGETL_WEIGHTS names {home}, which is no folder.", fix="correct or unset it."
        )
    exact = home / Path(info.url).name
    if exact.is_file():
        check_name_hash(exact)
        return exact
    named = sorted(
        path
        for path in home.iterdir()
        if path.suffix in (".safetensors", ".pth")
        and path.name.startswith((f"{info.name}.", f"{info.name}-"))
    )
    if len(named) > 1:
        raise WeightsError(
            f"{home} holds several weights for {info.name}: {', '.join(p.name for p in named)}.",
            fix="keep one, or name it by --weights FILE.",
        )
    if not named:
        return None
    check_name_hash(named[0])
    return named[0]


def check_name_hash(path: Path) -> None:
    """torchvision's file names end in the first 8 hex digits of their SHA-256; others may not."""
    stated = path.stem.rpartition("-")[2]
    if re.fullmatch("[0-9a-f]{8,64}", stated) and not sha256_file(path).startswith(stated):
        raise WeightsError(
            f"{path} is damaged: its SHA-256 does not begin with {stated}.", fix="fetch it again."
        )


def _from_torchvision(info: BackboneInfo) -> tuple[Tensors, Path]:
    weights = torchvision.models.get_model_weights(info.name).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if cached.is_file():
        check_name_hash(cached)  # torch.hub checks what it downloads, not what it finds
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True), cached
    except (urllib.error.URLError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        raise WeightsError(
            f"Cannot fetch the ImageNet weights of {info.name}: {reason}.",
            fix=f"fetch {weights.url} where there is a network and put it into {cached.parent} or "
            "into a folder that EDGETL_WEIGHTS names; or give --weights FILE or --weights none.",
        ) from error


def save_classifier(model: Classifier, path: Path, metadata: dict[str, str]) -> None:
    """Write a classifier as safetensors with torchvision's key names, atomically."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.body.state_dict().items()}
    tensors[f"{model.head_name}.weight"] = model.head.weight.detach().cpu().contiguous()
    tensors[f"{model.head_name}.bias"] = model.head.bias.detach().cpu().contiguous()
    write_bytes(path, _ordered(safetensors.torch.save(tensors, metadata=metadata)))


def _ordered(data: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library's order is random."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[end:]


def restore_classifier(model: Classifier, path: Path) -> None:
    """Read what `save_classifier` wrote into `model`, head included."""
    tensors = read_tensors(path)
    assign(model, tensors, source=str(path))
    try:
        head = {k: tensors[f"{model.head_name}.{k}"] for k in ("weight", "bias")}
        model.head.load_state_dict(head)
    except (KeyError, RuntimeError) as error:
        raise WeightsError(
            f"{path} does not hold a head for {model.head.out_features} classes.",
            fix="train the run again.",
        ) from error
