"""What a device runs: load a bundle, predict, measure. Needs numpy, Pillow, msgspec, one engine."""

from edgetl.runtime.model import Model, load

__all__ = ["Model", "load"]
