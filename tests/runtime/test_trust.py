"""A candidate whose self-test fails on this machine does not run here unless it was asked for."""

from __future__ import annotations

import io
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import edgetl
from edgetl.bundle import open_bundle, write_bundle
from edgetl.bundle.manifest import Artifact, Candidate
from edgetl.engines import Options, find_engine, onnxruntime
from edgetl.errors import EngineError
from edgetl.exporter.candidates import build
from edgetl.exporter.context import BuildContext
from edgetl.exporter.golden import golden_members
from edgetl.files import sha256_bytes
from edgetl.machine import this_machine
from edgetl.recipes import find_recipe
from edgetl.runtime import trust
from edgetl.runtime.local import known
from edgetl.runtime.trust import best_candidate
from edgetl.tasks.base import join

RECIPES = ("ort-int8", "ov-int8", "ort-fp32")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def spoiled(
    write_tiny: Callable[..., Path], tiny_logits: Callable[[str], Any], tmp_path: Path
) -> Callable[..., Path]:
    """A bundle whose listed candidates compute something else here than is expected of them."""

    def make(*recipes: str) -> Path:
        members = {f"golden/{name}/logits.npy": npy(tiny_logits(name)[::-1]) for name in recipes}
        return write_tiny(tmp_path / "b.edgetl", RECIPES, None, members)

    return make


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def chosen(path: Path, **options: str) -> str:
    with edgetl.load(path, **options) as model:
        return model.candidate.name


def test_all_is_well_in_silence(spoiled: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert chosen(spoiled()) == "ort-int8"
    assert not caplog.records


@pytest.mark.parametrize(
    ("wrong", "runs"), [(("ort-int8",), "ov-int8"), (("ort-int8", "ov-int8"), "ort-fp32")]
)
def test_the_next_best_runs_instead(
    spoiled: Any, wrong: tuple[str, ...], runs: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = spoiled(*wrong)
    for _ in range(2):  # found out, and then known
        caplog.clear()
        assert chosen(path) == runs
        (said,) = caplog.messages
        assert said.startswith("the self-test fails on this machine (")
        for recipe in wrong:
            assert re.search(rf"{recipe}: logits are off by up to [0-9.]+ of their range", said)
        assert said.endswith(f"; {runs} runs instead")


def test_it_is_tested_once_a_machine(spoiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spoiled("ort-int8")
    assert chosen(path) == "ov-int8"
    with open_bundle(path) as opened:
        verdicts = known(opened.sha256).verdicts
    assert {name: v.passed for name, v in verdicts.items()} == {"ort-int8": False, "ov-int8": True}

    def never(*_: object) -> None:
        raise AssertionError("tested again")

    monkeypatch.setattr(trust, "check_session", never)
    assert chosen(path) == "ov-int8"
    monkeypatch.setattr(trust, "engine_version", lambda _: "another")
    monkeypatch.setattr("edgetl.runtime.local.engine_version", lambda _: "another")
    with pytest.raises(AssertionError, match="tested again"):
        chosen(path)


def test_without_a_cache_it_is_tested_at_each_start(
    spoiled: Any, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file where a folder should be")
    path = spoiled("ort-int8")
    assert [chosen(path), chosen(path)] == ["ov-int8", "ov-int8"]
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    "asked",
    [{"candidate": "ort-int8"}, {"engine": "onnxruntime", "precision": "int8"}],
    ids=["candidate", "engine and precision"],
)
def test_what_was_asked_for_runs_and_it_is_said(
    spoiled: Any, asked: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert chosen(spoiled("ort-int8"), **asked) == "ort-int8"
    (said,) = caplog.messages
    assert "ort-int8: logits are off by up to" in said
    assert said.endswith("runs all the same, as it was asked for")


def test_an_engine_that_was_asked_for_is_kept_to(
    spoiled: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert chosen(spoiled("ort-int8"), engine="onnxruntime") == "ort-fp32"
    assert chosen(spoiled("ort-int8"), precision="int8") == "ov-int8"
    assert all("instead" in said for said in caplog.messages)


def test_where_none_computes_right_nothing_is_chosen(spoiled: Any) -> None:
    with pytest.raises(EngineError, match=r"No candidate of .* ort-int8: .* ort-fp32: ") as error:
        chosen(spoiled(*RECIPES))
    assert "inspect --verify" in error.value.fix
    assert "--candidate" in error.value.fix


def test_an_engine_that_fails_in_its_self_test_is_passed_by(
    spoiled: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, real = spoiled(), onnxruntime.OrtSession.run

    def run(session: Any, *given: Any) -> Any:
        if session.describe().precision == "int8":
            raise EngineError("It failed.", fix="mend it.")
        return real(session, *given)

    monkeypatch.setattr(onnxruntime.OrtSession, "run", run)
    with open_bundle(path) as opened:
        assert best_candidate(opened).recipe == "ov-int8"
    assert "ort-int8: It failed. Fix: mend it.; ov-int8 runs instead" in caplog.text


# --- processors whose INT8 overflows ----------------------------------------------------------


@pytest.fixture
def overflowing(tiny_source: Any, tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of a network whose INT8 sums leave 16 bits: bright inner values, weights alike.

    Exact here; with the instructions of older processors, OpenVINO's kernels saturate.
    """
    here = this_machine()
    if here.arch != "x86_64" or not here.vnni:
        pytest.skip("the expected logits need a processor with exact INT8 sums, of x86")
    if find_engine("openvino").missing() is not None:
        pytest.skip("needs OpenVINO")
    source = type(tiny_source)(tiny_source.images)
    source.canonical = lambda: alike(tiny_source.canonical())
    material, inputs = BuildContext(source, source.canonical()), source.images[:8]
    files: dict[str, bytes] = {}
    listed, expected = [], {}
    for name in ("ov-int8", "ort-fp32"):
        built = build(find_recipe(name), material)
        kind = built.recipe
        options = Options(precision=kind.precision, session=kind.session)
        session = find_engine(kind.engine).open(tuple(built.files.values()), options)
        expected[name] = join([session.run(image[np.newaxis]) for image in inputs])
        session.close()
        files |= built.files
        stated = {"name": name, "recipe": name, "engine": kind.engine, "precision": kind.precision}
        listed.append(Candidate(**stated, session=kind.session, artifacts=tuple(built.files)))
    with open_bundle(tiny_bundle) as opened:
        manifest = opened.manifest
    golden, members = golden_members(inputs, expected, manifest.input)
    artifacts = tuple(
        Artifact(path=k, size=len(d), sha256=sha256_bytes(d)) for k, d in files.items()
    )
    manifest = msgspec.structs.replace(
        manifest,
        order=("ov-int8", "ort-fp32"),
        orders={},
        artifacts=artifacts,
        candidates=tuple(listed),
        chosen="ov-int8",
        golden=golden,
    )
    members |= files
    write_bundle(tmp_path / "bright.edgetl", manifest, members)
    return tmp_path / "bright.edgetl"


def alike(canonical: bytes) -> bytes:
    model, rng = onnx.load_from_string(canonical), np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            values = rng.uniform(0.1, 0.12, tensor.dims) * rng.choice([-1, 1], (32, 1, 1, 1))
        elif tensor.name == "b1":
            values = np.full(tensor.dims, 8.0)
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return bytes(model.SerializeToString())


def test_saturating_int8_is_noticed_and_does_not_run(
    overflowing: Path, cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    Image.new("RGB", (32, 32), "white").save(tmp_path / "a.png")
    old = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "EDGETL_CACHE": str(tmp_path / "old")}
    done = cli("predict", overflowing, tmp_path / "a.png")
    assert "ov-int8 on openvino" in done.stderr
    assert "self-test" not in done.stderr
    done = cli("predict", overflowing, tmp_path / "a.png", env=old)
    assert done.returncode == 0
    assert "the self-test fails on this machine" in done.stderr
    assert "ov-int8: logits are" in done.stderr
    assert "ort-fp32 runs instead" in done.stderr
    done = cli("inspect", "--verify", overflowing, env=old)
    assert done.returncode == 1
    assert "the self-test failed: ov-int8. Fix: use what passed" in done.stderr
    assert "ort-fp32; for the others, run `edgetl export` on this machine" in done.stderr
