"""What one would build by hand from the same ONNX, by each tool's defaults."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from edgetl.exporter.onnx.checks import INPUT
from edgetl.spec import Precision
from edgetl.telemetry import quiet, silence


class How(NamedTuple):
    """How a plain build is opened."""

    engine: str
    precision: Precision
    session: dict[str, str]


PLAIN = {
    "plain-ort-fp32": How("onnxruntime", "fp32", {}),
    "plain-ort-int8": How("onnxruntime", "int8", {}),
    "plain-ov-fp32": How("openvino", "fp32", {"INFERENCE_PRECISION_HINT": "f32"}),
    "plain-ov-bf16": How("openvino", "bf16", {"INFERENCE_PRECISION_HINT": "bf16"}),
    "plain-ov-int8": How("openvino", "int8", {"INFERENCE_PRECISION_HINT": "f32"}),
}


def plain_files(canonical: bytes, images: Any) -> dict[str, dict[str, bytes]]:
    """Files by name and suffix; `images` uint8 `(N, size, size, 3)` calibrate both quantizers."""
    floating = {".onnx": canonical}
    return {
        "plain-ort-fp32": floating,
        "plain-ort-int8": {".onnx": ort_int8(canonical, images)},
        "plain-ov-fp32": floating,
        "plain-ov-bf16": floating,
        "plain-ov-int8": ov_int8(canonical, images),
    }


def ort_int8(canonical: bytes, images: Any) -> bytes:
    """onnxruntime's static quantization: uint8 activations, int8 weights per channel, min-max."""
    from onnxruntime.quantization import QuantType, quantize_static

    class Reader:
        def __init__(self) -> None:
            self.left = iter(range(len(images)))

        def get_next(self) -> Any:
            index = next(self.left, None)
            return None if index is None else {INPUT: images[index : index + 1]}

    with quiet(), tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "canonical.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(canonical)
        quantize_static(
            source,
            target,
            Reader(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        return target.read_bytes()


def ov_int8(canonical: bytes, images: Any) -> dict[str, bytes]:
    """NNCF's quantization with its defaults but for the MIXED preset."""
    silence()
    import nncf
    import openvino

    with quiet(), tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "canonical.onnx", Path(folder) / "int8.xml"
        source.write_bytes(canonical)
        model = openvino.convert_model(source)
        model.reshape({INPUT: [1, *images.shape[1:]]})
        quantized = nncf.quantize(
            model,
            nncf.Dataset(range(len(images)), lambda i: {INPUT: images[i : i + 1]}),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
        )
        openvino.save_model(quantized, target, compress_to_fp16=False)
        return {".xml": target.read_bytes(), ".bin": target.with_suffix(".bin").read_bytes()}
