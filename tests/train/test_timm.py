"""timm's backbones: how they are read, what is refused, and the contract of three families."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import edgetl
from edgetl.bundle import open_bundle
from edgetl.errors import EngineMissingError, UnknownNameError, UsageError, WeightsError
from edgetl.inputs.image import ImageInput
from edgetl.train.backbones import all_backbones, build_network, find_backbone, fused, timm

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("timm", reason="timm is not installed")


@pytest.fixture(scope="module")
def contract() -> Any:
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module("benchmarks.backbone_contract").contract
    finally:
        sys.path.remove(str(ROOT))


@pytest.mark.parametrize(
    ("name", "integers"),
    [
        ("timm/mobilenetv4_conv_small", ("trt-int8-weak",)),
        ("timm/repvit_m0_9", ()),
        ("timm/starnet_s1", ("ort-int8",)),
    ],
)
def test_the_contract(contract: Any, name: str, integers: tuple[str, ...]) -> None:
    """Built, traced, equal to itself in ONNX Runtime, and quantized or refused with a reason."""
    found = contract(name, 64, ("ort-fp32", *integers))
    assert found["opset"] == 17
    exact = found["candidates"]["ort-fp32"]
    assert exact["refused"] is None
    assert exact["divergence"] < 1e-6
    for row in found["candidates"].values():
        assert row["divergence"] is not None or row["refused"]


def test_it_is_read_as_timm_s_configuration_states() -> None:
    info = find_backbone("timm/mobilenetv4_conv_small")
    assert info.name == "timm/mobilenetv4_conv_small.e2400_r224_in1k"
    assert (info.size, info.interpolation, info.licence) == (224, "bicubic", "apache-2.0")
    assert info.url.endswith(f"/{info.name}/resolve/main/model.safetensors")
    assert info.gflops is not None
    assert 0.1 < info.gflops < 0.3
    other = find_backbone("timm/mobilenetv4_conv_small.e1200_r224_in1k")
    assert other.weights != info.weights
    assert find_backbone("timm/fastvit_t8").licence == "fastvit-license"


def test_the_list_holds_what_is_compact() -> None:
    found = all_backbones("timm")
    assert len(found) > 200
    assert all(info.parameters < 12_000_000 for info in found.values())
    assert all(name.startswith("timm/") for name in found)
    row = timm.table()["tf_efficientnet_lite0.in1k"]
    assert row.parameters == find_backbone("efficientnet_lite0").parameters
    assert row.gflops == pytest.approx(0.407, abs=0.03)  # its makers count more
    assert row.imagenet_top1 == pytest.approx(0.748, abs=0.01)


@pytest.mark.parametrize("name", ["timm/mobileone_s0", "timm/repvit_m0_9", "timm/fastvit_t8"])
def test_branches_of_training_are_fused_and_answer_alike(name: str) -> None:
    network = build_network(name, 3, "logits", seed=0).eval()
    plain = fused(network, find_backbone(name).name)
    count, less = (sum(1 for _ in n.parameters()) for n in (network, plain))
    assert less < count
    size = find_backbone(name).size
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted, found = network(images)["logits"], plain(images)["logits"]
    assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("timm/mobilenetv4_conv_smal", UnknownNameError, "did you mean timm/mobilenetv4_conv_smal"),
        ("timm/mobilenetv4_conv_small.nope", WeightsError, "timm has no weights .*it has timm/"),
        ("timm/", UnknownNameError, "Unknown backbone"),
    ],
)
def test_what_timm_does_not_have_is_refused(
    name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        find_backbone(name)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    timm.library.cache_clear()
    timm.find.cache_clear()
    with pytest.raises(EngineMissingError) as got:
        find_backbone("timm/mobilenetv4_conv_small")
    assert got.value.fix == "pip install 'edgetl[timm]'"


def test_a_network_of_one_size_takes_no_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes images of 224x224 pixels and no others"):
        edgetl.finetune(
            tmp_path, out=tmp_path / "run", backbone="timm/vit_tiny_patch16_224", size=256
        )


def test_a_run_keeps_the_filter_and_takes_a_crop_of_its_own(shapes: Path, tmp_path: Path) -> None:
    """With weights of a file, as no download is possible; all else is as after one."""
    name = "timm/lcnet_050.ra2_in1k"
    torch.save(build_network(name, 3, "logits", seed=0).body.state_dict(), tmp_path / "w.pth")
    record = edgetl.finetune(
        shapes, out=tmp_path / "run", backbone="timm/lcnet_050", size=64,
        weights=tmp_path / "w.pth", strategy="probe", crop_pct=0.9,
    )  # fmt: skip
    assert record.config.backbone == name
    assert isinstance(record.input, ImageInput)
    assert (record.input.crop, record.input.interpolation) == (0.9, "bicubic")
    assert "timm" in record.versions


@pytest.mark.slow
def test_a_fused_network_is_what_the_bundle_runs(shapes: Path, tmp_path: Path) -> None:
    name = "timm/mobileone_s0"
    torch.save(build_network(name, 3, "logits", seed=0).body.state_dict(), tmp_path / "w.pth")
    edgetl.finetune(
        shapes, out=tmp_path / "run", backbone=name, size=64, weights=tmp_path / "w.pth",
        strategy="probe",
    )  # fmt: skip
    bundle = tmp_path / "one.edgetl"
    edgetl.export(
        tmp_path / "run", out=bundle, target="cpu", engine="onnxruntime", precision="fp32"
    )
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
        graph = onnx.load_from_string(
            opened.read(manifest.candidate("ort-fp32").artifacts[0])
        ).graph
    assert manifest.input.interpolation == find_backbone(name).interpolation  # type: ignore[attr-defined]
    whole = build_network(name, 3, "logits", seed=0)
    branches = sum(isinstance(module, torch.nn.Conv2d) for module in whole.modules())
    assert sum(node.op_type == "Conv" for node in graph.node) < branches / 2
    assert (
        edgetl.evaluate(bundle, shapes).metrics == edgetl.evaluate(tmp_path / "run", shapes).metrics
    )
