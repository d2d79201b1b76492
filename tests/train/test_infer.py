"""Forward passes: folding, dtype and batching change logits by no more than rounding."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import numpy as np
import pytest
import torch

from edgetl.spec import Normalize
from edgetl.train import infer
from edgetl.train.backbones import Network
from edgetl.train.fold import folded
from edgetl.train.infer import forward_rows, keep_to_cores, normalise
from tests.helpers import build_classifier

NORMALIZE = Normalize()


def settled(name: str) -> Network:
    """A network whose batch normalisation has statistics, so that its logits have a scale."""
    model = build_classifier(name, 3, seed=0)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            torch.manual_seed(0)
            model(torch.randn(16, 3, 48, 48))
    return model.eval()


def photos(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 48, 48, 3), np.uint8)


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x0_5", "efficientnet_b0"])
def test_folding_changes_only_the_last_digits(name: str, single: None) -> None:
    model, images = settled(name), photos(5)
    rows = np.arange(5)
    plain = forward_rows(model, images, rows, NORMALIZE, device="cpu", fold=False)["logits"]
    fast = forward_rows(model, images, rows, NORMALIZE, device="cpu")["logits"]
    assert plain.dtype == np.float32
    assert plain.shape == (5, 3)
    np.testing.assert_allclose(fast, plain, atol=1e-4 * np.abs(plain).max())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded(model).modules())


def test_the_network_given_is_left_as_it_is(single: None) -> None:
    model = settled("shufflenet_v2_x0_5").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    forward_rows(model, photos(2), np.arange(2), NORMALIZE, device="cpu")
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_rows_are_taken_in_the_order_asked_across_batches(
    single: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer, "BATCH", 4)
    model, images = settled("squeezenet1_1"), photos(10)
    rows = np.array([9, 0, 3, 3, 7, 1])
    counted: list[int] = []
    out = forward_rows(model, images, rows, NORMALIZE, device="cpu", advance=counted.append)[
        "logits"
    ]
    each = [
        forward_rows(model, images, np.array([r]), NORMALIZE, device="cpu")["logits"][0]
        for r in rows
    ]
    np.testing.assert_allclose(out, np.stack(each), atol=1e-4)
    assert counted == [4, 2]


def test_normalise_is_what_the_weights_were_trained_with() -> None:
    images = torch.from_numpy(photos(2))
    ours = normalise(images, NORMALIZE)
    mean = torch.tensor(NORMALIZE.mean).view(1, 3, 1, 1)
    std = torch.tensor(NORMALIZE.std).view(1, 3, 1, 1)
    theirs = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_what_torch_fx_cannot_follow_is_run_as_it_is() -> None:
    class Branching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.norm(x) if x.sum() > 0 else -self.norm(x)).mean(dim=(2, 3))

    rows = np.arange(2)
    ours = forward_rows(Branching(), photos(2), rows, NORMALIZE, device="cpu")[infer.FEATURES]
    plain = forward_rows(Branching(), photos(2), rows, NORMALIZE, device="cpu", fold=False)[
        infer.FEATURES
    ]
    np.testing.assert_array_equal(ours, plain)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (64, 2)])
def test_torch_keeps_to_the_cores_of_this_process(
    cores: int, threads: int, monkeypatch: pytest.MonkeyPatch, single: None
) -> None:
    """Fewer threads than that, which a user may have set, stay as they are."""
    torch.set_num_threads(2)
    monkeypatch.setattr(infer, "available_cores", lambda: cores)
    keep_to_cores()
    assert torch.get_num_threads() == threads


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_memory_is_kept_from_one_tensor_to_the_next_and_then_given_back() -> None:
    """Counted in faults of pages, 4 KiB each, of blocks that are freed at once.

    Afterwards blocks of the sizes that glibc keeps by itself are kept as before.
    """
    code = (
        "import resource, sys\n"
        "from edgetl.train.infer import memory_kept\n"
        "def faults(mib=64):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(20):\n"
        "        bytearray(mib << 20)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "start, before = resident(), faults()\n"
        "with memory_kept():\n"
        "    with memory_kept():\n"
        "        pass\n"
        "    kept = faults()\n"
        "print(before, kept, faults(), resident() - start, faults(2))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, kept, after, grown, small = map(int, done.stdout.split())
    assert kept < before / 10
    assert after > before / 2
    assert grown < 32 << 20
    assert small < before / 10
