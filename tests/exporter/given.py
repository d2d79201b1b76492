"""A small classifier as somebody else's ONNX file, written as exporters write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgetl.exporter.onnx.checks import check_onnx
from edgetl.exporter.onnx.fp16 import strong_fp16
from edgetl.exporter.onnx.importing.given import read_given
from edgetl.exporter.onnx.importing.importer import Imported, import_onnx
from edgetl.spec import Normalize

SIZE, CLASSES = 32, 5
FLOAT, HALF, BYTE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8
node, value = helper.make_node, helper.make_tensor_value_info


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "scale": rng.uniform(0.5, 1.5, 8),
        "shift": rng.normal(0, 0.2, 8),
        "mean": rng.normal(0, 0.2, 8),
        "variance": rng.uniform(0.5, 2, 8),
        "w2": rng.normal(0, 1, (CLASSES, 8)),
        "b2": rng.normal(0, 0.1, CLASSES),
    }


def build(
    nodes: list[onnx.NodeProto],
    *,
    shape: tuple[Any, ...] = ("N", 3, SIZE, SIZE),
    kind: int = FLOAT,
    opset: int = 17,
    outputs: tuple[str, ...] = ("y",),
    inputs: tuple[str, ...] = ("x",),
    extra: dict[str, np.ndarray] | None = None,
    domains: tuple[str, ...] = (),
) -> bytes:
    """An ONNX file; the weights have the type of the input unless that is uint8."""
    float_type = np.float16 if kind == HALF else np.float32
    stored = [numpy_helper.from_array(v.astype(float_type), k) for k, v in weights().items()]
    stored += [numpy_helper.from_array(v, k) for k, v in (extra or {}).items()]
    used = {name for n in nodes for name in n.input}
    graph = helper.make_graph(
        nodes,
        "given",
        [value(name, kind, shape) for name in inputs],
        [value(name, HALF if kind == HALF else FLOAT, None) for name in outputs],
        [i for i in stored if i.name in used],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


def body(source: str = "x", result: str = "y", *, norm: bool = False) -> list[onnx.NodeProto]:
    """Convolution, ReLU, mean over space, linear layer."""
    batch_norm = ["c", "scale", "shift", "mean", "variance"]
    return [
        node("Conv", [source, "w1"], ["c"], "conv", strides=[2, 2]),
        *([node("BatchNormalization", batch_norm, ["n"], "norm")] if norm else []),
        node("Relu", ["n" if norm else "c"], ["r"], "relu"),
        node("GlobalAveragePool", ["r"], ["p"], "pool"),
        node("Flatten", ["p"], ["f"], "flatten"),
        node("Gemm", ["f", "w2", "b2"], [result], "head", transB=1),
    ]


def head(shape: list[int] | None = None) -> list[onnx.NodeProto]:
    """The layers behind ReLU, with a Reshape in place of Flatten."""
    return [
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Reshape", ["p", "to"], ["f"]),
        node("Gemm", ["f", "w2", "b2"], ["y"], transB=1),
    ]


def pictures(count: int = 5, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def run_given(data: bytes, images: np.ndarray, normalize: Normalize | None = None) -> np.ndarray:
    """What the file itself says, image by image, fed as its author would."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    kind, shape = session.get_inputs()[0].type, session.get_inputs()[0].shape
    block: Any = images
    if kind != "tensor(uint8)":
        norm = normalize or Normalize()
        block = (images / 255 - np.array(norm.mean)) / np.array(norm.std)
    if shape[3] != 3:
        block = block.transpose(0, 3, 1, 2)
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
    rows = [session.run(None, {"x": block[i : i + 1].astype(types[kind])})[0] for i in range(5)]
    return np.concatenate(rows)


def run_canonical(imported: Imported, images: np.ndarray) -> np.ndarray:
    check_onnx(imported.canonical, max_opset=17, max_ir=8)
    strong_fp16(imported.canonical)  # what TensorRT gets can be made of it
    session = onnxruntime.InferenceSession(imported.canonical, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def imported(data: bytes | Path, normalize: Normalize | None = None, **options: Any) -> Imported:
    return import_onnx(
        read_given(data, **options), normalize=normalize or Normalize(), images=pictures()
    )


def kinds(result: Imported) -> list[str]:
    return [n.op_type for n in onnx.load_model_from_string(result.canonical).graph.node]


PLAIN = ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
PREPROCESSING = ["Cast", "Transpose", "Sub", "Mul"]


def same(data: bytes | Path, normalize: Normalize | None = None, **options: Any) -> Imported:
    """Adopt the file, and compare with what it says itself."""
    result = imported(data, normalize, **options)
    held = data if isinstance(data, bytes) else data.read_bytes()
    wanted = run_given(held, pictures(), normalize).reshape(5, -1)
    found = run_canonical(result, pictures())
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    return result
