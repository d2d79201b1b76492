"""Integers: calibration, ONNX Runtime, NNCF, quantization-aware training."""
