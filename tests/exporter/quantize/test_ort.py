"""ONNX Runtime's INT8 stays close to FP32, keeps its interface, and leaves preprocessing alone."""

from __future__ import annotations

import resource
from collections.abc import Callable

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from edgetl.engines import Options
from edgetl.engines import onnxruntime as engine
from edgetl.errors import EngineError, StorageError, UsageError
from edgetl.exporter.onnx.checks import INPUT, NORMALIZED, check_onnx
from edgetl.exporter.quantize.calibration import activation_ranges, float_tensors
from edgetl.exporter.quantize.ort import ort_int8
from edgetl.recipes import find_recipe
from edgetl.spec import Calibrator, Recipe
from tests.exporter import small

Pictures = Callable[..., np.ndarray]
Run = Callable[[bytes, np.ndarray], np.ndarray]
Deviation = Callable[[np.ndarray, np.ndarray], float]

ORT = Recipe(
    name="ort-int8",
    title="",
    engine="onnxruntime",
    precision="int8",
    form="ort-qdq",
    activation="quint8",
    per_channel=True,
)
SIGNED = msgspec.structs.replace(ORT, activation="qint8")
FOLDED = msgspec.structs.replace(ORT, fold_normalisation=True)

pytestmark = pytest.mark.usefixtures("temporary")


def quantize(
    canonical: bytes,
    images: np.ndarray,
    recipe: Recipe,
    method: Calibrator = "minmax",
    *,
    keep_float: frozenset[str] = frozenset(),
) -> bytes:
    """INT8 with ranges from the photos."""
    ranges = activation_ranges(canonical, images, float_tensors(canonical), methods=(method,))[
        method
    ]
    return ort_int8(canonical, ranges, recipe, keep_float=keep_float)


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
    method: Calibrator,
    recipe: Recipe,
    *,
    blocks_canonical: bytes,
    pictures: Pictures,
    run_onnx: Run,
    deviation: Deviation,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """All calibrations and both activation types; nothing is printed."""
    data = quantize(blocks_canonical, pictures(24), recipe, method)
    assert capfd.readouterr() == ("", "")
    check_onnx(data)
    images = pictures(40, seed=1)
    reference = run_onnx(blocks_canonical, images)
    assert deviation(run_onnx(data, images), reference) < 0.25
    assert run_onnx(data, images[:1]).shape == (1, 10)


@pytest.mark.parametrize("recipe", [ORT, SIGNED], ids=["quint8", "qint8"])
def test_the_network_alone_is_quantized(
    recipe: Recipe, blocks_canonical: bytes, pictures: Pictures
) -> None:
    """Preprocessing and logits stay float32; weights are int8 per channel, zero points as asked."""
    data = quantize(blocks_canonical, pictures(8), recipe)
    assert data == quantize(blocks_canonical, pictures(8), recipe)
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


def test_one_bright_photo_widens_the_range(blocks_canonical: bytes) -> None:
    """No photo is forgotten: the last of many sets the scale of the input."""
    images = np.full((9, 48, 48, 3), 120, np.uint8)
    images[-1] = 255

    def scale(images: np.ndarray) -> float:
        return scale_of(quantize(blocks_canonical, images, ORT), NORMALIZED)

    assert scale(images) > 2 * scale(images[:-1])


@pytest.mark.parametrize("recipe", [ORT, SIGNED], ids=["quint8", "qint8"])
def test_a_scale_is_what_its_range_says(recipe: Recipe, blocks_canonical: bytes) -> None:
    graph = graph_of(blocks_canonical)
    relu6 = next(n for n in graph.node if n.op_type == "Clip").output[0]
    ranges = dict.fromkeys(float_tensors(blocks_canonical), (-2.0, 2.0)) | {relu6: (-1.0, 3.0)}
    data = ort_int8(blocks_canonical, ranges, recipe)
    signed = recipe.activation == "qint8"
    expected = (6 / 254, 4 / 254) if signed else (4 / 255, 4 / 255)
    assert scale_of(data, relu6) == pytest.approx(expected[0], rel=0.01)
    assert scale_of(data, NORMALIZED) == pytest.approx(expected[1], rel=0.01)


# --- what stays in floating point ---------------------------------------------------------------


def test_nodes_and_operator_types_stay_in_float(
    blocks_canonical: bytes, pictures: Pictures
) -> None:
    names = [n.name for n in graph_of(blocks_canonical).node if n.op_type in ("Conv", "Gemm")]
    assert len(names) == 8
    whole = graph_of(quantize(blocks_canonical, pictures(4), ORT))
    assert set(names) <= quantized(whole)
    kept = frozenset(names[2:4])
    some = graph_of(quantize(blocks_canonical, pictures(4), ORT, keep_float=kept))
    assert quantized(some) == quantized(whole) - kept
    stored = {i.name: i.data_type for i in some.initializer}
    for node in (n for n in some.node if n.name in kept):
        assert stored[node.input[1]] == TensorProto.FLOAT
    recipe = msgspec.structs.replace(ORT, exclude=("Gemm",))
    none = graph_of(quantize(blocks_canonical, pictures(4), recipe))
    assert quantized(whole) - quantized(none) == {n for n in names if "Gemm" in n}


# --- normalisation in the first convolution -----------------------------------------------------


def test_a_folded_file_reads_pixels_as_integers(
    blocks_canonical: bytes, pictures: Pictures
) -> None:
    """Nothing but a transposition stands before the first DequantizeLinear."""
    graph = graph_of(quantize(blocks_canonical, pictures(8), FOLDED))
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


def test_folding_is_for_unsigned_activations(blocks_canonical: bytes, pictures: Pictures) -> None:
    recipe = msgspec.structs.replace(SIGNED, fold_normalisation=True)
    images = pictures(4)
    folded = quantize(blocks_canonical, images, recipe)
    assert folded == quantize(blocks_canonical, images, SIGNED)


def test_a_stem_that_stays_in_float_reads_pixels_all_the_same(
    blocks_canonical: bytes, pictures: Pictures, run_onnx: Run, deviation: Deviation
) -> None:
    stem = next(n.name for n in graph_of(blocks_canonical).node if n.op_type == "Conv")
    kept = frozenset({stem})
    data = quantize(blocks_canonical, pictures(16), FOLDED, keep_float=kept)
    assert stem not in quantized(graph_of(data))
    images = pictures(24, seed=1)
    assert deviation(run_onnx(data, images), run_onnx(blocks_canonical, images)) < 0.25


# --- refusals -----------------------------------------------------------------------------------


def test_a_recipe_that_says_too_little(blocks_canonical: bytes) -> None:
    """A recipe for another form of quantization has no type of activations."""
    with pytest.raises(UsageError, match="Recipe 'ov-int8' does not say how to quantize"):
        ort_int8(blocks_canonical, {}, find_recipe("ov-int8"))


def test_failures_are_translated(blocks_canonical: bytes) -> None:
    """A tensor without a range is an EngineError that names the recipe."""
    with pytest.raises(EngineError, match="cannot quantize the model by recipe 'ort-int8'"):
        ort_int8(blocks_canonical, {}, ORT)


def test_a_full_disk_is_no_fault_of_the_recipe(blocks_canonical: bytes, pictures: Pictures) -> None:
    ranges = activation_ranges(
        blocks_canonical, pictures(2), float_tensors(blocks_canonical), methods=("minmax",)
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(StorageError, match="Cannot write temporary files: File too large"):
            ort_int8(blocks_canonical, ranges["minmax"], ORT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_stays_in_float_runs_in_float() -> None:
    """ONNX Runtime gives such weights 8 bits and one scale for all channels, if it is let."""
    images = small.pictures(16, 500)
    canonical = small.canonical()
    model = onnx.load_model_from_string(canonical)
    kept = frozenset(n.name for n in model.graph.node if n.op_type == "Conv")
    data = quantize(canonical, small.pictures(64), ORT, keep_float=kept)
    quiet = onnxruntime.SessionOptions()
    quiet.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(data, quiet, providers=["CPUExecutionProvider"])
    wanted = plain.run(None, {INPUT: images})[0]
    session = engine.open((data,), Options(precision="int8"))
    assert session.run(images)["logits"] == pytest.approx(wanted, abs=0.02 * float(np.ptp(wanted)))
    let = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert np.abs(let.run(None, {INPUT: images})[0] - wanted).max() > 0.1 * np.ptp(wanted)
