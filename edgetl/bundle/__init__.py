"""The bundle file: reader, writer and checks; docs/bundle.md is its format."""

from edgetl.bundle.archive import MEASUREMENTS, Bundle, open_bundle, unpack, write_bundle
from edgetl.bundle.manifest import Candidate

__all__ = ["MEASUREMENTS", "Bundle", "Candidate", "open_bundle", "unpack", "write_bundle"]
