"""Device profiles: every packaged file, what it refers to, and its facts' consistency."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetl.errors import UnknownNameError, UsageError
from edgetl.recipes import all_devices, all_recipes, find_device, parse_toml
from edgetl.spec import Device

ROOT = Path(__file__).resolve().parent.parent
DEVICES = all_devices()


def test_every_file_is_a_device_of_its_name() -> None:
    assert {path.stem for path in (ROOT / "devices").glob("*.toml")} == set(DEVICES)
    for name, device in DEVICES.items():
        assert device.name == name
        assert device.title
        assert find_device(name) is device


def test_the_promised_devices_are_there() -> None:
    assert {"cpu", "x86-avx2", "x86-vnni", "x86-vnni-bf16"} <= set(DEVICES)
    assert {"raspberry-pi-4", "raspberry-pi-5"} <= set(DEVICES)
    members = {"jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor"}
    assert set(DEVICES["jetson"].members) == members
    unsupported = {name for name, device in DEVICES.items() if not device.runtime}
    assert unsupported == {"jetson-nano", "jetson-xavier-nx"}


@pytest.mark.parametrize("device", DEVICES.values(), ids=lambda device: device.name)
def test_recipes_and_members_resolve(device: Device) -> None:
    recipes = [all_recipes()[name] for name in device.recipes]
    assert recipes
    assert len(set(device.recipes)) == len(device.recipes)
    for recipe in recipes:
        assert not device.arch or not recipe.arch or device.arch in recipe.arch, recipe.name
    if device.runtime and device.arch != "":
        assert "ort-fp32" in device.recipes  # every CPU bundle carries it
    for member in device.members:
        assert DEVICES[member].kind == device.kind
        assert DEVICES[member].runtime
        # A family's bundle runs on each member: it holds whatever the member wants.
        assert set(DEVICES[member].recipes) <= set(device.recipes)


@pytest.mark.parametrize("device", DEVICES.values(), ids=lambda device: device.name)
def test_facts_agree_with_each_other(device: Device) -> None:
    assert len(device.jetpack) == len(device.tensorrt)
    assert device.arch in {"", "x86_64", "aarch64"}
    if device.kind == "x86":
        assert device.arch == "x86_64"
        assert ("ov-bf16" in device.recipes) == ("avx512_bf16" in device.features)
    if device.cpu[:2].strip("x").isdigit():
        assert device.cpu.startswith(f"{device.cores}x ")
    if device.tops_int8_dense and device.tflops_fp16_dense:
        assert device.tops_int8_dense == pytest.approx(2 * device.tflops_fp16_dense, rel=0.02)
    if device.tops_int8_dense or device.memory_gib:
        assert device.sources


def test_the_readme_explains_every_field() -> None:
    text = (ROOT / "devices" / "README.md").read_text("utf-8").split("## Fields")[1]
    named = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert sorted(named) == sorted(Device.__struct_fields__)


def test_unknown_keys_are_refused_by_name() -> None:
    data = (ROOT / "devices" / "cpu.toml").read_bytes() + b"\ntemprature = 3\n"
    with pytest.raises(UsageError, match=r"devices/cpu\.toml: .*unknown field `temprature`"):
        parse_toml(data, Device, where="devices/cpu.toml")


def test_an_unknown_target_gets_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown target 'jetson-orin-nanoo'") as caught:
        find_device("jetson-orin-nanoo")
    assert caught.value.nearest[0] == "jetson-orin-nano"
    with pytest.raises(
        UnknownNameError, match=r"did you mean jetson-agx-orin, jetson-orin-n"
    ) as caught:
        find_device("Orin")
    assert set(caught.value.nearest) == {"jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin"}
