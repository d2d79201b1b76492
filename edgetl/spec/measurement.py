"""One row of a benchmark."""

from __future__ import annotations

import msgspec

from edgetl.spec.base import Record


class Measurement(Record, frozen=True, kw_only=True):
    """One benchmark row."""

    candidate: str = msgspec.field(name="recipe")  # its name, by the key that it always had
    engine: str  # that ran it
    engine_version: str  # of the engine's package
    precision: str  # of the candidate
    provider: str  # what the engine says it ran on
    batch: int  # images a run
    threads: int  # of the engine
    warmup: int  # runs that do not count
    samples_ns: tuple[int, ...]  # time of each run that counts, in nanoseconds
    p50_ms: float  # median time of a run
    p90_ms: float  # 90th percentile
    p99_ms: float  # 99th percentile
    unstable: str = ""  # why the median is not to be relied on, such as "p99 is 50 × p50"
    throughput: float  # images per second
    peak_rss_mib: float  # largest memory of the process
    load_ms: float  # until the engine could run
    machine: str  # fingerprint of the machine
    power_mode: str | None  # of a Jetson, where there is one
    bundle_sha256: str | None  # None in a bundle's own rows: no file holds its own hash
    edgetl: str  # version that measured
    utc: str  # when, ISO 8601
