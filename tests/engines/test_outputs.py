"""Networks with several outputs, in every recipe: all come, by name, and none is rounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgetl.engines import Options, find_engine
from edgetl.exporter.candidates import Built, build
from edgetl.exporter.context import BuildContext
from edgetl.recipes import all_recipes, find_recipe
from edgetl.tasks.base import Output, Outputs
from edgetl.tasks.classification import Classification
from tests.conftest import TinySource

MAPS = (2, 16, 16)
SHAPES = {"logits": (3,), "mask": MAPS, "edges": MAPS, "spots": MAPS, "both": (4, 16, 16)}
SHAPES |= {"part": MAPS, "last": MAPS}
SAME = {"fp32": 1e-5, "fp16": 0.02, "bf16": 0.05, "int8": 0.2}  # of an output's range
ROUNDED = 300  # more values than that are no 8-bit numbers


class Maps(Classification, frozen=True, kw_only=True, tag="maps"):
    """Logits and four maps."""

    def outputs(self) -> tuple[Output, ...]:
        return tuple(Output(name=name, shape=shape) for name, shape in SHAPES.items())

    def distance(self, reference: Outputs, outputs: Outputs) -> Any:
        apart = [np.abs(outputs[name] - reference[name]) for name in SHAPES]
        return sum(one.reshape(len(one), -1).mean(axis=1) for one in apart)


class MapsSource(TinySource):
    """The tiny network with maps beside its logits, by operators of several kinds.

    One is split from what goes on through a layer, as in a detection head.
    """

    task = Maps(labels=TinySource.task.labels)

    def canonical(self) -> bytes:
        model = onnx.load_model_from_string(super().canonical())
        rng, node = np.random.default_rng(1), helper.make_node
        sizes = dict.fromkeys(("wm", "we", "wf", "ws"), (2, 32, 1, 1))
        for name, size in (sizes | {"wp": (4, 32, 1, 1), "wl": (2, 2, 1, 1)}).items():
            values = rng.normal(size=size).astype(np.float32) / 4
            model.graph.initializer.append(numpy_helper.from_array(values, name))
        model.graph.node.extend(
            [
                node("Conv", ["x7", "wm"], ["m0"], "mask.conv"),
                node("Sigmoid", ["m0"], ["mask"], "mask.sigmoid"),
                node("Conv", ["x7", "we"], ["e0"], "edges.one"),
                node("Conv", ["x7", "wf"], ["e1"], "edges.two"),
                node("Add", ["e0", "e1"], ["edges"], "edges.add"),
                node("Conv", ["x7", "ws"], ["s0"], "spots.conv"),
                node("Relu", ["s0"], ["spots"], "spots.relu"),
                node("Concat", ["m0", "s0"], ["both"], "both.concat", axis=1),
                node("Conv", ["x7", "wp"], ["p0"], "part.conv"),
                node("Split", ["p0"], ["p1", "part"], "part.split", axis=1),
                node("Conv", ["p1", "wl"], ["last"], "last.conv"),
            ]
        )
        for name, shape in list(SHAPES.items())[1:]:
            value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *shape])
            model.graph.output.append(value)
        return bytes(model.SerializeToString())

    def reference(self, images: Any) -> Any:
        found = ReferenceEvaluator(onnx.load_model_from_string(self.canonical())).run(
            list(SHAPES), {"images": images}
        )
        return dict(zip(SHAPES, found, strict=True))


class Case(NamedTuple):
    """A recipe's files, the session that runs them, and what FP32 answers."""

    built: Built
    session: Any
    images: Any
    expected: Any


@pytest.fixture(scope="module")
def made(tiny_images: Any) -> Callable[[str], Built]:
    source = MapsSource(tiny_images)
    context = BuildContext(source, source.canonical())
    return lambda name: build(find_recipe(name), context)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.gpu if recipe.engine == "tensorrt" else [])
        for name, recipe in all_recipes().items()
        if "DEVICE" not in recipe.session
    ],
)
def case(
    request: pytest.FixtureRequest, made: Callable[[str], Built], tiny_images: Any
) -> Iterator[Case]:
    recipe = find_recipe(request.param)
    engine = find_engine(recipe.engine)
    if reason := engine.missing(recipe.session):
        pytest.skip(f"{recipe.name}: {reason}")
    built, images = made(recipe.name), tiny_images[:4]
    options = Options(precision=recipe.precision, session=recipe.session)
    session = engine.open(tuple(built.files.values()), options)
    yield Case(built, session, images, MapsSource(tiny_images).reference(images))
    session.close()


def test_all_outputs_come_by_name(case: Case) -> None:
    assert case.session.outputs() == SHAPES
    for count in (1, 3):
        found = case.session.run(case.images[:count])
        assert {name: values.shape[1:] for name, values in found.items()} == SHAPES
        assert {len(values) for values in found.values()} == {count}
        assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}


def test_each_is_what_the_network_says(case: Case) -> None:
    found = case.session.run(case.images)
    for name, expected in case.expected.items():
        apart = float(np.abs(found[name] - expected).max() / np.ptp(expected))
        assert apart <= SAME[case.built.recipe.precision], name


def test_no_output_is_rounded_to_8_bits(case: Case) -> None:
    """An output's own quantization would cost boxes and masks what the layers kept."""
    if case.built.recipe.precision != "int8":
        pytest.skip("only INT8 recipes round")
    found = case.session.run(case.images)
    few = {name: len(np.unique(found[name])) for name in SHAPES if name != "logits"}
    assert min(few.values()) > ROUNDED, few


@pytest.mark.parametrize("name", [n for n, r in all_recipes().items() if r.engine == "tensorrt"])
def test_files_for_tensorrt_hold_all_outputs_in_float(
    name: str, made: Callable[[str], Built]
) -> None:
    """What can be said without a GPU: the outputs' names, and that no pair ends in one."""
    (data,) = made(name).files.values()
    model = onnx.load_model_from_string(data)
    assert [output.name for output in model.graph.output] == list(SHAPES)
    makers = {output: node for node in model.graph.node for output in node.output}
    behind = list(SHAPES)
    while behind:
        node = makers[behind.pop()]
        assert node.op_type != "DequantizeLinear"
        behind += [] if node.op_type in ("Conv", "Gemm") else [n for n in node.input if n in makers]
