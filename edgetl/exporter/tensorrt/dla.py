"""The canonical ONNX in the form that NVIDIA's deep learning accelerator (DLA) takes whole."""

from __future__ import annotations

import onnx
from onnx import helper

from edgetl.errors import TraceError
from edgetl.exporter.onnx.checks import label, parse_onnx


def dla_friendly(canonical: bytes) -> bytes:
    """Turn each GlobalAveragePool into an AveragePool whose fixed kernel is the whole plane.

    TensorRT runs AveragePool on DLA, but not GlobalAveragePool; nothing else changes, the result is
    numerically equal and still of any batch size. DLA pools windows of up to 8 x 8: a larger one
    falls back to the GPU, as do Flatten, HardSwish and HardSigmoid. Raises TraceError when a
    plane's size is not fixed.
    """
    proto = parse_onnx(canonical)
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    values = (*inferred.input, *inferred.value_info)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    for node in proto.graph.node:
        if node.op_type != "GlobalAveragePool":
            continue
        kernel = shapes.get(node.input[0], [])[2:]
        if not kernel or 0 in kernel:
            raise TraceError(
                f"{label(node)} reads '{node.input[0]}', whose height and width are not fixed.",
                fix="give the network one image size.",
            )
        node.op_type = "AveragePool"
        node.attribute.append(helper.make_attribute("kernel_shape", kernel))
    return bytes(proto.SerializeToString(deterministic=True))
