"""All that the exporter knows of one engine, a file for each; plug-ins add more by entry points."""

from edgetl.exporter.backends.base import (
    BACKENDS,
    BASELINE,
    Backend,
    Proxy,
    backend_of,
    check_recipe,
)

__all__ = ["BACKENDS", "BASELINE", "Backend", "Proxy", "backend_of", "check_recipe"]
