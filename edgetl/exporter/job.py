"""One export: what is computed once, the candidates, and the bundle's contents."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import msgspec

import edgetl
from edgetl.bundle import write_bundle
from edgetl.errors import EngineError, TraceError
from edgetl.exporter.build import Built, build, candidate_logits, why
from edgetl.exporter.gate import judge
from edgetl.exporter.golden import golden_members
from edgetl.exporter.photos import RunPhotos
from edgetl.exporter.reference import load_classifier, reference_logits
from edgetl.exporter.trace import trace
from edgetl.files import sha256_bytes
from edgetl.machine import this_machine
from edgetl.metrics import Logits
from edgetl.preprocess import Pixels
from edgetl.runtime.choose import AUTO
from edgetl.spec import (
    BUNDLE_VERSION,
    Artifact,
    Calibration,
    Candidate,
    Device,
    Manifest,
    Measurement,
    Provenance,
    Recipe,
    RunRecord,
)

MEASUREMENTS = "measurements.jsonl"
Say = Callable[[str], None]


class Job:
    """One export: the run, the target, and what is computed once for all candidates."""

    def __init__(
        self,
        home: Path,
        record: RunRecord,
        device: Device,
        *,
        engine: str,
        precision: str,
        max_drop: float,
        moved_to: str,
        progress: Say,
    ) -> None:
        self.engine, self.precision = engine, precision
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

    def candidates(self, recipes: list[Recipe]) -> tuple[list[Candidate], dict[str, Built]]:
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
        chosen, provisional = choice(listed, order, self.engine, self.precision)
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


def choice(
    judged: list[Candidate], order: tuple[str, ...], engine: str, precision: str
) -> tuple[str, bool]:
    """(recipe, provisional): the fastest where all was measured, else the profile's first.

    Only what was asked for by engine and precision can be chosen, not the baseline beside it.
    """
    passed = [
        c
        for c in judged
        if c.rejected is None and engine in (AUTO, c.engine) and precision in (AUTO, c.precision)
    ]
    if all(c.p50_ms is not None for c in passed):
        return min(passed, key=lambda c: c.p50_ms or 0.0).recipe, False
    return min(passed, key=lambda c: order.index(c.recipe)).recipe, True
