"""Normalisation in the first convolution: the same network, read as integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgetl.exporter.candidates import build, candidate_outputs
from edgetl.exporter.onnx.checks import INPUT, NORMALIZED, check_onnx
from edgetl.exporter.onnx.fold import CENTRE, fold_normalisation, read_pixels_directly
from edgetl.exporter.onnx.importing.importer import OUTPUT
from edgetl.exporter.onnx.passes import finish, prepend, rename, stored_constants
from edgetl.exporter.quantize import ort as quantizer
from edgetl.exporter.tensorrt.qdq import trt_qdq
from edgetl.recipes import find_recipe
from edgetl.spec import Normalize
from tests.exporter import small
from tests.helpers import divergence

Change = Callable[[onnx.GraphProto], None]
NORMALIZATIONS = [
    Normalize(),
    Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    Normalize(mean=(0.9, 0.1, 0.4), std=(0.01, 2.0, 0.3)),
]
UINT8 = msgspec.structs.replace(find_recipe("ort-int8"), calibration=("minmax",))
INT8 = msgspec.structs.replace(UINT8, name="signed", activation="qint8")


def changed(canonical: bytes, change: Change) -> bytes:
    model = onnx.load_model_from_string(canonical)
    change(model.graph)
    return bytes(model.SerializeToString())


def first_conv(graph: onnx.GraphProto) -> onnx.NodeProto:
    return next(n for n in graph.node if NORMALIZED in n.input)


def unpad(graph: onnx.GraphProto) -> None:
    next(a for a in first_conv(graph).attribute if a.name == "pads").ints[:] = [0, 0, 0, 0]


def folded(canonical: bytes) -> tuple[bytes, int]:
    found = fold_normalisation(canonical)
    assert found is not None
    check_onnx(found[0])
    return found


# --- the same network -------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", NORMALIZATIONS, ids=lambda n: str(n.mean[0]))
def test_equal_to_the_canonical_where_nothing_is_padded(normalize: Normalize) -> None:
    canonical = changed(small.canonical(normalize=normalize), unpad)
    images = small.pictures(8)
    wanted = small.run(canonical, images)
    made, centre = folded(canonical)
    assert 0 <= centre <= 255
    assert centre == round(255 * sum(normalize.mean) / 3)
    np.testing.assert_allclose(small.run(made, images), wanted, atol=2e-4 * np.ptp(wanted))


def test_what_differs_are_padded_borders_alone() -> None:
    """Zero means the centre there, and not each channel's mean: by as much as can be computed."""
    canonical = small.canonical()
    conv = first_conv(onnx.load_model_from_string(canonical).graph)
    images = small.pictures(4)
    wanted = small.run(canonical, images, conv.output[0])
    made, centre = folded(canonical)
    differ = small.run(made, images, conv.output[0]) - wanted
    inside = differ[:, :, 1:, 1:]  # stride 2 at an even size pads at the top and left only
    assert abs(inside).max() < 1e-4
    assert abs(differ[:, :, 0]).max() > 1e-2
    stored = stored_constants(onnx.load_model_from_string(canonical).graph)
    shift = (centre - stored["preprocess/mean"]) * stored["preprocess/scale"]
    top = (stored[conv.input[1]] * shift)[:, :, 0].sum(axis=(1, 2))  # what the padded row adds
    np.testing.assert_allclose(
        differ[:, :, 0, 1:], top[None, :, None] + 0 * differ[:, :, 0, 1:], atol=1e-4
    )


def test_channels_of_one_mean_differ_nowhere() -> None:
    """A mean that is a whole pixel value is the centre itself."""
    canonical = small.canonical(normalize=Normalize(mean=(0.4, 0.4, 0.4), std=(0.2, 0.3, 0.4)))
    images = small.pictures(8)
    wanted = small.run(canonical, images)
    made, centre = folded(canonical)
    assert centre == 102
    np.testing.assert_allclose(small.run(made, images), wanted, atol=2e-4 * np.ptp(wanted))


def test_a_real_backbone_hardly_changes() -> None:
    canonical, _ = small.backbone("mobilenet_v3_small")
    images = small.noise(6)
    wanted = small.run(canonical, images)
    differ = small.run(folded(canonical)[0], images) - wanted
    assert 0 < np.sqrt((differ**2).mean()) < 0.03 * np.ptp(wanted)


def test_a_conv_without_bias() -> None:
    def drop(graph: onnx.GraphProto) -> None:
        unpad(graph)
        del first_conv(graph).input[2]

    canonical = changed(small.canonical(), drop)
    wanted = small.run(canonical, small.pictures(4))
    found = small.run(folded(canonical)[0], small.pictures(4))
    np.testing.assert_allclose(found, wanted, atol=2e-4 * np.ptp(wanted))


def shared(*, name: str = "conv.bias") -> bytes:
    """Two convolutions, one behind the other, that read the same weight and bias."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    nodes = [
        node("Conv", [NORMALIZED, "conv.weight", name], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "conv.weight", name], ["c"]),
        node("GlobalAveragePool", ["c"], ["d"]),
        node("Flatten", ["d"], [OUTPUT]),
    ]
    arrays = {"conv.weight": rng.normal(size=(3, 3, 3, 3)), name: rng.normal(size=3)}
    stored = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()]
    graph = helper.make_graph(
        nodes, "shared", [], [helper.make_tensor_value_info(OUTPUT, 1, None)], stored
    )
    rename(graph)
    prepend(graph, Normalize())
    return finish(graph, (12, 12, 3), {OUTPUT: (3,)})


@pytest.mark.parametrize("name", ["conv.bias", "Conv_1.bias"])
def test_a_weight_that_another_layer_reads_too(name: str) -> None:
    """The other layer keeps it; no name is given twice."""
    canonical, images = shared(name=name), small.noise(4, 12)
    made, _ = folded(canonical)
    names = [i.name for i in onnx.load_model_from_string(made).graph.initializer]
    assert len(set(names)) == len(names)
    wanted = small.run(canonical, images)
    np.testing.assert_allclose(small.run(made, images), wanted, atol=1e-4 * abs(wanted).max())


# --- refusals ---------------------------------------------------------------------------------


def relu_first(graph: onnx.GraphProto) -> None:
    conv = first_conv(graph)
    conv.input[0] = "late"
    graph.node.insert(4, helper.make_node("Relu", [NORMALIZED], ["late"], "Relu_0"))


def two_readers(graph: onnx.GraphProto) -> None:
    """The logits take a bit of the image's mean."""
    graph.node[-1].output[0] = "before"
    graph.node.extend(
        [
            helper.make_node("ReduceMean", [NORMALIZED], ["m"], "mean", axes=[2, 3], keepdims=0),
            helper.make_node("Add", ["before", "m"], [OUTPUT], "last"),
        ]
    )


def computed_weight(graph: onnx.GraphProto) -> None:
    conv = first_conv(graph)
    graph.node.insert(0, helper.make_node("Relu", [conv.input[1]], ["made"], "weight"))
    conv.input[1] = "made"


@pytest.mark.parametrize("change", [relu_first, two_readers, computed_weight])
def test_none_where_it_cannot_be(change: Change) -> None:
    canonical = changed(small.canonical(), change)
    small.run(canonical, small.pictures(1))  # a network all the same
    assert fold_normalisation(canonical) is None


# --- pixels as the first integers -------------------------------------------------------------


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A quantized file of the folded canonical that still casts, subtracts and quantizes pixels."""
    with monkeypatch.context() as patch:
        patch.setattr(quantizer, "read_pixels_directly", lambda data: data)
        return next(iter(build(UINT8, small.context()).files.values()))


def kinds(model: bytes) -> list[str]:
    return [n.op_type for n in onnx.load_model_from_string(model).graph.node]


def test_the_shorter_file_gives_the_same_logits(long: bytes) -> None:
    assert {"Cast", "Sub"} <= set(kinds(long))
    short = read_pixels_directly(long)
    check_onnx(short)
    assert kinds(short).count("QuantizeLinear") == kinds(long).count("QuantizeLinear") - 1
    assert not {"Cast", "Sub"} & set(kinds(short))
    graph = onnx.load_model_from_string(short).graph
    assert [n.op_type for n in graph.node if INPUT in n.input] == ["Transpose"]
    assert CENTRE not in [i.name for i in graph.initializer]
    everything = np.concatenate([small.pictures(16), small.noise(8, small.SIZE)])
    np.testing.assert_array_equal(small.run(short, everything), small.run(long, everything))
    assert read_pixels_directly(short) == short


def test_build_reads_pixels_directly(long: bytes, tmp_path: Path) -> None:
    built = build(UINT8, small.context())
    assert next(iter(built.files.values())) == read_pixels_directly(long)


def test_signed_integers_are_no_pixels(tmp_path: Path) -> None:
    """For signed activations nothing is folded, and such a file is left as it is."""
    built = build(INT8, small.context())
    data = next(iter(built.files.values()))
    assert {"Cast", "Sub", "Mul"} <= set(kinds(data))
    assert read_pixels_directly(data) == data


def test_a_stem_in_float_reads_what_was_subtracted(tmp_path: Path) -> None:
    made = small.context()
    stem = frozenset({first_conv(onnx.load_model_from_string(small.canonical()).graph).name})
    built = build(UINT8, made, stem)
    data = next(iter(built.files.values()))
    assert {"Cast", "Sub"} <= set(kinds(data))
    images, reference = made.held_out()
    ((found,), _) = candidate_outputs(built, [images])
    assert divergence(reference["logits"], found["logits"]) < 0.5


@pytest.mark.parametrize(("scale", "zero"), [(0.5, None), (None, 3)])
def test_another_quantization_of_the_pixels_is_left(
    scale: float | None, zero: int | None, long: bytes
) -> None:
    def change(graph: onnx.GraphProto) -> None:
        first = first_conv(graph)
        for stored in graph.initializer:
            if scale is not None and stored.name == first.input[1]:
                stored.CopyFrom(numpy_helper.from_array(np.float32(scale), stored.name))
            if zero is not None and stored.name == first.input[2]:
                stored.CopyFrom(numpy_helper.from_array(np.uint8(zero), stored.name))

    data = changed(long, change)
    assert read_pixels_directly(data) == data


def test_other_files_are_left(tmp_path: Path) -> None:
    canonical = small.canonical()
    made = small.context()
    ranges: Any = made.ranges_of(msgspec.structs.replace(UINT8, calibration=("minmax",)))["minmax"]
    for data in (canonical, folded(canonical)[0], trt_qdq(canonical, ranges, strong=False)):
        assert read_pixels_directly(data) == data


def test_recipes_with_and_without_it_share_no_ranges(tmp_path: Path) -> None:
    """The same tensor holds pixels in one and normalised values in the other."""
    plain = msgspec.structs.replace(UINT8, name="plain", fold_normalisation=False)
    alone = build(plain, small.context()).files
    made = small.context()
    build(UINT8, made)
    assert build(plain, made).files == alone
