"""Search which parts of a network to keep in floating point."""
