"""One row of a benchmark."""

from __future__ import annotations

from edgetl.spec.base import Record


class Measurement(Record, frozen=True, kw_only=True):
    """One benchmark row."""

    candidate: str  # its name
    recipe: str  # that it was built by
    engine: str  # that ran it
    engine_version: str  # of the installed package
    precision: str  # as the candidate states it
    provider: str  # what of the engine ran it
    batch: int  # images a run
    threads: int  # of the engine
    warmup: int  # runs before the first one that counts
    samples_ns: tuple[int, ...]  # duration of each run that counts
    p50_ms: float  # median of the durations
    p90_ms: float  # 90th percentile
    p99_ms: float  # 99th percentile
    unstable: str = ""  # why the median is not to be relied on, such as "p99 is 50 × p50"
    throughput: float  # images per second
    peak_rss_mib: float  # most memory that the measuring process held
    load_ms: float  # from the file to a session that is ready
    machine: str  # fingerprint: processor and software
    power_mode: str | None  # where the device has such
    bundle_sha256: str | None  # null in a bundle's own rows: no file holds its own hash
    edgetl: str  # version that measured
    utc: str  # when, ISO 8601
