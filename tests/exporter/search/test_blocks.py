"""The parts of real networks that a search may keep in floating point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgetl.exporter.onnx.checks import PREPROCESS
from edgetl.exporter.search.blocks import REGIONS, blocks, squeeze_excite
from tests.exporter import small

NETWORKS = [
    "mobilenet_v3_small",
    pytest.param("mobilenet_v2", marks=pytest.mark.slow),
    pytest.param("efficientnet_b0", marks=pytest.mark.slow),
]


def inner(canonical: bytes) -> list[onnx.NodeProto]:
    nodes = onnx.load_model_from_string(canonical).graph.node
    return [n for n in nodes if not n.name.startswith(PREPROCESS)]


def check_regions(found: dict[str, frozenset[str]], nodes: list[onnx.NodeProto]) -> None:
    """Regions hold every node once, each a run of consecutive ones."""
    regions = [
        sorted(m, key=[n.name for n in nodes].index)
        for k, m in found.items()
        if "-" in k and k.startswith("convolutions")
    ]
    assert 2 < len(regions) <= REGIONS
    assert [name for region in regions for name in region] == [n.name for n in nodes]


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_are_those_of_the_network(name: str) -> None:
    """Depthwise layers by kernel and gates, as PyTorch's own modules count them."""
    import torch
    from torchvision.ops import SqueezeExcitation

    canonical, network = small.backbone(name)
    found, nodes = blocks(canonical), inner(canonical)
    by_name = {n.name: n for n in nodes}
    convs = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    kernels = Counter(m.kernel_size for m in convs if m.groups == m.in_channels > 1)
    for kernel, count in kernels.items():
        part = found["depthwise {}x{}".format(*kernel)]
        assert len(part) == count
        assert {by_name[n].op_type for n in part} == {"Conv"}
    assert sum(k.startswith("depthwise") for k in found) == len(kernels)

    gates = sum(isinstance(m, SqueezeExcitation) for m in network.modules())
    kinds = Counter(by_name[n].op_type for n in found.get("squeeze-excite", ()))
    assert kinds["Conv"] == 2 * gates
    assert kinds["GlobalAveragePool"] == 0
    assert ("squeeze-excite" in found) == (gates > 0)
    assert len(found["pooling"]) == gates + 1
    linear = sum(isinstance(m, torch.nn.Linear) for m in network.modules())
    assert len(found["classifier"]) == linear
    assert found["stem"] == {next(n.name for n in nodes if n.op_type == "Conv")}
    check_regions(found, nodes)
    of_regions = [m for k, m in found.items() if k.startswith("convolutions")]
    counted = [
        sum(by_name[n].op_type == "Conv" for n in m - found.get("squeeze-excite", frozenset()))
        for m in of_regions
    ]
    assert sum(counted) == len(convs) - 2 * gates
    assert max(counted) - min(counted[:-1]) == 0


def test_the_small_network() -> None:
    found = blocks(small.canonical())
    assert {k: len(v) for k, v in found.items() if not k.startswith("convolutions")} == {
        "depthwise 3x3": 2,
        "depthwise 5x5": 2,
        "classifier": 1,
        "stem": 1,
        "squeeze-excite": 5,
        "pooling": 2,
    }
    check_regions(found, inner(small.canonical()))


def test_few_layers_have_no_regions() -> None:
    assert set(blocks(small.canonical(blocks=1))) == {
        "depthwise 3x3",
        "classifier",
        "stem",
        "pooling",
    }


# --- gates ------------------------------------------------------------------------------------


def chain(*steps: tuple[str, list[str], str]) -> list[onnx.NodeProto]:
    return [helper.make_node(k, i, [o], f"{k}_{o}") for k, i, o in steps]


def test_a_gate_with_its_own_products() -> None:
    """A Swish inside the gate is a product too, but not with what was pooled."""
    nodes = chain(
        ("GlobalAveragePool", ["x"], "p"),
        ("Conv", ["p", "w"], "a"),
        ("Sigmoid", ["a"], "s"),
        ("Mul", ["a", "s"], "b"),
        ("Conv", ["b", "v"], "c"),
        ("Sigmoid", ["c"], "g"),
        ("Mul", ["g", "x"], "y"),
        ("Conv", ["y", "u"], "z"),
        ("Mul", ["z", "k"], "end"),
    )
    assert squeeze_excite(onnx.GraphProto(node=nodes)) == {n.name for n in nodes[1:7]}


@pytest.mark.parametrize("last", ["Gemm", "Mul"])
def test_a_classifier_behind_a_pool_is_no_gate(last: str) -> None:
    nodes = chain(
        ("GlobalAveragePool", ["x"], "p"), ("Flatten", ["p"], "f"), (last, ["f", "w"], "y")
    )
    assert squeeze_excite(onnx.GraphProto(node=nodes)) == set()


def test_a_gate_of_matrix_products_is_no_classifier(
    make: Callable[[list[onnx.NodeProto]], bytes],
) -> None:
    """Nor is its Conv a depthwise layer."""
    nodes = chain(
        ("Conv", ["normalized", "w"], "x"),
        ("GlobalAveragePool", ["x"], "p"),
        ("MatMul", ["p", "m"], "a"),
        ("HardSigmoid", ["a"], "g"),
        ("Mul", ["x", "g"], "y"),
        ("Gemm", ["y", "v"], "logits"),
    )
    found = blocks(make(nodes))
    assert found["classifier"] == {"Gemm_logits"}
    assert found["squeeze-excite"] == {"MatMul_a", "HardSigmoid_g", "Mul_y"}


@pytest.fixture
def make() -> Callable[[list[onnx.NodeProto]], bytes]:
    def of(nodes: list[onnx.NodeProto]) -> bytes:
        graph = helper.make_graph(nodes, "made", [], [])
        return bytes(helper.make_model(graph).SerializeToString())

    return of


@given(kinds=st.lists(st.sampled_from(["Conv", "Relu", "Add"]), min_size=1, max_size=60))
def test_regions_cover_any_chain(kinds: list[str]) -> None:
    nodes: list[Any] = [
        helper.make_node(kind, [f"t{i}", "w"], [f"t{i + 1}"], f"n{i}")
        for i, kind in enumerate(kinds)
    ]
    graph = helper.make_graph(nodes, "chain", [], [])
    found = blocks(helper.make_model(graph).SerializeToString())
    regions = {k: m for k, m in found.items() if k.startswith("convolutions")}
    if kinds.count("Conv") < 2 * REGIONS:
        assert not regions
        return
    check_regions(found, nodes)
    for name, members in regions.items():
        first, last = map(int, name.split()[1].split("-"))
        held = [kinds[int(n[1:])] for n in members].count("Conv")
        assert held == last - first + 1
