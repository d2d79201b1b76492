"""Which recipes targets, an engine, a precision, --dla and --recipe amount to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgetl.engines import Missing, openvino, tensorrt
from edgetl.errors import UnknownNameError, UsageError
from edgetl.exporter import plan as planning
from edgetl.exporter.plan import BASELINE, plan
from edgetl.machine import this_machine
from edgetl.recipes import all_devices, all_recipes, find_recipe

ROOT = Path(__file__).resolve().parents[2]
OTHER = {"x86_64": "aarch64", "aarch64": "x86_64"}


def names(target: str, engine: str = "auto", precision: str = "auto", **options: Any) -> list[str]:
    return [recipe.name for recipe in plan(target, engine, precision, **options).recipes]


@pytest.fixture
def arch(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make this machine another one."""

    def be(name: str) -> None:
        machine = msgspec.structs.replace(this_machine(), arch=name)
        monkeypatch.setattr(planning, "this_machine", lambda: machine)

    return be


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a packaged recipe with changed fields: `write("ort-int8", name="mine")`."""

    def make(base: str, **changes: Any) -> Path:
        text = (ROOT / "export" / f"{base}.toml").read_text("utf-8")
        for key, value in changes.items():
            lines = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
            text = "\n".join([f"{key} = {value!r}", *lines])
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.toml"
        path.write_text(text, "utf-8")
        return path

    return make


@pytest.mark.parametrize("target", sorted(all_devices()))
def test_every_target_has_the_baseline_once(target: str) -> None:
    found = names(target)
    assert found.count(BASELINE) == 1
    assert len(found) >= 2
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(("name", "int8"), [("x86_64", "ort-int8"), ("aarch64", "ort-int8-arm")])
def test_this_machine_is_given_what_its_processor_runs(
    name: str, int8: str, arch: Callable[[str], None]
) -> None:
    arch(name)
    assert names("cpu", "onnxruntime") == ["ort-fp32", int8]


def test_engine_and_precision_narrow_it_and_the_baseline_stays() -> None:
    assert names("cpu", "openvino") == [
        *("ov-fp32", "ov-bf16", "ov-int8", "ov-int8-symmetric", BASELINE)
    ]
    assert names("cpu", "openvino", "int8") == ["ov-int8", "ov-int8-symmetric", BASELINE]
    assert names("cpu", precision="fp32") == ["ort-fp32", "ov-fp32"]
    assert names("jetson", "tensorrt", "fp16") == ["trt-fp16-strong", "trt-fp16-weak", BASELINE]
    assert names("jetson", "tensorrt") == [
        "trt-int8-strong",
        "trt-fp16-strong",
        "trt-int8-weak",
        "trt-fp16-weak",
        BASELINE,
    ]


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
    for targets in (wrong, f"cpu,{wrong}"):
        with pytest.raises(UnknownNameError, match=f"Unknown target '{wrong}': did you") as got:
            plan(targets)
        assert near in got.value.nearest
        assert "edgetl devices" in got.value.fix


# --- several targets --------------------------------------------------------------------------


def test_several_targets_share_a_plan_with_tensorrt_first(arch: Callable[[str], None]) -> None:
    arch("x86_64")
    found = plan("cpu, jetson,raspberry-pi-5")
    assert [device.name for device in found.devices] == ["cpu", "jetson", "raspberry-pi-5"]
    listed = [recipe.name for recipe in found.recipes]
    assert len(set(listed)) == len(listed)
    wanted = {name for d in found.devices for name in d.recipes}
    assert set(listed) == wanted
    engines = [recipe.engine for recipe in found.recipes]
    first = engines.index("onnxruntime")
    assert set(engines[:first]) == {"tensorrt"}
    assert "tensorrt" not in engines[first:]
    # within each part, the order of the profiles in the order in which they were named
    assert listed[:first] == names("jetson", "tensorrt")[:-1]
    cpu = names("cpu")
    assert listed[first : first + len(cpu)] == cpu


def test_only_what_is_meant_for_this_machine_is_measured(arch: Callable[[str], None]) -> None:
    arch("x86_64")
    assert plan("cpu").measured == set(names("cpu"))
    assert plan("jetson,raspberry-pi-5").measured == frozenset()
    both = plan("cpu,raspberry-pi-5")
    assert "ort-int8-arm" in [recipe.name for recipe in both.recipes]
    assert both.measured == set(names("cpu"))  # or the board's recipe would be refused here


@pytest.mark.parametrize("targets", ["cpu,cpu", "cpu, cpu", "jetson,cpu,jetson"])
def test_a_target_that_is_named_twice_is_refused(targets: str) -> None:
    with pytest.raises(UsageError, match="names a device twice"):
        plan(targets)


@pytest.mark.parametrize("targets", ["", ",", "cpu,", ",cpu"])
def test_an_empty_target_is_refused(targets: str) -> None:
    with pytest.raises((UnknownNameError, UsageError)) as got:
        plan(targets)
    assert got.value.fix


# --- the deep learning accelerator ------------------------------------------------------------


def test_dla_recipes_are_tried_only_when_asked_for() -> None:
    agx = all_devices()["jetson-agx-orin"]
    assert agx.dla_recipes == ("trt-fp16-dla-strong", "trt-fp16-dla-weak")
    without = names("jetson-agx-orin")
    assert not set(agx.dla_recipes) & set(without)
    found = names("jetson-agx-orin", dla=True)
    assert [name for name in found if name not in agx.dla_recipes] == without
    assert tuple(name for name in found if name not in without) == agx.dla_recipes
    assert set(found[:6]) == {name for name in found if name.startswith("trt")}


def test_dla_of_several_targets_is_that_of_those_that_have_one() -> None:
    found = names("jetson-orin-nano,jetson-orin-nx", dla=True)
    assert "trt-fp16-dla-weak" in found
    assert "trt-fp16-dla-strong" not in found


def test_what_was_asked_for_is_not_left_out_by_the_other_options(
    write: Callable[..., Path],
) -> None:
    with pytest.raises(
        UsageError, match=r"--precision int8 leave out trt-fp16-dla-strong, "
    ) as got:
        plan("jetson-agx-orin", precision="int8", dla=True)
    assert "--dla" in got.value.fix
    mine = write("ort-int8", name="mine")
    with pytest.raises(UsageError, match="--engine openvino, --precision auto leave out mine"):
        plan("cpu", "openvino", extra=[mine])


@pytest.mark.parametrize("target", ["cpu", "jetson-orin-nano", "jetson-thor", "raspberry-pi-5"])
def test_dla_where_there_is_none_is_refused(target: str) -> None:
    with pytest.raises(UsageError, match=f"No deep learning accelerator is known of {target}"):
        plan(target, dla=True)


# --- recipes of one's own ---------------------------------------------------------------------


def test_a_recipe_file_is_tried_and_measured(write: Callable[..., Path]) -> None:
    mine = write("ort-int8", name="mine", calibration=["minmax"], exclude=["Gemm"])
    found = plan("cpu", extra=[mine])
    assert [recipe.name for recipe in found.recipes] == [*names("cpu"), "mine"]
    assert found.recipes[-1].calibration == ("minmax",)
    assert found.recipes[-1].exclude == ("Gemm",)
    assert "mine" in found.measured
    assert "mine" not in plan("jetson", extra=[mine]).measured
    assert names("cpu", "onnxruntime", "int8", extra=[mine])[-2:] == ["mine", BASELINE]


def test_a_recipe_file_for_another_target_is_not_measured_here(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = write("trt-fp16-weak", name="my-trt")
    arm = write("ort-fp32", name="my-arm", arch=[OTHER[this_machine().arch]])
    ov = write("ov-fp32", name="my-ov")
    monkeypatch.setattr(tensorrt, "missing", lambda _=None: Missing("It is not here.", "get it"))
    found = plan("cpu,jetson", extra=[trt, arm, ov])
    assert found.recipes[4].name == "my-trt"  # behind the profile's own
    assert found.measured & {"my-trt", "my-arm", "my-ov"} == {"my-ov"}
    monkeypatch.setattr(openvino, "missing", lambda _=None: Missing("Nor this.", "get both"))
    assert plan("cpu,jetson", extra=[ov]).measured == set(names("cpu"))
    # where this machine is the only target, trying it is what was asked for
    assert "my-ov" in plan("cpu", extra=[ov]).measured


def test_a_recipe_file_with_an_unknown_field(write: Callable[..., Path]) -> None:
    path = write("ort-fp32", name="mine", colour="red")
    with pytest.raises(UsageError, match=rf"^{path}: .*unknown field `colour`"):
        plan("cpu", extra=[path])


@pytest.mark.parametrize("taken", ["ort-fp32", "ort-int8", "trt-int8-strong"])
def test_the_name_of_a_packaged_recipe_is_refused(taken: str, write: Callable[..., Path]) -> None:
    path = write(taken, title="other")
    with pytest.raises(UsageError, match=f"is named '{taken}', as a recipe of edgetl is") as got:
        plan("cpu", extra=[path])
    assert "name of its own" in got.value.fix


@pytest.mark.parametrize(
    "taken", ["fp32", "inputs", "pixels", "ort-int8-qat", "ov-int8-mixed", "ov-int8-mixed3"]
)
def test_names_of_other_things_in_a_bundle_are_refused(
    taken: str, write: Callable[..., Path]
) -> None:
    """`models/fp32.onnx` is the baseline's; what --qat and --search add is named after recipes."""
    path = write("ort-int8", name=taken)
    with pytest.raises(UsageError, match=f"is named '{taken}', as a part of every bundle"):
        plan("cpu", extra=[path])


def test_no_packaged_recipe_has_such_a_name() -> None:
    import re

    assert not [name for name in all_recipes() if re.fullmatch(planning.TAKEN, name)]


@pytest.mark.parametrize("name", ["../evil", "a/b", "A", "a b", "", "-a", "a.onnx", "é", "a\\b"])
def test_a_name_that_is_no_part_of_a_path_is_refused(name: str, write: Callable[..., Path]) -> None:
    path = write("ort-fp32", name=name)
    with pytest.raises(UsageError, match=r"cannot be part of a file's name") as got:
        plan("cpu", extra=[path])
    assert str(path) in got.value.message


def test_a_contradictory_recipe_file_is_refused(write: Callable[..., Path]) -> None:
    path = write("ort-fp32", name="mine", form="nncf")
    with pytest.raises(UsageError, match=r"onnxruntime has no form 'nncf'"):
        plan("cpu", extra=[path])


@pytest.mark.parametrize(
    ("base", "session", "said"),
    [
        ("ort-fp32", "'session.use_env_allocators' = '1'", "onnxruntime may not set"),
        ("ov-fp32", "INFERENCE_PRECISION_HINT = 'f32', CACHE_DIR = '/tmp'", "may not set .*CACHE"),
        ("ov-fp32", "INFERENCE_PRECISION_HINT = 'f8'", "cannot have INFERENCE_PRECISION_HINT"),
        ("trt-fp16-weak", "typing = 'weak', plugin = 'x.so'", "tensorrt may not set .*'plugin'"),
        ("trt-fp16-weak", "typing = 'weak', dla = 'first'", "cannot have dla = 'first'"),
    ],
)
def test_a_recipe_file_sets_only_what_a_candidate_may(
    base: str, session: str, said: str, write: Callable[..., Path]
) -> None:
    path = write(base, name="mine")
    lines = [line for line in path.read_text("utf-8").splitlines() if "session" not in line]
    path.write_text("\n".join([f"session = {{ {session} }}", *lines]), "utf-8")
    with pytest.raises(UsageError, match=said) as error:
        plan("cpu", extra=[path])
    assert error.value.message.startswith(f"{path}: ")
    assert error.value.fix


def test_two_recipe_files_of_one_name_are_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="Two --recipe files have one name"):
        plan("cpu", extra=[write("ort-fp32", name="mine"), write("ov-fp32", name="mine")])


def test_a_recipe_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.toml", tmp_path):
        with pytest.raises(UsageError, match=rf"Cannot read --recipe {path}: "):
            plan("cpu", extra=[path])
    noise = tmp_path / "noise.toml"
    noise.write_bytes(b"\xff\x00")
    with pytest.raises(UsageError, match=r"noise\.toml: .*utf-8"):
        plan("cpu", extra=[noise])


def test_the_helper_writes_what_it_says(write: Callable[..., Path]) -> None:
    found = plan("cpu", extra=[write("ort-int8", name="mine")]).recipes[-1]
    assert msgspec.structs.replace(found, name="ort-int8") == find_recipe("ort-int8")
