"""Somebody else's ONNX file, brought to the canonical form."""
