"""What all engines share: options that a candidate may set, and batch sizes that are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgetl
from edgetl.engines import ENGINES, Options, check_settings, find_engine, openvino, ready_engine
from edgetl.engines.base import SIZES, Recent
from edgetl.errors import EngineError, EngineMissingError
from edgetl.recipes import all_recipes

HOSTILE = {
    "onnxruntime": {
        "session.collect_node_memory_stats_to_file": "out.csv",
        "session.model_external_initializers_file_folder_path": ".",
        "session.optimized_model_external_initializers_file_name": "out.bin",
        "session.debug_layout_transformation": "1",
        "session.load_model_format": "ORT",
        "session.disable_quant_qdq": "1",
        "session.set_denormal_as_zero": "1",
        "session.intra_op_thread_affinities": "1",
        "session.x64quantprecision": "0",
        "ep.context_enable": "1",
        "ep.context_file_path": "out.onnx",
        "optimization.minimal_build_optimizations": "save",
    },
    "openvino": {
        "CACHE_DIR": "out",
        "CONFIG_FILE": "out.xml",
        "WEIGHTS_PATH": "weights.bin",
        "DUMP_EXEC_GRAPH_AS_DOT": "out",
        "DEVICE_ID": "1",
        "MULTI_DEVICE_PRIORITIES": "GPU,CPU",
        "INFERENCE_NUM_THREADS": "100000",
        "NUM_STREAMS": "64",
        "ENABLE_CPU_PINNING": "YES",
        "PERF_COUNT": "YES",
        "LOG_LEVEL": "LOG_TRACE",
        "inference_precision_hint": "f32",
    },
    "tensorrt": {
        "plugin": "evil.so",
        "setPluginsToSerialize": "evil.so",
        "engine_host_code_allowed": "1",
        "timing_cache": "out.cache",
        "profiling_verbosity": "detailed",
        "tactics": "0",
        "workspace": "1099511627776",
        "DLA": "0",
        "builder_optimization_level": "5",
        "version_compatible": "1",
        "temporary_directory": ".",
        "graph ": "on",
    },
}
NEEDED: dict[str, dict[str, str]] = {
    "onnxruntime": {},
    "openvino": {openvino.HINT: "f32"},
    "tensorrt": {"typing": "weak"},
}


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name in ENGINES.own for key in HOSTILE[name]]
)
def test_options_that_no_recipe_uses_are_refused(
    name: Any,
    key: str,
    write_tiny: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the engine is here or not, and before it is touched."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    session = NEEDED[name] | {key: HOSTILE[name][key]}
    changes = {"engine": name, "session": session, "arch": ()}
    bundle = write_tiny(tmp_path / "x.edgetl", ("ort-fp32",), {"ort-fp32": changes})
    for refuse in (
        lambda: ready_engine(name, session),
        lambda: find_engine(name).open((b"\x08\x08",), Options(precision="fp16", session=session)),
        lambda: edgetl.load(bundle),
    ):
        with pytest.raises(EngineError, match=f"candidate of {name} may not set .*{key!r}") as got:
            refuse()
        assert not isinstance(got.value, EngineMissingError)
        assert "it may set" in got.value.fix
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "session"),
    [
        ("openvino", {openvino.HINT: "int3"}),
        ("openvino", {openvino.HINT: "F32"}),
        ("openvino", {openvino.HINT: "f32\n"}),
        ("openvino", {openvino.HINT: "f32", "DEVICE": "GPU.-1"}),
        ("tensorrt", {"typing": ""}),
        ("tensorrt", {"typing": "weak", "dla": "1000"}),
        ("tensorrt", {"typing": "weak", "dla": "\u0663"}),  # a digit, but no ASCII one
        ("tensorrt", {"typing": "weak", "graph": "always"}),
    ],
)
def test_values_that_no_option_has_are_refused(name: Any, session: dict[str, str]) -> None:
    with pytest.raises(EngineError, match=f"candidate of {name} cannot have ") as error:
        ready_engine(name, session)
    assert "choose" in error.value.fix
    assert error.value.message.isprintable()


def test_every_packaged_recipe_keeps_to_what_may_be_set() -> None:
    used: dict[str, set[str]] = {name: set() for name in ENGINES.own}
    for stated in all_recipes().values():
        check_settings(stated.engine, stated.session)
        used[stated.engine] |= set(stated.session)
    # of TensorRT: for recipes of one's own; of ONNX Runtime: for what it is a proxy of
    optional = {"external_tactics", "graph", "qdq"}
    for name in ENGINES.own:
        assert set(find_engine(name).SETTABLE) - optional == used[name]


def test_many_options_are_one_short_line() -> None:
    with pytest.raises(EngineError) as error:
        ready_engine("onnxruntime", {f"{'x' * 5000}\x1b[31m{i}": "1" for i in range(100)})
    assert "and 97 more" in error.value.message
    assert len(error.value.message) < 400
    assert error.value.message.isprintable()


def test_few_batch_sizes_are_kept_and_always_that_of_one() -> None:
    kept: Recent[str] = Recent()
    assert [kept.put(size, str(size)) for size in range(1, SIZES + 1)] == [None] * SIZES
    assert kept.get(2) == "2"  # used now, so that 3 is the longest unused
    assert kept.put(50, "50") == "3"
    assert kept.get(3) is None
    assert [kept.get(size) for size in (1, 2, 50)] == ["1", "2", "50"]
    assert [kept.put(size, "x") for size in range(100, 100 + SIZES)][-1] == "x"
    assert kept.get(1) == "1"
    assert len(kept.clear()) == SIZES
    assert kept.get(1) is None
