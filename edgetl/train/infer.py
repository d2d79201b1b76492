"""Forward passes over cached pixels: fast frozen features, and FP32 reference outputs of a run.

What a run's network answers here is what every candidate is compared with.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgetl.errors import TrainingError
from edgetl.inputs.base import Pixels
from edgetl.machine import available_cores
from edgetl.runs.folder import MODEL
from edgetl.runs.record import RunRecord
from edgetl.spec import Normalize, Split
from edgetl.tasks.base import Outputs, finite, join
from edgetl.train.backbones import Network
from edgetl.train.fold import folded
from edgetl.train.tasks.base import twin_of
from edgetl.train.weights import restore_network

BATCH = 32
FEATURES = "features"
# glibc's mallopt: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX. It raises the two thresholds by
# itself, up to those of USUAL, but no more once it was told anything.
KEEP = {-1: 2**31 - 1, -4: 0}
USUAL = {-1: 64 << 20, -3: 32 << 20, -4: 65536}


class NotFiniteError(TrainingError):
    """NaN or infinity; `rows` are the photos' numbers, within `split` where one is set."""

    def __init__(self, what: str, rows: npt.NDArray[np.int64], split: Split | None = None) -> None:
        super().__init__(
            f"{what} is NaN or infinity for {len(rows)} photos.", fix="try other starting weights."
        )
        self.what, self.rows, self.split = what, rows, split


def keep_to_cores() -> None:
    """Let torch use no more threads than this process may: it does not know of CPU quotas."""
    if (cores := available_cores()) < torch.get_num_threads():
        torch.set_num_threads(cores)


_keeping: list[None] = []  # one for each block that is within `memory_kept`
_settling = threading.Lock()


def _tell_glibc(options: dict[int, int]) -> None:
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and hasattr(library, "malloc_trim"):
        for option, value in options.items():
            library.mallopt(option, value)
        if options is USUAL:
            library.malloc_trim(0)


@contextlib.contextmanager
def memory_kept() -> Iterator[None]:
    """Keep what tensors free for the next ones, within glibc; given back to the system at the end.

    By default large blocks come from the kernel anew for every layer, page by page, each cleared
    first, which takes about as long as a forward pass computes. Other C libraries are left alone.
    """
    with _settling:
        _keeping.append(None)
        _tell_glibc(KEEP)
    try:
        yield
    finally:
        with _settling:
            _keeping.pop()
            if not _keeping:
                _tell_glibc(USUAL)


def normalise(images: torch.Tensor, normalize: Normalize) -> torch.Tensor:
    """uint8 `(N, H, W, 3)` → normalised float32 `(N, 3, H, W)`, channels-last."""
    mean = torch.tensor(normalize.mean, device=images.device) * 255
    scale = 1 / (torch.tensor(normalize.std, device=images.device) * 255)
    return ((images.float() - mean) * scale).permute(0, 3, 1, 2)


def forward_rows(
    model: nn.Module,
    pixels: Pixels,
    rows: npt.NDArray[np.int64],
    normalize: Normalize,
    *,
    device: Literal["cpu", "cuda"],
    fold: bool = True,
    advance: Callable[[int], None] = lambda _: None,
) -> Outputs:
    """Outputs float32 `(len(rows), …)` of `model` for rows of `pixels (N, H, W, 3)`.

    A model that returns one tensor, as a body does, has the output FEATURES. `fold` computes
    by `folded`, which is faster and equal up to rounding. Raises NotFiniteError with the
    rows whose outputs are NaN or infinity.
    """
    ready = folded(model, device) if fold else copy.deepcopy(model).eval()
    ready = ready.to(device)
    parts: list[Outputs] = []
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            block = torch.from_numpy(np.ascontiguousarray(pixels[rows[start : start + BATCH]]))
            found = ready(normalise(block.to(device), normalize))
            named = found if isinstance(found, dict) else {FEATURES: found}
            parts.append({name: tensor.float().cpu().numpy() for name, tensor in named.items()})
            advance(len(block))
    outputs = join(parts)
    good = finite(outputs)
    if not good.all():
        raise NotFiniteError("The network's output", rows[~good])
    return outputs


def load_network(run: Path, record: RunRecord) -> Network:
    """The run's network in evaluation mode."""
    keep_to_cores()
    model = twin_of(record.task).network(record.config.backbone, seed=0)
    restore_network(model, run / MODEL)
    return model.eval()


@memory_kept()
def reference_outputs(model: Network, record: RunRecord, images: Pixels) -> Outputs:
    """FP32 eager outputs `(N, …)`; nothing folded, nothing cast."""
    rows = np.arange(len(images), dtype=np.int64)
    return forward_rows(model, images, rows, record.normalize, device="cpu", fold=False)
