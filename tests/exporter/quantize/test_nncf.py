"""NNCF's INT8 stays close to FP32, takes any batch, and leaves preprocessing alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from edgetl.errors import EngineError, UsageError
from edgetl.exporter.quantize.nncf import nncf_int8
from edgetl.machine import this_machine
from edgetl.spec import Recipe

Pictures = Callable[..., np.ndarray]
Run = Callable[[bytes, np.ndarray], np.ndarray]
Deviation = Callable[[np.ndarray, np.ndarray], float]

NNCF = Recipe(
    name="ov-int8",
    title="",
    engine="openvino",
    precision="int8",
    form="nncf",
    preset="mixed",
)
FOLDED = msgspec.structs.replace(NNCF, fold_normalisation=True)

pytestmark = pytest.mark.usefixtures("temporary")


def read(files: tuple[bytes, bytes]) -> Any:
    import openvino

    return openvino.Core().read_model(*files)


def run(files: tuple[bytes, bytes], images: np.ndarray, batch: int | None = 1) -> np.ndarray:
    """Logits in FP32 arithmetic by so many images at once; None leaves the model as it is."""
    import openvino

    model = read(files)
    if batch:
        model.reshape({"images": [batch, *images.shape[1:]]})
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    step = batch or 20
    starts = range(0, len(images) // step * step, step)
    return np.concatenate([compiled(images[i : i + step])[0].copy() for i in starts])


def quantizers(files: tuple[bytes, bytes]) -> set[str]:
    """Names of the operations that a FakeQuantize was put around."""
    return {
        op.get_friendly_name().split("/fq_")[0]
        for op in read(files).get_ops()
        if op.get_type_name() == "FakeQuantize"
    }


@pytest.mark.parametrize("recipe", [NNCF, FOLDED], ids=["plain", "folded"])
@pytest.mark.parametrize(
    ("preset", "method"),
    [("performance", "minmax"), ("mixed", "minmax"), ("mixed", "percentile")],
)
def test_it_is_close_quiet_and_takes_any_batch(
    recipe: Recipe,
    preset: Any,
    method: Any,
    *,
    blocks_canonical: bytes,
    pictures: Pictures,
    run_onnx: Run,
    deviation: Deviation,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The IR runs at batch 1 and 3 after reshape, and as it is."""
    recipe = msgspec.structs.replace(recipe, preset=preset)
    files = nncf_int8(blocks_canonical, pictures(24), recipe, method)
    assert capfd.readouterr() == ("", "")
    images = pictures(40, seed=1)
    reference = run_onnx(blocks_canonical, images)
    vnni = this_machine().vnni or preset != "performance"
    for batch in (1, 3, None):
        logits = run(files, images, batch)
        limit = 0.25 if vnni else 1.0  # OpenVINO's integers overflow on x86-64 without VNNI
        assert deviation(logits, reference[: len(logits)]) < limit


def test_preprocessing_stays_float32_and_biases_are_corrected(
    blocks_canonical: bytes, pictures: Pictures
) -> None:
    """No FP16 constant, the first FakeQuantize behind the normalisation."""
    xml, weights = nncf_int8(blocks_canonical, pictures(8), NNCF)
    assert weights == nncf_int8(blocks_canonical, pictures(8), NNCF)[1]
    assert b'element_type="f16"' not in xml
    assert b'element_type="i8"' in xml
    model = read((xml, weights))
    kinds = {op.get_friendly_name(): op.get_type_name() for op in model.get_ops()}
    assert kinds["preprocess/cast"] == "Convert"
    transpose = next(o for o in model.get_ops() if o.get_friendly_name() == "preprocess/transpose")
    assert transpose.input_value(0).get_node().get_type_name() == "Convert"
    reader = next(iter(transpose.output(0).get_target_inputs())).get_node()
    assert reader.get_type_name() == "Add"
    assert "Clamp" in kinds.values()  # without conversion NNCF would see no bias to correct
    exact = msgspec.structs.replace(NNCF, fast_bias_correction=False)
    assert nncf_int8(blocks_canonical, pictures(8), exact)[1] != weights


def test_a_trained_network_keeps_its_biases(blocks_canonical: bytes, pictures: Pictures) -> None:
    images = pictures(8)
    # for a CPU, zero points go into the biases
    recipe = msgspec.structs.replace(NNCF, session={"DEVICE": "GPU"})
    kept = nncf_int8(blocks_canonical, images, recipe, trained=True)
    stored = onnx.load_model_from_string(blocks_canonical).graph
    biases = {
        i.name: onnx.numpy_helper.to_array(i).tobytes()
        for i in stored.initializer
        if len(i.dims) == 1 and i.dims[0] > 1
    }
    assert len(biases) == 8
    assert all(data in kept[1] for data in biases.values())
    corrected = nncf_int8(blocks_canonical, images, recipe)[1]
    assert not all(data in corrected for data in biases.values())


def test_the_method_decides_the_ranges(blocks_canonical: bytes, pictures: Pictures) -> None:
    images = pictures(8)
    files = [nncf_int8(blocks_canonical, images, NNCF, m) for m in ("minmax", "percentile")]
    assert files[0][1] != files[1][1]
    with pytest.raises(EngineError, match=r"'ov-int8': NNCF does not calibrate by entropy"):
        nncf_int8(blocks_canonical, images, NNCF, "entropy")


def test_a_folded_file_has_no_normalisation_left(
    blocks_canonical: bytes, pictures: Pictures
) -> None:
    """The layer reads pixel - centre: no scale per channel stands before it."""
    names = {
        op.get_friendly_name()
        for op in read(nncf_int8(blocks_canonical, pictures(8), FOLDED)).get_ops()
    }
    assert "preprocess/multiply" not in names
    assert "preprocess/subtract" in names


def test_nodes_and_operator_types_stay_in_float(
    blocks_canonical: bytes, pictures: Pictures
) -> None:
    nodes = onnx.load_model_from_string(blocks_canonical).graph.node
    convolutions = [n.name for n in nodes if n.op_type == "Conv"]
    whole = nncf_int8(blocks_canonical, pictures(4), NNCF)
    kept = frozenset(convolutions[1:3])
    some = nncf_int8(blocks_canonical, pictures(4), NNCF, keep_float=kept)
    assert weights_in_int8(whole) == 8
    assert weights_in_int8(some) == 6
    recipe = msgspec.structs.replace(NNCF, exclude=("Gemm",))
    assert weights_in_int8(nncf_int8(blocks_canonical, pictures(4), recipe)) == 7
    assert len(quantizers(some)) < len(quantizers(whole))


def weights_in_int8(files: tuple[bytes, bytes]) -> int:
    return sum(
        op.get_type_name() == "Constant" and str(op.get_element_type()) == "<Type: 'int8_t'>"
        for op in read(files).get_ops()
    )


def test_images_that_do_not_fit(blocks_canonical: bytes, pictures: Pictures) -> None:
    wrong = [pictures(2)[:, :32], pictures(2).astype(np.float32), pictures(2)[:0], pictures(1)[0]]
    for images in wrong:
        with pytest.raises(UsageError, match=r"Calibration images are .*uint8 \(N, 48, 48, 3\)"):
            nncf_int8(blocks_canonical, images, NNCF)


def test_failures_are_translated(blocks_canonical: bytes, pictures: Pictures) -> None:
    """A damaged model is an EngineError that names the recipe; logging is left as it was."""
    level = logging.root.level
    model = onnx.load_model_from_string(blocks_canonical)
    model.graph.node[5].input[0] = "nowhere"
    with pytest.raises(EngineError, match="NNCF cannot quantize the model by recipe 'ov-int8'"):
        nncf_int8(model.SerializeToString(), pictures(2), NNCF)
    assert logging.root.level == level
