"""A given network whose graph holds the number 1 for the images: it runs one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import edgetl
from edgetl.bundle import open_bundle
from edgetl.errors import EngineError, TraceError, UsageError
from edgetl.exporter.export import Export, export
from edgetl.exporter.onnx.checks import check_onnx
from edgetl.exporter.onnx.importing.given import read_given
from edgetl.exporter.onnx.importing.importer import OUTPUT, import_onnx
from edgetl.exporter.quantize.qat.train import train_integers
from edgetl.runtime.selftest import self_test
from edgetl.runtime.session import open_session
from edgetl.spec import Normalize
from tests.exporter import small

MEAN, STD = small.NORMALIZE.mean, small.NORMALIZE.std


def mixing() -> bytes:
    """The small network for one image, less half of the mean over all images: half of itself.

    With several images a run, each one's result would depend on the others.
    """
    model = onnx.load_model_from_string(small.given())
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.node[-1].output[0] = "own"
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["own"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Mul", ["mean", "half"], ["part"]),
            helper.make_node("Sub", ["own", "part"], [OUTPUT]),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.folder(tmp_path_factory.mktemp("photos") / "photos", per_class=16)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Export:
    folder = tmp_path_factory.mktemp("single")
    (folder / "mixing.onnx").write_bytes(mixing())
    return export(
        folder / "mixing.onnx",
        target="x86-vnni,jetson-orin-nano",
        out=folder / "mixing.edgetl",
        calib=photos,
        mean=MEAN,
        std=STD,
        fit="squash",
        max_drop=0.5,
        qat="always",
        search="never",
    )


def test_the_canonical_takes_one() -> None:
    imported = import_onnx(read_given(mixing()), normalize=Normalize(mean=MEAN, std=STD))
    assert imported.single
    assert "takes one image a run, as its graph holds that number" in imported.notes
    check_onnx(imported.canonical)
    own = small.run(small.canonical(), small.pictures(1))
    assert small.run(imported.canonical, small.pictures(1)) == pytest.approx(own / 2, abs=1e-4)


def test_every_candidate_runs_any_number(exported: Export) -> None:
    images = small.pictures(5, 300)
    wanted = small.run(small.canonical(), images) / 2
    with open_bundle(exported.bundle) as bundle:
        assert bundle.manifest.single_image
        assert all(check.passed is not False for check in self_test(bundle))
        ran = 0
        for candidate in bundle.manifest.candidates:
            if candidate.engine == "tensorrt" or candidate.rejected is not None:
                continue
            session, ran = open_session(bundle, candidate), ran + 1
            out = session.run(images)["logits"]
            assert out.shape == (5, 3)
            assert np.abs(out - wanted).max() < 0.25 * np.ptp(wanted), candidate.name
            assert np.array_equal(session.run(images[3:4])["logits"], out[3:4])
            with pytest.raises(EngineError, match="reads uint8 images"):
                session.run(images[:0])["logits"]
            session.close()
    assert ran >= 3
    assert {c.engine for c in exported.candidates if c.rejected is None} >= {
        "onnxruntime",
        "openvino",
        "tensorrt",
    }


def test_several_at_once_are_refused_where_they_were_asked_for(exported: Export) -> None:
    for verb in (edgetl.bench, edgetl.build):
        with pytest.raises(UsageError, match="--batch 2 is not possible: the network in"):
            verb(exported.bundle, batch=2)
    assert edgetl.bench(exported.bundle, precision="fp32", duration=0.1).rows


def test_training_says_why_it_is_left_out(exported: Export) -> None:
    imported = import_onnx(read_given(mixing()), normalize=Normalize(mean=MEAN, std=STD))
    with pytest.raises(TraceError, match="takes one image a run; training needs several"):
        train_integers(
            small.context(model=imported.canonical), rounding="asymmetric", progress=lambda _: None
        )
    assert [n for n in exported.notes if n.startswith("QAT: The network takes one image a run")]


def test_four_that_influence_each_other_are_refused() -> None:
    """A file for four at a time would have to be given the same image four times."""
    model = onnx.load_model_from_string(mixing())
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    with pytest.raises(TraceError, match=r"rewritten model differs|free \(dynamic\) batch"):
        import_onnx(
            read_given(bytes(model.SerializeToString())),
            normalize=Normalize(mean=MEAN, std=STD),
            images=small.pictures(5),
        )
