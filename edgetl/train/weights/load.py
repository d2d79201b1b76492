"""Starting weights: ImageNet's, a file's, or none; and how a network is stored."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import safetensors.torch

from edgetl.data.names import shown
from edgetl.errors import WeightsError
from edgetl.files import sha256_file, write_bytes
from edgetl.spec import WeightsOrigin
from edgetl.train.backbones import BackboneInfo, Network, lite
from edgetl.train.weights.places import Place
from edgetl.train.weights.state_dicts import (
    Tensors,
    is_safetensors,
    read_safetensors,
    read_tensors,
    without_prefix,
)

IMAGENET_CLASSES = 1000
AUXILIARY = re.compile(r"aux\d*\.")  # heads that only the original training had


def load_weights(model: Network, info: BackboneInfo, place: Place | None) -> WeightsOrigin:
    """Fill the body of `model` from what `find_weights` found, or leave it; say the origin.

    Every name and shape of the body must match; prefixes of wrappers go, and the file's own head is
    not used: the origin's notes say so. Raises WeightsError that lists the mismatches.
    """
    if place is None:
        return WeightsOrigin(source="random initialisation", licence="none needed")
    path = place.path
    tensors, notes = read_tensors(path)
    if info.source == lite.SOURCE:
        tensors = lite.renamed(model.body, tensors)
    notes += assign(model, tensors, source=str(path))
    return WeightsOrigin(
        source=place.found,
        sha256=sha256_file(path),
        licence=file_licence(path) if place.given else info.licence,
        notes=tuple(notes),
    )


def file_licence(path: Path) -> str:
    """What the file itself says of its licence."""
    metadata = read_safetensors(path)[1] if is_safetensors(path) else {}
    stated = metadata.get("license") or metadata.get("licence")
    return str(stated or "not stated in the file; ask whoever made it")


def assign(model: Network, tensors: Tensors, *, source: str) -> list[str]:
    """Copy `tensors` into the body, as float32; WeightsError lists what does not fit.

    Returns notes on what was left out or converted.
    """
    wanted = model.body.state_dict()
    name = Path(source).name
    tensors, notes = without_prefix(tensors, wanted, name=name)
    tops = {part.partition(".")[0] for part in (model.head_name, *model.other_heads)}
    head = [k for k in tensors if k not in wanted and k.partition(".")[0] in tops]
    given = {
        key: value
        for key, value in tensors.items()
        if key not in head and (key in wanted or not AUXILIARY.match(key))
    }
    if problems := _misfits(given, wanted):
        raise WeightsError(
            f"Weights {source} do not fit the backbone: {shown(problems, 6, '; ', '; and ')}.",
            fix="give the weights of this very backbone, or name their backbone by --backbone.",
        )
    _refuse_not_finite(given, source)
    model.body.load_state_dict(wanted | given)
    return notes + _head_notes({k: tensors[k] for k in head}, name) + _type_notes(given, name)


def _misfits(given: Tensors, wanted: Tensors) -> list[str]:
    optional = {key for key in wanted if key.endswith("num_batches_tracked")}
    problems = [f"{key} is missing" for key in wanted if key not in given and key not in optional]
    problems += [f"{key} is not part of the network" for key in given if key not in wanted]
    for key, value in wanted.items():
        if key not in given:
            continue
        if given[key].shape != value.shape:
            problems.append(f"{key} is {tuple(given[key].shape)}, wanted {tuple(value.shape)}")
        elif value.is_floating_point() and not given[key].is_floating_point():
            problems.append(f"{key} holds {given[key].dtype}, wanted floating point")
    return problems


def _refuse_not_finite(given: Tensors, source: str) -> None:
    """WeightsError that names the tensors with NaN or infinity."""
    bad = {
        key: count
        for key, value in given.items()
        if value.is_floating_point() and (count := int((~value.float().isfinite()).sum()))
    }
    if bad:
        named = shown(f"{key} ({count} of its values)" for key, count in bad.items())
        raise WeightsError(
            f"Weights {source} hold NaN or infinity in {len(bad)} of {len(given)} tensors: "
            f"{named}.",
            fix="take a checkpoint from before their training diverged, or the float32 original of "
            "half-precision weights.",
        )


def _head_notes(head: Tensors, name: str) -> list[str]:
    """A note on a head that is not ImageNet's: whoever made it may expect it to be used."""
    rows = [len(value) for value in head.values() if value.ndim]
    if not rows or rows[-1] == IMAGENET_CLASSES:
        return []
    return [f"{name}: its own head, of {rows[-1]} classes, is not used: a new one is trained"]


def _type_notes(given: Tensors, name: str) -> list[str]:
    kinds = Counter(str(v.dtype).removeprefix("torch.") for v in given.values() if v.ndim)
    return [
        f"{name}: {count} tensors of {kind} were converted to float32"
        for kind, count in kinds.items()
        if kind.startswith(("float", "bfloat")) and kind != "float32"
    ]


def save_network(model: Network, path: Path, metadata: dict[str, str]) -> None:
    """Write a network as safetensors, the body with torchvision's key names, atomically."""
    state = model.body.state_dict() | {
        f"{model.head_name}.{key}": value for key, value in model.head.state_dict().items()
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_bytes(path, _ordered(safetensors.torch.save(tensors, metadata=metadata)))


def _ordered(data: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library's order is random."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[end:]


def restore_network(model: Network, path: Path) -> None:
    """Read what `save_network` wrote into `model`, head included."""
    tensors, _ = read_tensors(path)
    assign(model, tensors, source=str(path))
    try:
        head = {k: tensors[f"{model.head_name}.{k}"] for k in model.head.state_dict()}
        model.head.load_state_dict(head)
    except (KeyError, RuntimeError) as error:
        raise WeightsError(
            f"{path} does not hold the head of its task.", fix="train the run again."
        ) from error
