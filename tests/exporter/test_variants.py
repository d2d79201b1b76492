"""Candidates beyond whole recipes: trained integers, and mixed placements."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgetl.bundle.manifest import Candidate
from edgetl.errors import EngineError
from edgetl.exporter import variants as improve
from edgetl.exporter.backends import backend_of
from edgetl.exporter.job import ExportJob
from edgetl.exporter.plan import plan
from edgetl.exporter.quantize.qat import train as qat
from edgetl.exporter.search import search as searching
from edgetl.exporter.search.blocks import blocks
from edgetl.exporter.variants import add_placements, add_trained, search_pays
from edgetl.recipes import find_recipe
from tests.exporter import small

pytestmark = pytest.mark.usefixtures("single")

Make = Callable[..., ExportJob]


@pytest.fixture
def said() -> list[str]:
    """What a job says."""
    return []


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> Make:
    """A job on the small network whose whole recipes are tried, with a quick search."""
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(searching, "TURNS", 2)
    monkeypatch.setattr(searching, "RUNS", 2)
    monkeypatch.setattr(qat, "LEAST_STEPS", 4)
    monkeypatch.setattr(qat, "PASSES", 20)  # a few steps are luck for random weights

    def of(target: str = "cpu", *, model: bytes | None = None, blocks: int = 1) -> ExportJob:
        source = small.SmallSource(model or small.canonical(blocks=blocks))
        planned = plan(target, "tensorrt" if target == "jetson" else "onnxruntime")
        job = ExportJob(
            source,
            planned,
            engine="auto",
            precision="auto",
            max_drop=0.02,
            progress=said.append,
        )
        job.try_recipes(planned.recipes)
        return job

    return of


def silent() -> bytes:
    """The small network with a classifier that answers the same to everything."""
    model = onnx.load_model_from_string(small.canonical(blocks=1))
    head = next(n for n in model.graph.node if n.op_type == "Gemm")
    for stored in model.graph.initializer:
        if stored.name == head.input[1]:
            zeros = np.zeros_like(numpy_helper.to_array(stored))
            stored.CopyFrom(numpy_helper.from_array(zeros, stored.name))
    return bytes(model.SerializeToString())


def integer_layers(model: bytes) -> set[str]:
    """Convolutions and products that read a dequantized image or feature."""
    graph = onnx.load_model_from_string(model).graph
    makers = {o: n.op_type for n in graph.node for o in n.output}
    return {
        n.name
        for n in graph.node
        if n.op_type in ("Conv", "Gemm") and makers.get(n.input[1]) == "DequantizeLinear"
    }


def without_suffix(names: set[str]) -> set[str]:
    return {name.removesuffix("_quant") for name in names}


# --- training ---------------------------------------------------------------------------------


def test_trained_candidates_of_every_int8_recipe(make: Make, said: list[str]) -> None:
    job = make()
    notes = add_trained(job)
    assert len(notes) == 1
    assert notes[0].startswith("QAT: 60 steps brought the divergence from FP32 from")
    assert set(job.candidates) == {"ort-fp32", "ort-int8", "ort-int8-qat"}
    found = job.candidates["ort-int8-qat"]
    assert (found.precision, found.engine) == ("int8", "onnxruntime")
    assert found.quantization is not None
    assert found.quantization.trained
    assert found.quantization.kept_float == ()
    assert found.agreement is not None
    assert not found.provisional  # it is measured here, as its recipe is
    built = job.built["ort-int8-qat"]
    assert list(built.files) == ["models/ort-int8-qat.onnx"]
    assert built.files != job.built["ort-int8"].files
    whole = job.candidates["ort-int8"].quantization
    assert whole is not None
    assert not whole.trained
    assert [text for text in said if text.startswith("QAT: step 60 of 60")]


def test_trained_candidates_of_another_machine_stay_provisional(make: Make) -> None:
    job = make("jetson")
    add_trained(job)
    trained = {name: c for name, c in job.candidates.items() if name.endswith("-qat")}
    assert set(trained) == {"trt-int8-weak-qat", "trt-int8-strong-qat"}
    assert all(c.provisional for c in trained.values())
    for candidate in trained.values():  # random weights need not keep agreement
        assert candidate.rejected is None or candidate.rejected.startswith("divergence")
        assert candidate.agreement is not None
        assert candidate.agreement > 0.8


@pytest.mark.parametrize(("target", "rounding"), [("cpu", "asymmetric"), ("jetson", "symmetric")])
def test_the_coarser_rounding_is_trained_for(
    target: str, rounding: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = [], qat.train_integers

    def noted(context: Any, **options: Any) -> Any:
        asked.append(options["rounding"])
        return real(context, **options)

    monkeypatch.setattr(qat, "train_integers", noted)
    add_trained(make(target))
    assert asked == [rounding]


def test_how_an_engine_rounds_activations() -> None:
    plain = msgspec.structs.replace(find_recipe("ov-int8"), preset="")
    assert backend_of(plain).rounding(plain) == "signed"  # as NNCF takes it
    rounding = {
        name: backend_of(find_recipe(name)).rounding(find_recipe(name))
        for name in ("ort-int8", "ort-int8-arm", "ov-int8", "ov-int8-symmetric", "trt-int8-weak")
    }
    assert rounding == {
        "ort-int8": "asymmetric",
        "ort-int8-arm": "symmetric",
        "ov-int8": "asymmetric",
        "ov-int8-symmetric": "signed",
        "trt-int8-weak": "symmetric",
    }


def test_training_without_gain_adds_nothing(make: Make) -> None:
    job = make(model=silent())
    notes = add_trained(job)
    assert notes[0].endswith("the weights stay as they were")
    assert set(job.candidates) == {"ort-fp32", "ort-int8"}
    assert job.trained is None


def test_training_without_torch_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from edgetl.errors import EngineMissingError\n"
        "from edgetl.exporter.variants import trained_context\n"
        "try: trained_context(None, [], print)\n"
        "except EngineMissingError as error: print(error.message, error.fix)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "--qat needs packages that are not installed." in done.stdout
    assert "pip install" in done.stdout


# --- placements -------------------------------------------------------------------------------


def test_placements_are_built_in_full(make: Make) -> None:
    job = make()
    parts = blocks(job.context.canonical)
    notes = add_placements(job, 600)
    added = [c for name, c in job.candidates.items() if "mixed" in name]
    assert len(added) >= 1
    names = [c.name for c in added]
    if len(added) == 1:
        assert names == ["ort-int8-mixed"]
    else:
        assert names == [f"ort-int8-mixed{i}" for i in range(1, len(added) + 1)]
    whole = without_suffix(integer_layers(job.built["ort-int8"].files["models/ort-int8.onnx"]))
    for candidate in added:
        assert not candidate.provisional
        assert candidate.quantization is not None
        assert not candidate.quantization.trained
        kept = candidate.quantization.kept_float
        assert kept
        assert set(kept) <= set(parts)
        files = job.built[candidate.name].files
        assert list(files) == [f"models/{candidate.name}.onnx"]
        inside = without_suffix(integer_layers(next(iter(files.values()))))
        assert inside == whole - frozenset().union(*(parts[name] for name in kept))
    assert job.context.used is not None
    assert job.context.used.n == 96  # not only the few that the search builds from
    assert notes[0].startswith("search: ")
    assert notes[0].endswith(f"{len(added)} built in full")


def test_one_placement_has_no_number(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real = improve.finalists
    monkeypatch.setattr(improve, "finalists", lambda *given: real(*given)[-1:])
    job = make()
    add_placements(job, 600)
    assert set(job.candidates) == {"ort-fp32", "ort-int8", "ort-int8-mixed"}


def test_placements_of_trained_integers(make: Make) -> None:
    """The search starts from what is nearest to FP32 while nothing is measured."""
    job = make()
    add_trained(job)
    trained, whole = (
        msgspec.structs.replace(job.candidates[name], agreement=agreement, rejected="too far off")
        for name, agreement in (("ort-int8-qat", 1.0), ("ort-int8", 0.5))
    )
    job.candidates |= {"ort-int8-qat": trained, "ort-int8": whole}
    add_placements(job, 600)
    added = [c for name, c in job.candidates.items() if "mixed" in name]
    assert added
    for candidate in added:
        assert candidate.name.startswith("ort-int8-qat-mixed")
        assert candidate.quantization is not None
        assert candidate.quantization.trained
        assert candidate.quantization.kept_float
        assert not candidate.provisional


@pytest.mark.parametrize("how", ["time", "Ctrl-C"])
def test_the_note_says_what_ended_it(how: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make()

    def say(text: str) -> None:
        if how == "Ctrl-C" and text.startswith("search: trial 3"):
            raise KeyboardInterrupt

    job.say = say
    notes = add_placements(job, 600 if how == "Ctrl-C" else 1e-9)
    ended = {"time": "0 placements of ort-int8 in 0 s, 0 built in full; its time was over ended it"}
    if how == "time":
        assert notes == [f"search: {ended['time']}"]
    else:
        assert notes[0].startswith("search: 2 placements of ort-int8 in ")
        assert notes[0].endswith("; Ctrl-C ended it")


def test_nothing_to_search_is_said(make: Make) -> None:
    assert add_placements(make("jetson"), 600) == [
        "nothing to search: no INT8 candidate runs on this machine"
    ]


def test_a_placement_that_fails_after_all_is_a_refused_candidate(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise EngineError("It is too large", fix="make it smaller")

    monkeypatch.setattr(improve, "build", fails)
    job = make()
    add_placements(job, 600)
    refused = [c for name, c in job.candidates.items() if "mixed" in name]
    assert refused
    assert {c.rejected for c in refused} == {"It is too large (make it smaller)"}


# --- when it pays -----------------------------------------------------------------------------


def row(name: str, precision: Any, p50: float | None = None, **changes: Any) -> Candidate:
    return Candidate(
        name=name,
        recipe=name,
        engine="onnxruntime",
        precision=precision,
        artifacts=(),
        p50_ms=p50,
        **changes,
    )


@pytest.mark.parametrize(
    ("rows", "pays"),
    [
        ([row("a", "fp32", 1.0), row("b", "int8", 2.0)], True),  # slower
        ([row("a", "fp32", 2.0), row("b", "int8", 1.0)], False),  # fastest, and passed
        ([row("a", "fp32", 1.0), row("b", "int8", rejected="no")], True),  # below the gate
        (
            [row("a", "fp32", 3.0), row("b", "int8", 1.0, rejected="no"), row("c", "int8", 2.0)],
            False,
        ),
        ([row("a", "fp32", 1.0), row("b", "bf16", 0.5)], False),  # nothing to place
        ([row("a", "fp32", 1.0), row("b", "int8", provisional=True)], False),  # for another machine
        ([row("a", "fp32"), row("b", "int8")], False),  # nothing was measured
        ([], False),
    ],
)
def test_search_pays(rows: list[Candidate], pays: bool, make: Make) -> None:
    job = make()
    job.candidates = {candidate.name: candidate for candidate in rows}
    assert search_pays(job) is pays


def test_the_search_starts_from_the_fastest_that_was_measured(make: Make) -> None:
    job = make()
    add_trained(job)
    slow, fast = job.candidates["ort-int8"], job.candidates["ort-int8-qat"]
    replace = msgspec.structs.replace
    job.candidates = {"ort-int8": slow, "ort-int8-qat": replace(fast, p50_ms=2.0)}
    assert improve._searched(job) == [job.candidates["ort-int8-qat"]]
    job.candidates["ort-int8"] = replace(slow, p50_ms=1.0)
    assert improve._searched(job) == [job.candidates["ort-int8"]]
    job.candidates = {"ort-int8": replace(slow, agreement=0.9, provisional=True)}
    assert improve._searched(job) == []
