"""ONNX Runtime's INT8 stays close to FP32, keeps its interface, and leaves preprocessing alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgetl.errors import EngineError, UsageError
from edgetl.exporter import ort_int8 as module
from edgetl.exporter.check import INPUT, NORMALIZED, check_onnx
from edgetl.exporter.ort_int8 import ort_int8
from edgetl.recipes import find_recipe
from edgetl.spec import Recipe

Pictures = Callable[..., np.ndarray]
Run = Callable[[bytes, np.ndarray], np.ndarray]
Deviation = Callable[[np.ndarray, np.ndarray], float]

ORT = Recipe(
    name="ort-int8",
    title="",
    engine="onnxruntime",
    precision="int8",
    form="ort-qdq",
    min_agreement=0.95,
    activation="quint8",
    per_channel=True,
)
SIGNED = msgspec.structs.replace(ORT, activation="qint8")
FOLDED = msgspec.structs.replace(ORT, fold_normalisation=True)

pytestmark = pytest.mark.usefixtures("temporary")


def graph_of(data: bytes) -> onnx.GraphProto:
    return onnx.load_model_from_string(data).graph


def quantized(graph: onnx.GraphProto) -> set[str]:
    """Names of nodes that read weights through DequantizeLinear."""
    made_by = {o: n for n in graph.node for o in n.output}
    return {
        n.name
        for n in graph.node
        if len(n.input) > 1 and getattr(made_by.get(n.input[1]), "op_type", "") in DQ
    }


DQ = {"DequantizeLinear"}


def scale_of(data: bytes, tensor: str) -> float:
    """Scale of the first QuantizeLinear of a tensor."""
    graph = graph_of(data)
    first = next(n for n in graph.node if n.input[0] == tensor and n.op_type == "QuantizeLinear")
    stored = {i.name: i for i in graph.initializer}
    return float(numpy_helper.to_array(stored[first.input[1]]))


@pytest.mark.parametrize("recipe", [ORT, SIGNED, FOLDED], ids=["quint8", "qint8", "folded"])
@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_it_is_close_and_quiet(
    method: Any,
    recipe: Recipe,
    *,
    blocks_master: bytes,
    pictures: Pictures,
    run_onnx: Run,
    deviation: Deviation,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """All calibrations and both activation types; nothing is printed."""
    data = ort_int8(blocks_master, pictures(24), recipe, method)
    assert capfd.readouterr() == ("", "")
    check_onnx(data)
    images = pictures(40, seed=1)
    reference = run_onnx(blocks_master, images)
    assert deviation(run_onnx(data, images), reference) < 0.25
    assert run_onnx(data, images[:1]).shape == (1, 10)


@pytest.mark.parametrize("recipe", [ORT, SIGNED], ids=["quint8", "qint8"])
def test_the_network_alone_is_quantized(
    recipe: Recipe, blocks_master: bytes, pictures: Pictures
) -> None:
    """Preprocessing and logits stay float32; weights are int8 per channel, zero points as asked."""
    data = ort_int8(blocks_master, pictures(8), recipe, "minmax")
    assert data == ort_int8(blocks_master, pictures(8), recipe, "minmax")
    graph = graph_of(data)
    head = [n for n in graph.node if n.name.startswith("preprocess/")]
    assert [n.op_type for n in head] == ["Cast", "Transpose", "Sub", "Mul"]
    assert not any("Linear" in name for n in head for name in n.input)
    made_by = {o: n for n in graph.node for o in n.output}
    assert made_by["logits"].op_type == "Gemm"
    stored = {i.name: i for i in graph.initializer}
    for conv in (n for n in graph.node if n.op_type == "Conv"):
        sources = [made_by[name] for name in conv.input]
        assert {s.op_type for s in sources} == {"DequantizeLinear"}
        weight, scale = (stored[n] for n in sources[1].input[:2])
        assert weight.data_type == TensorProto.INT8
        assert list(scale.dims) == [weight.dims[0]]
    signed = recipe.activation == "qint8"
    points = [stored[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert {p.data_type for p in points} == {TensorProto.INT8 if signed else TensorProto.UINT8}
    if signed:
        assert not any(numpy_helper.to_array(p).any() for p in points)


def test_every_photo_is_read_one_by_one(
    blocks_master: bytes, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Histograms are filled in short stretches, so that memory does not grow with the photos."""
    read: list[int] = []
    get_next = module._Reader.get_next

    def spy(self: Any) -> Any:
        feed = get_next(self)
        read.append(0 if feed is None else len(feed["images"]))
        return feed

    monkeypatch.setattr(module._Reader, "get_next", spy)
    methods: tuple[Any, ...] = ("minmax", "percentile")
    for method in methods:
        read.clear()
        ort_int8(blocks_master, pictures(9), ORT, method)
        assert sum(read) == 9
        assert max(read) == 1
    assert read == [1, 1, 1, 0] * 3
    assert [module._stride(n) for n in (1, 7, 9, 256, 300)] == [1, 1, 3, 4, 4]


def test_one_bright_photo_widens_the_range(blocks_master: bytes) -> None:
    """No photo is forgotten: the last of many sets the scale of the input."""
    images = np.full((9, 48, 48, 3), 120, np.uint8)
    images[-1] = 255

    def scale(images: np.ndarray) -> float:
        return scale_of(ort_int8(blocks_master, images, ORT, "minmax"), NORMALIZED)

    assert scale(images) > 2 * scale(images[:-1])


# --- ranges that are known already --------------------------------------------------------------


def test_ranges_are_kept_for_other_placements(
    blocks_master: bytes,
    pictures: Pictures,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second file is made without a look at the photos, and is the same."""
    ranges = tmp_path_factory.mktemp("ranges") / "ranges.json"
    images = pictures(8)
    first = ort_int8(blocks_master, images, ORT, "percentile", ranges=ranges)
    assert ranges.is_file()
    assert first == ort_int8(blocks_master, images, ORT, "percentile")

    def refuse(_: Any) -> None:
        raise AssertionError("it was calibrated again")

    monkeypatch.setattr(module._Reader, "get_next", refuse)
    assert ort_int8(blocks_master, images, ORT, "percentile", ranges=ranges) == first
    kept = frozenset({"Conv_1"})
    mixed = ort_int8(blocks_master, images, ORT, "percentile", keep_float=kept, ranges=ranges)
    assert mixed != first


@pytest.mark.parametrize("recipe", [ORT, SIGNED], ids=["quint8", "qint8"])
def test_trained_ranges_go_before_measured_ones(
    recipe: Recipe, blocks_master: bytes, pictures: Pictures
) -> None:
    graph = graph_of(blocks_master)
    relu6 = next(n for n in graph.node if n.op_type == "Clip").output[0]
    plain = ort_int8(blocks_master, pictures(8), recipe, "minmax")
    trained = {relu6: (-1.0, 3.0), "nowhere": (0.0, 1.0)}
    data = ort_int8(blocks_master, pictures(8), recipe, "minmax", trained=trained)
    signed = recipe.activation == "qint8"
    expected = 6 / 254 if signed else 4 / 255
    assert scale_of(data, relu6) == pytest.approx(expected, rel=0.01)
    assert scale_of(plain, relu6) != pytest.approx(expected, rel=0.01)
    assert scale_of(data, NORMALIZED) == scale_of(plain, NORMALIZED)


# --- what stays in floating point ---------------------------------------------------------------


def test_nodes_and_operator_types_stay_in_float(blocks_master: bytes, pictures: Pictures) -> None:
    names = [n.name for n in graph_of(blocks_master).node if n.op_type in ("Conv", "Gemm")]
    assert len(names) == 8
    whole = graph_of(ort_int8(blocks_master, pictures(4), ORT, "minmax"))
    assert set(names) <= quantized(whole)
    kept = frozenset(names[2:4])
    some = graph_of(ort_int8(blocks_master, pictures(4), ORT, "minmax", keep_float=kept))
    assert quantized(some) == quantized(whole) - kept
    stored = {i.name: i.data_type for i in some.initializer}
    for node in (n for n in some.node if n.name in kept):
        assert stored[node.input[1]] == TensorProto.FLOAT
    recipe = msgspec.structs.replace(ORT, exclude=("Gemm",))
    none = graph_of(ort_int8(blocks_master, pictures(4), recipe, "minmax"))
    assert quantized(whole) - quantized(none) == {n for n in names if "Gemm" in n}


# --- normalisation in the first convolution -----------------------------------------------------


def test_a_folded_file_reads_pixels_as_integers(blocks_master: bytes, pictures: Pictures) -> None:
    """Nothing but a transposition stands before the first DequantizeLinear."""
    graph = graph_of(ort_int8(blocks_master, pictures(8), FOLDED, "minmax"))
    readers = [n for n in graph.node if INPUT in n.input]
    assert [n.op_type for n in readers] == ["Transpose"]
    following = [n for n in graph.node if readers[0].output[0] in n.input]
    assert [n.op_type for n in following] == ["DequantizeLinear"]
    stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    _, scale, zero = following[0].input
    assert float(stored[scale]) == 1.0
    assert stored[zero].dtype == np.uint8
    assert 110 <= int(stored[zero]) <= 125  # the mean of ImageNet's means, of 255
    assert not {"Cast", "Sub"} & {n.op_type for n in graph.node}


def test_folding_is_for_unsigned_activations(blocks_master: bytes, pictures: Pictures) -> None:
    recipe = msgspec.structs.replace(SIGNED, fold_normalisation=True)
    images = pictures(4)
    folded = ort_int8(blocks_master, images, recipe, "minmax")
    assert folded == ort_int8(blocks_master, images, SIGNED, "minmax")


def test_a_stem_that_stays_in_float_reads_pixels_all_the_same(
    blocks_master: bytes, pictures: Pictures, run_onnx: Run, deviation: Deviation
) -> None:
    stem = next(n.name for n in graph_of(blocks_master).node if n.op_type == "Conv")
    kept = frozenset({stem})
    data = ort_int8(blocks_master, pictures(16), FOLDED, "minmax", keep_float=kept)
    assert stem not in quantized(graph_of(data))
    images = pictures(24, seed=1)
    assert deviation(run_onnx(data, images), run_onnx(blocks_master, images)) < 0.25


# --- refusals -----------------------------------------------------------------------------------


def test_images_that_do_not_fit(blocks_master: bytes, pictures: Pictures) -> None:
    wrong = [pictures(2)[:, :32], pictures(2).astype(np.float32), pictures(2)[:0], pictures(1)[0]]
    for images in wrong:
        message = r"Calibration images are .*reads uint8 \(N, 48, 48, 3\)"
        with pytest.raises(UsageError, match=message) as got:
            ort_int8(blocks_master, images, ORT, "minmax")
        assert "own preprocessing" in got.value.fix


def test_a_recipe_that_says_too_little(blocks_master: bytes, pictures: Pictures) -> None:
    """A recipe for another form of quantization has no type of activations."""
    with pytest.raises(UsageError, match="Recipe 'ov-int8' does not say how to quantize"):
        ort_int8(blocks_master, pictures(2), find_recipe("ov-int8"), "minmax")


def test_failures_are_translated(
    blocks_master: bytes, pictures: Pictures, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A damaged model is an EngineError that names the recipe, and leaves no ranges behind."""
    model = onnx.load_model_from_string(blocks_master)
    model.graph.node[5].input[0] = "nowhere"
    ranges = Path(tmp_path_factory.mktemp("ranges")) / "ranges.json"
    with pytest.raises(EngineError, match="cannot quantize the model by recipe 'ort-int8'"):
        ort_int8(model.SerializeToString(), pictures(2), ORT, "minmax", ranges=ranges)
    assert not ranges.exists()
