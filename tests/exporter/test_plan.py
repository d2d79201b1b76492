"""Which recipes a target, an engine and a precision amount to."""

from __future__ import annotations

import pytest

from edgetl.devices import all_devices
from edgetl.errors import UnknownNameError, UsageError
from edgetl.exporter import plan as planning
from edgetl.exporter.plan import BASELINE, plan
from edgetl.machine import this_machine


def names(target: str, engine: str = "auto", precision: str = "auto") -> list[str]:
    return [recipe.name for recipe in plan(target, engine, precision)[1]]


@pytest.mark.parametrize("target", sorted(all_devices()))
def test_every_target_has_the_baseline_once(target: str) -> None:
    found = names(target)
    assert found.count(BASELINE) == 1
    assert len(found) >= 2


@pytest.mark.parametrize(("arch", "int8"), [("x86_64", "ort-int8"), ("aarch64", "ort-int8-arm")])
def test_this_machine_is_given_what_its_processor_runs(
    arch: str, int8: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import msgspec

    machine = msgspec.structs.replace(this_machine(), arch=arch)
    monkeypatch.setattr(planning, "this_machine", lambda: machine)
    found = names("cpu", "onnxruntime")
    assert found == ["ort-fp32", int8]


def test_engine_and_precision_narrow_it_and_the_baseline_stays() -> None:
    assert names("cpu", "openvino") == ["ov-fp32", "ov-bf16", "ov-int8", BASELINE]
    assert names("cpu", "openvino", "int8") == ["ov-int8", BASELINE]
    assert names("cpu", precision="fp32") == ["ort-fp32", "ov-fp32"]
    assert names("jetson", "tensorrt", "fp16") == ["trt-fp16-strong", "trt-fp16-weak", BASELINE]


def test_what_a_target_has_not_is_refused_with_what_it_has() -> None:
    with pytest.raises(UsageError, match=r"Target cpu has no recipe for .* precision fp16") as got:
        plan("cpu", "auto", "fp16")
    assert "onnxruntime fp32" in got.value.fix
    assert "openvino bf16" in got.value.fix
    with pytest.raises(UsageError, match="no recipe for engine tensorrt"):
        plan("cpu", "tensorrt")


@pytest.mark.parametrize(
    ("wrong", "near"), [("jetson-orin-nan", "jetson-orin-nano"), ("raspberry", "raspberry-pi-5")]
)
def test_an_unknown_target_brings_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Unknown target '{wrong}': did you mean") as got:
        plan(wrong)
    assert near in got.value.nearest
    assert "edgetl devices" in got.value.fix
