"""A network's parts that a search may keep in floating point, each with all its nodes."""

from __future__ import annotations

import math
from collections import defaultdict

import onnx

from edgetl.exporter.onnx.checks import PREPROCESS, Wires, parse_onnx

DEPTHWISE, GATES, REGION = "depthwise", "squeeze-excite", "convolutions"  # how parts are called
REGIONS = 4  # contiguous parts of about equal numbers of layers

_HEAVY = frozenset({"Conv", "Gemm", "MatMul"})


def blocks(canonical: bytes) -> dict[str, frozenset[str]]:
    """Node names by part: stem, classifier, depthwise layers by kernel, squeeze-excite, regions.

    Parts overlap: a region is a contiguous run of layers from first to last, the others are kinds
    of layers, which engines run well or badly in INT8 as a kind. Empty ones are left out.
    """
    graph = parse_onnx(canonical).graph
    stored = {i.name: tuple(i.dims) for i in graph.initializer}
    nodes = [n for n in graph.node if not n.name.startswith(PREPROCESS)]
    heavy = [n for n in nodes if n.op_type in _HEAVY]
    gates = squeeze_excite(graph)
    found: dict[str, set[str]] = defaultdict(set)
    layers = [n for n in heavy if n.name not in gates]
    for node in layers:
        shape = stored.get(node.input[1], ())
        if node.op_type != "Conv":
            found["classifier"].add(node.name)
        elif len(shape) == 4 and shape[1] == 1:
            found[f"{DEPTHWISE} {shape[2]}x{shape[3]}"].add(node.name)
    if heavy and heavy[0].op_type == "Conv":
        found["stem"] = {heavy[0].name}
    found[GATES] = gates
    found["pooling"] = {n.name for n in nodes if n.op_type == "GlobalAveragePool"}
    found |= _regions(nodes, [n for n in layers if n.op_type == "Conv"])
    return {name: frozenset(members) for name, members in found.items() if members}


def squeeze_excite(graph: onnx.GraphProto) -> set[str]:
    """Nodes from behind a global pooling up to the product with what was pooled."""
    wires = Wires(graph)
    pools = [n for n in graph.node if n.op_type == "GlobalAveragePool"]
    return set[str]().union(*(_gate(pool, wires) for pool in pools))


def _gate(pool: onnx.NodeProto, wires: Wires) -> set[str]:
    """What follows `pool` up to a Mul that also reads the pooled tensor; nothing without one."""
    seen: set[str] = set()
    front = [pool.output[0]]
    while front:
        for node in wires.readers(front.pop()):
            if node.name in seen:
                continue
            seen.add(node.name)
            if node.op_type == "Mul" and pool.input[0] in node.input:
                return seen
            front += node.output
    return set()


def _regions(nodes: list[onnx.NodeProto], convs: list[onnx.NodeProto]) -> dict[str, set[str]]:
    """Runs of consecutive nodes that hold about a quarter of the convolutions each."""
    if len(convs) < 2 * REGIONS:
        return {}
    length = math.ceil(len(convs) / REGIONS)
    starts = {conv.name: i // length for i, conv in enumerate(convs)}
    result: dict[str, set[str]] = defaultdict(set)
    region = 0
    for node in nodes:
        region = starts.get(node.name, region)
        first, last = region * length + 1, min(len(convs), (region + 1) * length)
        result[f"{REGION} {first}-{last}"].add(node.name)
    return result
