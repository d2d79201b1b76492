"""Files that a target could not read are refused, and the message says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetl.errors import TraceError
from edgetl.exporter.onnx.checks import Wires, check_fp16, check_onnx
from edgetl.exporter.onnx.fp16 import strong_fp16


def good() -> onnx.ModelProto:
    """Smallest model with the canonical ONNX's interface: uint8 in, a convolution, logits out."""
    weight = np.linspace(-1, 1, 60, dtype=np.float32).reshape(5, 3, 2, 2)
    nodes = [
        helper.make_node("Cast", ["images"], ["a"], "preprocess/cast", to=TensorProto.FLOAT),
        helper.make_node(
            "Transpose", ["a"], ["normalized"], "preprocess/transpose", perm=[0, 3, 1, 2]
        ),
        helper.make_node("Conv", ["normalized", "weight"], ["b"], "Conv_1"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], "Pool_1"),
        helper.make_node("Flatten", ["c"], ["logits"], "Flatten_1"),
    ]
    graph = helper.make_graph(
        nodes,
        "edgetl",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        initializer=[numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _opset(m: onnx.ModelProto) -> None:
    m.opset_import[0].version = 18


def _ir(m: onnx.ModelProto) -> None:
    m.ir_version = 12


def _domain(m: onnx.ModelProto) -> None:
    m.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _node_domain(m: onnx.ModelProto) -> None:
    m.graph.node[2].domain = "com.microsoft"


def _function(m: onnx.ModelProto) -> None:
    m.functions.add().name = "helper"


def _external(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].data_location = TensorProto.EXTERNAL


def _float_input(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _input_name(m: onnx.ModelProto) -> None:
    m.graph.input[0].name = m.graph.node[0].input[0] = "pixels"


def _fixed_batch(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def _one_in_many_out(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def _second_input(m: onnx.ModelProto) -> None:
    m.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.UINT8, ["N"]))


def _free_output(m: onnx.ModelProto) -> None:
    m.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "C"


def _wrong_classes(m: onnx.ModelProto) -> None:
    m.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6


def _dangling(m: onnx.ModelProto) -> None:
    m.graph.node[2].input[0] = "nowhere"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_opset, r"opset 18; its targets read up to 17\. Fix: "),
        (_ir, r"IR version 12; its targets read up to 10"),
        (_domain, "imports the operator domain 'com.microsoft'"),
        (_node_domain, "Conv 'Conv_1' is of the operator domain"),
        (_function, "local function 'helper'"),
        (_external, "Tensor 'weight' lies outside the file"),
        (_float_input, r"input is images float \[N, 8, 8, 3\], not images uint8"),
        (_input_name, "input is pixels uint8"),
        (_fixed_batch, r"input is images uint8 \[4, 8, 8, 3\]"),
        (_one_in_many_out, r"output is logits float \[N, 5\], not float32 \[1, …\]"),
        (_second_input, "mask uint8"),
        (_free_output, r"output is logits float \[N, C\], not float32"),
        (_wrong_classes, "ONNX checker refuses"),
        (_dangling, "ONNX checker refuses"),
    ],
)
def test_refuses(spoil: Callable[[onnx.ModelProto], None], message: str) -> None:
    """One spoilt field, one message."""
    model = good()
    check_onnx(model.SerializeToString())
    spoil(model)
    with pytest.raises(TraceError, match=message):
        check_onnx(model.SerializeToString())


def test_limits_are_the_callers() -> None:
    """A target with an older reader gives lower limits."""
    with pytest.raises(TraceError, match="opset 17; its targets read up to 13"):
        check_onnx(good().SerializeToString(), max_opset=13)
    with pytest.raises(TraceError, match="IR version 8"):
        check_onnx(good().SerializeToString(), max_ir=7)


def test_refuses_other_bytes(tmp_path: Path) -> None:
    """A photo is not a model."""
    with pytest.raises(TraceError, match="not an ONNX model"):
        check_onnx(b"\xff\xd8\xff\xe0 JFIF")


def test_fp16_refuses_a_float32_network() -> None:
    """The canonical ONNX itself is not FP16."""
    with pytest.raises(TraceError, match="Conv 'Conv_1' reads 'normalized' as float, not float16"):
        check_fp16(good().SerializeToString())


def test_fp16_refuses_casts_inside() -> None:
    """A detour through float32 between two layers is found."""
    model = onnx.load_model_from_string(strong_fp16(good().SerializeToString()))
    check_fp16(model.SerializeToString())
    pool = next(n for n in model.graph.node if n.op_type == "GlobalAveragePool")
    position = list(model.graph.node).index(pool)
    detour = [
        helper.make_node("Cast", [pool.input[0]], ["wide"], "there", to=TensorProto.FLOAT),
        helper.make_node("Cast", ["wide"], ["back"], "back", to=TensorProto.FLOAT16),
    ]
    pool.input[0] = "back"
    nodes = [*model.graph.node[:position], *detour, *model.graph.node[position:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with pytest.raises(TraceError, match="Cast 'there' casts inside the network"):
        check_fp16(model.SerializeToString())


def test_fp16_refuses_mixed_types_and_narrow_output() -> None:
    """A float32 weight beside float16 data, and logits in float16."""
    data = strong_fp16(good().SerializeToString())
    model = onnx.load_model_from_string(data)
    weight = next(i for i in model.graph.initializer if i.name == "weight")
    wide = numpy_helper.to_array(weight).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(wide, "weight"))
    with pytest.raises(TraceError, match=r"contradict each other|reads 'weight' as float"):
        check_fp16(model.SerializeToString())
    model = onnx.load_model_from_string(data)
    model.graph.node[-1].attribute[0].i = TensorProto.FLOAT16
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(TraceError, match="Output 'logits' is not float32"):
        check_fp16(model.SerializeToString())


def test_wires_know_makers_and_readers() -> None:
    """Each reader once, in graph order, also when it reads a tensor twice."""
    model = good()
    model.graph.node.append(helper.make_node("Mul", ["b", "b"], ["square"], "Mul_1"))
    wires = Wires(model.graph)
    assert [n.name for n in wires.readers("b")] == ["Pool_1", "Mul_1"]
    assert wires.readers("square") == wires.readers("nowhere") == []
    assert wires.maker["b"].name == "Conv_1"
    assert [wires.made_by(n) for n in ("b", "images", "weight")] == ["Conv", "", ""]
    assert set(wires.constants) == {"weight"}
    assert wires.outputs == {"logits"}
