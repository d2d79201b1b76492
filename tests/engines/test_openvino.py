"""OpenVINO's devices: refusals run for real where there is no Intel GPU or NPU.

What an Intel GPU or NPU does once it is opened was never executed: see the module's docstring.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.engines import Options, find_engine, openvino, ready_engine
from edgetl.errors import EngineError, EngineMissingError
from edgetl.exporter.candidates import Built
from edgetl.recipes import all_recipes, find_recipe

HINT = {"INFERENCE_PRECISION_HINT": "f32"}
DEVICE_RECIPES = ("ov-gpu-fp16", "ov-gpu-int8", "ov-npu-fp16", "ov-npu-int8")
Tiny = Callable[[str], Built]

pytestmark = pytest.mark.skipif(
    find_engine("openvino").missing() is not None, reason="OpenVINO is not here"
)


def opened(tiny: Tiny, session: dict[str, str], precision: str = "fp32") -> Any:
    files = tuple(tiny("ov-fp32").files.values())
    return openvino.open(files, Options(precision=precision, session=session))


def absent(device: str) -> None:
    if any(one.startswith(device[:3]) for one in openvino.devices()):
        pytest.skip(f"this machine has an Intel {device[:3]}")


# --- devices that are not here ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "driver"),
    [("GPU", "intel-opencl-icd"), ("GPU.1", "intel-opencl-icd"), ("NPU", "intel-fw-npu")],
)
def test_an_absent_device_is_refused_with_what_is_here(
    tiny: Tiny, device: str, driver: str
) -> None:
    absent(device)
    session = {"DEVICE": device, "INFERENCE_PRECISION_HINT": "f16"}
    seen = ", ".join(openvino.devices())
    reason = openvino.missing(session)
    assert reason is not None
    assert f"OpenVINO sees no {device} here, only {seen}. Fix: " in str(reason)
    assert driver in reason.fix
    assert "CPU" in seen
    for refuse in (
        lambda: ready_engine("openvino", session),
        lambda: opened(tiny, session, "fp16"),
    ):
        with pytest.raises(EngineMissingError, match=f"sees no {device} here") as error:
            refuse()
        assert driver in error.value.fix


@pytest.mark.parametrize(
    "device", ["AUTO", "AUTO:GPU,CPU", "HETERO:NPU,CPU", "MULTI:CPU", "gpu", "GPU.", "NPU.1", ""]
)
def test_what_chooses_by_itself_is_no_device(tiny: Tiny, device: str) -> None:
    session = {**HINT, "DEVICE": device}
    for refuse in (lambda: ready_engine("openvino", session), lambda: opened(tiny, session)):
        with pytest.raises(EngineError, match=f"cannot have DEVICE = {device!r}") as error:
            refuse()
        assert "choose CPU, GPU, GPU.1 or NPU" in error.value.fix


@pytest.mark.parametrize(
    ("asked", "used", "same"),
    [
        ("GPU", "GPU", True),
        ("GPU", "GPU.0", True),
        ("GPU.0", "GPU", True),
        ("GPU.1", "GPU.1", True),
        ("GPU", "GPU.1", False),
        ("GPU.1", "GPU", False),
        ("GPU.1", "GPU.10", False),
        ("NPU", "NPU", True),
        ("NPU", "NPU.3720", True),
        ("NPU", "CPU", False),
        ("GPU", "CPU", False),
        ("CPU", "(CPU)", False),  # as AUTO says while it falls back
    ],
)
def test_another_device_is_not_the_one_asked_for(asked: str, used: str, same: bool) -> None:
    assert openvino._same(asked, used) is same


def test_an_openvino_that_cannot_be_imported_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino.devices.cache_clear()
    monkeypatch.setattr(openvino, "_started", openvino._started.__wrapped__)  # as in a new process
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: object())
    assert "OpenVINO is installed but cannot be imported" in str(
        openvino.missing({"DEVICE": "GPU"})
    )


def test_asking_for_the_cpu_imports_nothing() -> None:
    """`missing` is asked for each candidate of each bundle."""
    program = """
import sys
from edgetl.engines import openvino
openvino.missing(), openvino.missing({"DEVICE": "CPU", "INFERENCE_PRECISION_HINT": "f32"})
sys.exit("openvino" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- recipes ------------------------------------------------------------------------------------


def test_every_recipe_for_a_device_states_f16() -> None:
    found = {n for n, r in all_recipes().items() if r.session.get("DEVICE", "CPU") != "CPU"}
    assert found == set(DEVICE_RECIPES)
    for name in found:
        recipe = find_recipe(name)
        assert recipe.session["DEVICE"] == name.split("-")[1].upper()
        assert recipe.session[openvino.HINT] == "f16"
        assert recipe.arch == ("x86_64",)


@pytest.mark.parametrize("name", DEVICE_RECIPES)
def test_their_files_load_on_the_cpu(name: str, tiny: Tiny, tiny_images: Any) -> None:
    """That is how they are scored: without the device, in float32 beside the integers."""
    built = tiny(name)
    precision = "int8" if built.recipe.precision == "int8" else "fp32"
    session = openvino.open(tuple(built.files.values()), Options(precision=precision, session=HINT))
    reference = opened(tiny, HINT)
    expected = reference.run(tiny_images[:4])["logits"]
    limit = {"fp32": 1e-5, "int8": 0.15}[precision] * np.ptp(expected)
    assert np.abs(session.run(tiny_images[:4])["logits"] - expected).max() <= limit
    session.close()
    reference.close()


# --- options ------------------------------------------------------------------------------------


def test_the_cpu_may_be_named(tiny: Tiny, tiny_images: Any) -> None:
    named, plain = opened(tiny, {**HINT, "DEVICE": "CPU"}), opened(tiny, HINT)
    one, two = (s.run(tiny_images[:1])["logits"] for s in (named, plain))
    np.testing.assert_array_equal(one, two)
    assert named.describe() == plain.describe()
    assert named.describe().provider == "CPU"


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_threads_are_not_pinned(tiny: Tiny, threads: int) -> None:
    """OpenVINO pins by itself where a number of threads is set, and so do two of its processes."""
    files = tuple(tiny("ov-fp32").files.values())
    session = openvino.open(files, Options(precision="fp32", threads=threads, session=HINT))
    assert session._first is not None
    assert session._first.model.get_property("ENABLE_CPU_PINNING") is False
    session.close()


def test_each_device_gets_only_what_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OpenVINO's NPU plugin lists its properties without an NPU, so this much of it runs here."""
    import openvino as vendor

    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path))
    core = vendor.Core()
    half = Options(precision="fp16", threads=3, session=find_recipe("ov-npu-fp16").session)
    offered = core.get_property("NPU", "SUPPORTED_PROPERTIES")
    found = openvino.properties(core, "NPU", half)
    assert found["PERFORMANCE_HINT"] == "LATENCY"
    assert found["CACHE_DIR"] == str(tmp_path / "openvino")
    assert set(found) <= set(offered)
    assert (openvino.HINT in found) is (openvino.HINT in offered)
    full = Options(precision="fp32", threads=3, session={**HINT, "DEVICE": "CPU"})
    expected = {"PERFORMANCE_HINT": "LATENCY", openvino.THREADS: 3, **HINT}
    expected |= {"ENABLE_CPU_PINNING": False}
    assert openvino.properties(core, "CPU", full) == expected
    if openvino.HINT not in offered:  # then FP32 cannot even be asked for
        with pytest.raises(EngineError, match="its NPU has no option INFERENCE_PRECISION_HINT"):
            openvino.properties(core, "NPU", full)


# --- the request's own memory -------------------------------------------------------------------


def test_the_callers_memory_is_not_kept(tiny: Tiny, tiny_images: Any) -> None:
    """Images are copied into the request: what the caller does with them later changes nothing."""
    session, images = opened(tiny, HINT), tiny_images[:2].copy()
    first = session.run(images)["logits"]
    images[:] = 0
    np.testing.assert_array_equal(session.run(tiny_images[:2])["logits"], first)
    dark = session.run(images)["logits"]
    assert np.abs(dark - first).max() > 0.01
    dark[:] = np.nan  # nor is what it was given part of the engine
    np.testing.assert_array_equal(session.run(tiny_images[:2])["logits"], first)


def test_batches_of_several_sizes_take_turns(tiny: Tiny, tiny_images: Any) -> None:
    session = opened(tiny, HINT)
    expected = np.concatenate([session.run(tiny_images[i : i + 1])["logits"] for i in range(6)])
    for start, stop in ((0, 3), (3, 4), (1, 4), (2, 4), (0, 6), (5, 6), (0, 3)):
        found = session.run(tiny_images[start:stop])["logits"]
        np.testing.assert_allclose(found, expected[start:stop], atol=1e-5)


def test_few_batch_sizes_stay_compiled(
    tiny: Tiny, tiny_images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, compiled, compile_ = opened(tiny, HINT), [], openvino.OvSession._compile

    def noted(self: Any, batch: int) -> Any:
        compiled.append(batch)
        return compile_(self, batch)

    monkeypatch.setattr(openvino.OvSession, "_compile", noted)
    for count in (2, 3, 4, 1, 5, 2, 5, 4):  # 4 are kept: 2 went for 5, and 3 for 2
        session.run(tiny_images[:count])["logits"]
    assert compiled == [2, 3, 4, 5, 2]
    for count in range(1, 17):
        session.run(tiny_images[:count])["logits"]
    assert len(session._sizes.clear()) == 4


def test_threads_do_not_wait_for_a_lock_while_they_run(tiny: Tiny, tiny_images: Any) -> None:
    """Each has a request of its own, and requests are used again."""
    session = opened(tiny, HINT)
    first = session._first.request()
    session.run(tiny_images[:1])["logits"]
    session._first.idle.append(first)
    for _ in range(10):
        session.run(tiny_images[:1])["logits"]
    assert len(session._first.idle) == 2


# --- the cache of compiled models ---------------------------------------------------------------


def test_the_cache_is_its_owners_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    folder = Path(openvino._blobs())
    assert folder == tmp_path / "cache" / "openvino"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert openvino._blobs() == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_a_folder_there_is_no_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "file"))
    assert openvino._blobs() == ""


def test_the_cpu_leaves_nothing_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Tiny, tiny_images: Any
) -> None:
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    opened(tiny, HINT).run(tiny_images[:1])
    assert not os.path.lexists(tmp_path / "cache")
