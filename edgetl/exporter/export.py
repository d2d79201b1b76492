"""`edgetl export`: build every candidate of a target, gate it, measure it, write the bundle."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

import edgetl
from edgetl.bundle import open_bundle, write_bundle
from edgetl.engines import ready_engine
from edgetl.errors import EngineError, GateError, TraceError, UsageError
from edgetl.exporter.build import Built, build, candidate_logits, stand_in, why
from edgetl.exporter.gate import judge
from edgetl.exporter.golden import golden_members
from edgetl.exporter.photos import RunPhotos
from edgetl.exporter.plan import BASELINE, plan
from edgetl.exporter.reference import load_classifier, reference_logits
from edgetl.exporter.trace import trace
from edgetl.files import sha256_bytes
from edgetl.machine import this_machine
from edgetl.metrics import Logits
from edgetl.preprocess import Pixels
from edgetl.runtime.choose import AUTO
from edgetl.runtime.measure import measure
from edgetl.spec import (
    BUNDLE_VERSION,
    Artifact,
    Calibration,
    Candidate,
    Device,
    Manifest,
    Measurement,
    Provenance,
    Record,
    RunRecord,
)
from edgetl.train.run import finished_run

MEASURE_SECONDS = 2.0
MEASUREMENTS = "measurements.jsonl"
Say = Callable[[str], None]


class Export(Record, frozen=True, kw_only=True):
    """What an export did: the bundle, the chosen recipe, and every candidate."""

    bundle: str
    sha256: str
    chosen: str
    provisional: bool
    candidates: tuple[Candidate, ...]


def export(
    run: str | os.PathLike[str],
    *,
    target: str,
    out: str | os.PathLike[str],
    precision: str = AUTO,
    engine: str = AUTO,
    max_drop: float = 0.01,
    data: str | os.PathLike[str] | None = None,
    progress: Say = lambda _: None,
    report: Callable[[list[Candidate]], None] = lambda _: None,
) -> Export:
    """Write the bundle `out` for `target` from a finished run.

    Every candidate is scored on the run's validation photos; what fails the gate is refused and
    not shipped. `report` is called with all candidates, also when the gate then fails. Raises
    RunError, DataError, UnknownNameError, UsageError, TraceError, GateError or StorageError.
    """
    if not 0 <= max_drop < 1:
        raise UsageError(f"--max-drop {max_drop} is not possible.", fix="give 0…1, such as 0.01.")
    destination = Path(out).expanduser()
    if destination.is_dir():
        raise UsageError(f"--out {destination} is a folder.", fix="name a file: NAME.edgetl")
    home = Path(run).expanduser()
    record = finished_run(home)
    device, recipes = plan(target, engine, precision)
    for recipe in recipes:
        if AUTO not in (engine, precision) or engine == recipe.engine:
            ready_engine(stand_in(recipe))
    job = _Job(home, record, device, max_drop, "" if data is None else os.fspath(data), progress)
    judged, built = job.candidates(recipes)
    report(judged)
    _insist(judged, max_drop, asked=precision != "fp32" and (engine, precision) != (AUTO, AUTO))
    with tempfile.TemporaryDirectory(prefix="edgetl-export-") as folder:
        trial = Path(folder) / destination.name
        job.write(trial, judged, built, [])
        rows: list[Measurement] = []
        if device.kind == "cpu":
            progress("measuring")
            judged, rows = _measured(trial, judged, progress)
            report(judged)
    sha256 = job.write(destination, judged, built, rows)
    chosen, provisional = _choice(judged, job.order(judged))
    return Export(
        bundle=str(destination),
        sha256=sha256,
        chosen=chosen,
        provisional=provisional,
        candidates=tuple(judged),
    )


def _insist(judged: list[Candidate], max_drop: float, *, asked: bool) -> None:
    """GateError when the baseline fails, or all that was asked for by engine or precision."""
    baseline = next(c for c in judged if c.recipe == BASELINE)
    if baseline.rejected is not None:
        raise GateError(
            f"ONNX Runtime fp32 does not reproduce the trained network: {baseline.rejected}.",
            fix="report this with the run's run.json; no bundle was written.",
        )
    others = [c for c in judged if c.recipe != BASELINE]
    if asked and others and all(c.rejected for c in others):
        reasons = "; ".join(f"{c.recipe}: {c.rejected}" for c in others)
        raise GateError(
            f"No candidate that was asked for passed the gate ({reasons}).",
            fix=f"allow more than --max-drop {max_drop}, or another engine or precision.",
        )


def _measured(
    trial: Path, judged: list[Candidate], progress: Say
) -> tuple[list[Candidate], list[Measurement]]:
    """Measure the trial bundle's candidates here; what cannot run after all is refused."""
    with open_bundle(trial) as opened:
        passed = [c for c in judged if c.rejected is None]
        rows, skipped = measure(
            opened, passed, threads=0, batch=1, duration=MEASURE_SECONDS, progress=progress
        )
    by_recipe = {row.recipe: row for row in rows}
    reasons = {item.recipe: item.reason for item in skipped}
    result = []
    for candidate in judged:
        row = by_recipe.get(candidate.recipe)
        changes: dict[str, Any] = {}
        if row is not None:
            changes = {"p50_ms": row.p50_ms, "p90_ms": row.p90_ms, "measured_on": row.machine}
        elif candidate.recipe in reasons:
            changes = {"rejected": reasons[candidate.recipe]}
        result.append(msgspec.structs.replace(candidate, **changes))
    return result, rows


def _choice(judged: list[Candidate], order: tuple[str, ...]) -> tuple[str, bool]:
    """(recipe, provisional): the fastest where all was measured, else the profile's first."""
    passed = [c for c in judged if c.rejected is None]
    if all(c.p50_ms is not None for c in passed):
        return min(passed, key=lambda c: c.p50_ms or 0.0).recipe, False
    return min(passed, key=lambda c: order.index(c.recipe)).recipe, True


class _Job:
    """One export: the run, the target, and what is computed once for all candidates."""

    def __init__(
        self,
        home: Path,
        record: RunRecord,
        device: Device,
        max_drop: float,
        moved_to: str,
        progress: Say,
    ) -> None:
        self.record, self.device, self.max_drop, self.say = record, device, max_drop, progress
        self.photos = RunPhotos(home, record, moved_to)
        chosen = self.photos.of("validation")
        progress(f"reading {len(chosen)} validation photos")
        self.truth = self.photos.truth(chosen)
        self.images = self.photos.pixels(chosen)
        progress("running the PyTorch reference")
        model = load_classifier(home, record)
        self.reference = reference_logits(model, record, self.images)
        progress("tracing to ONNX")
        self.master = trace(model, record.preprocess, record.normalize)
        self.logits: dict[str, Logits] = {}
        self.used: dict[str, str] = {}
        self.calibration: Calibration | None = None
        self._calibrated: dict[int, Pixels] = {}

    def calibrate(self, count: int) -> Pixels:
        """`count` training photos `(N, size, size, 3)`; the largest set is on record."""
        if count not in self._calibrated:
            photos, fingerprint = self.photos.calibration(count)
            self._calibrated[count] = self.photos.pixels(photos)
            if self.calibration is None or fingerprint.n > self.calibration.n:
                self.calibration = fingerprint
        return self._calibrated[count]

    def candidates(self, recipes: list[Any]) -> tuple[list[Candidate], dict[str, Built]]:
        """Build and judge every recipe; a recipe that cannot be built is a refused candidate."""
        judged: list[Candidate] = []
        built: dict[str, Built] = {}
        for recipe in recipes:
            self.say(f"building {recipe.name}")
            candidate = Candidate(
                recipe=recipe.name,
                engine=recipe.engine,
                precision=recipe.precision,
                artifacts=(),
                session=recipe.session,
                provisional=self.device.kind != "cpu",
            )
            try:
                made = build(recipe, self.master, self.calibrate)
                self.say(f"checking {recipe.name}")
                logits, used = candidate_logits(made, self.images)
            except (EngineError, TraceError) as error:
                judged.append(msgspec.structs.replace(candidate, rejected=why(error)))
                continue
            self.used[recipe.name] = used
            self.logits[recipe.name], built[recipe.name] = logits, made
            scored = judge(
                candidate,
                recipe,
                logits,
                self.reference,
                self.truth,
                labels=self.record.labels,
                max_drop=self.max_drop,
            )
            judged.append(msgspec.structs.replace(scored, checked_with=used))
        return judged, built

    def order(self, judged: list[Candidate]) -> tuple[str, ...]:
        """Recipes best first: as measured where that was done, then as the profile says."""
        return tuple(
            c.recipe for c in sorted(judged, key=lambda c: (c.p50_ms is None, c.p50_ms or 0.0))
        )

    def write(
        self,
        path: Path,
        judged: list[Candidate],
        built: dict[str, Built],
        rows: list[Measurement],
    ) -> str:
        """Write the bundle with every candidate that passed; returns its hash."""
        members: dict[str, bytes] = {}
        artifacts: dict[str, Artifact] = {}
        listed: list[Candidate] = []
        for candidate in judged:
            if candidate.rejected is not None:
                listed.append(msgspec.structs.replace(candidate, artifacts=()))
                continue
            files = built[candidate.recipe].files
            for name, data in files.items():
                members[name] = data
                artifacts.setdefault(
                    name,
                    Artifact(
                        path=name,
                        size=len(data),
                        sha256=sha256_bytes(data),
                        engine=candidate.engine,
                    ),
                )
            listed.append(msgspec.structs.replace(candidate, artifacts=tuple(files)))
        passed = {c.recipe: self.logits[c.recipe] for c in listed if c.rejected is None}
        golden, extra = golden_members(self.images, passed, self.record.preprocess)
        members |= extra
        members[MEASUREMENTS] = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        order = self.order(listed)
        chosen, provisional = _choice(listed, order)
        manifest = Manifest(
            edgetl_bundle=BUNDLE_VERSION,
            name=path.stem,
            labels=self.record.labels,
            preprocess=self.record.preprocess,
            normalize=self.record.normalize,
            targets=(self.device.name,),
            order=order,
            artifacts=tuple(artifacts.values()),
            candidates=tuple(listed),
            chosen=chosen,
            provisional=provisional,
            golden=golden,
            provenance=self._provenance(),
            calibration=self.calibration,
        )
        return write_bundle(path, manifest, members)

    def _provenance(self) -> Provenance:
        record = self.record
        tools = {used.rsplit(" ", 1)[0]: used.rsplit(" ", 1)[1] for used in self.used.values()}
        return Provenance(
            edgetl=edgetl.__version__,
            created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            data_sha256=record.data.sha256,
            weights=record.weights_origin,
            config=record.config,
            versions=record.versions | tools | {"machine": this_machine().fingerprint},
            strategy=record.strategy,
            max_drop=self.max_drop,
            test=record.test,
        )
