"""One row of a benchmark."""

from __future__ import annotations

import msgspec

from edgetl.spec.base import Record


class Measurement(Record, frozen=True, kw_only=True):
    """One benchmark row."""

    candidate: str = msgspec.field(name="recipe")  # the key has always been called so
    engine: str
    engine_version: str
    precision: str
    provider: str
    batch: int
    threads: int
    warmup: int
    samples_ns: tuple[int, ...]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    unstable: str = ""  # why the median is not to be relied on, such as "p99 is 50 × p50"
    throughput: float  # images per second
    peak_rss_mib: float
    load_ms: float
    machine: str
    power_mode: str | None
    bundle_sha256: str | None  # None in a bundle's own rows: no file holds its own hash
    edgetl: str
    utc: str
