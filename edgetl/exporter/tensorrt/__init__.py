"""TensorRT's Q/DQ: placement, writing, and the rules that check it."""
