"""The canonical ONNX: traced or imported, rewritten and checked."""
