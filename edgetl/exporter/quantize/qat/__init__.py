"""Quantization-aware training on the canonical ONNX."""
