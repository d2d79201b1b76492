"""One export: what is computed once, the candidates so far, and the bundle's contents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import msgspec

from edgetl.bundle import MEASUREMENTS, write_bundle
from edgetl.bundle.manifest import BUNDLE_VERSION, Artifact, Candidate, FrontPoint, Manifest
from edgetl.errors import EdgetlError, EngineError, TraceError
from edgetl.exporter.backends import backend_of
from edgetl.exporter.candidates import Built, build, candidate_outputs, mean_distance, why
from edgetl.exporter.context import BuildContext
from edgetl.exporter.gate import judge
from edgetl.exporter.golden import golden_inputs, golden_members
from edgetl.exporter.onnx.checks import parse_onnx, takes_one
from edgetl.exporter.onnx.fp16 import check_fp16_ranges
from edgetl.exporter.plan import Plan
from edgetl.exporter.quantize.calibration import activation_ranges, float_tensors
from edgetl.exporter.sources.base import Source
from edgetl.files import sha256_bytes
from edgetl.machine import this_machine
from edgetl.runtime.choose import AUTO, fastest
from edgetl.spec import Measurement, Recipe
from edgetl.tasks.base import Outputs, finite

SCANNED = 64  # training photos whose inner values are compared with FP16's range
Say = Callable[[str], None]


class ExportJob:
    """One export: the source, the plan, and every candidate so far."""

    def __init__(
        self,
        source: Source,
        plan: Plan,
        *,
        engine: str,
        precision: str,
        max_drop: float,
        progress: Say,
        bar: bool = False,
    ) -> None:
        """`bar` draws a progress bar on a terminal where something takes long."""
        self.source, self.plan, self.say = source, plan, progress
        self.engine, self.precision, self.max_drop = engine, precision, max_drop
        progress("reading validation photos")
        self.validation = source.validation()
        progress(f"running the reference on {len(self.validation.images)} photos")
        self.reference = self.validation.reference or source.reference(self.validation.images)
        self.golden = golden_inputs(source.reference, source.input.shape)
        progress("writing the network as ONNX")
        self.context = BuildContext(source, source.canonical())
        self.candidates: dict[str, Candidate] = {}
        self.built: dict[str, Built] = {}
        self.expected: dict[str, Outputs] = {}  # each candidate's outputs of `golden`
        self.rows: list[Measurement] = []
        self.bar = bar
        self.front: list[FrontPoint] = []  # of searches, the fastest first
        self.trained: BuildContext | None = None  # from quantization-aware training
        self._overflow: dict[BuildContext, str | None] = {}

    def try_recipes(self, recipes: Iterable[Recipe]) -> None:
        """Build and judge whole recipes; one that cannot be built is a refused candidate."""
        for recipe in recipes:
            self.attempt(recipe, partial(build, recipe, self.context), self.context)

    def attempt(
        self,
        recipe: Recipe,
        make: Callable[[], Built],
        context: BuildContext,
        *,
        variant: str = "",
        name: str = "",
    ) -> None:
        """Build, score and judge one candidate of `context`: a recipe, or a variant of one."""
        name = name or recipe.name
        candidate = Candidate(
            name=name,
            recipe=recipe.name,
            variant=variant,
            engine=recipe.engine,
            precision=recipe.precision,
            arch=recipe.arch,
            min_engine=recipe.min_engine,
            artifacts=(),
            session=recipe.session,
            split=self.validation.split,
            provisional=recipe.name not in self.plan.measured,
        )
        self.say(f"building {name}")
        try:
            built = make()
            self.say(f"checking {name}")
            held, reference = self.context.held_out()
            (outputs, apart, expected), used = candidate_outputs(
                built, (self.validation.images, held, self.golden)
            )
        except (EngineError, TraceError) as error:
            self.candidates[name] = msgspec.structs.replace(candidate, rejected=why(error))
            return
        self.expected[name], self.built[name] = expected, built
        task = self.source.task
        scored = judge(
            candidate,
            task,
            outputs,
            self.reference,
            self.validation.targets,
            max_drop=self.max_drop,
        )
        if scored.rejected is None and backend_of(recipe).runs_fp16(recipe):
            scored = msgspec.structs.replace(scored, rejected=self._overflows(context))
        if scored.rejected is None and not finite(expected).all():
            scored = msgspec.structs.replace(
                scored, rejected="NaN or infinity in the outputs of the self-test's drawings"
            )
        distance = mean_distance(task, reference, apart)
        self.candidates[name] = msgspec.structs.replace(
            scored,
            checked_with=used,
            quantization=built.quantization,
            divergence=distance if math.isfinite(distance) else None,  # as JSON can hold it
        )

    def _overflows(self, context: BuildContext) -> str | None:
        """Why FP16 cannot hold the inner values of the context's network, or None.

        ONNX Runtime computes FP16 files in FP32 in part, so its outputs would not show it.
        """
        if context not in self._overflow:
            canonical, images = context.canonical, context.photos(SCANNED)
            inner = float_tensors(canonical)
            try:
                found = activation_ranges(canonical, images, inner, methods=("minmax",))
                self._overflow[context] = check_fp16_ranges(found["minmax"])
            except TraceError as error:  # a value that is not finite on a training photo
                self._overflow[context] = why(error)
        return self._overflow[context]

    def refuse(self, name: str, error: EdgetlError) -> None:
        """Mark a candidate as refused after all."""
        self.candidates[name] = msgspec.structs.replace(self.candidates[name], rejected=why(error))

    @property
    def passed(self) -> list[Candidate]:
        """Candidates that no gate refused."""
        return [c for c in self.candidates.values() if c.rejected is None]

    def order(self, arch: str = "") -> tuple[str, ...]:
        """Candidates best first, for machines of one architecture or any.

        Those of the targets that are other devices come as their profiles say, then what was
        measured here, then the rest. With `arch`, other architectures' recipes come last.
        """
        listed = [
            name
            for device in self.plan.devices
            if device.kind != "cpu" and (not arch or device.arch in ("", arch))
            for name in (*device.dla_recipes, *device.recipes)
        ]
        places = {name: i for i, name in enumerate(dict.fromkeys(listed))}
        here = not arch or arch == this_machine().arch

        def rank(candidate: Candidate) -> tuple[int, float]:
            if candidate.recipe in places:
                return places[candidate.recipe], candidate.variant != ""
            if here and candidate.p50_ms is not None:
                return len(places), candidate.p50_ms
            return len(places) + 1, 0.0

        return tuple(c.name for c in sorted(self.candidates.values(), key=rank))

    def orders(self) -> dict[str, tuple[str, ...]]:
        """`order` for every architecture of the targets."""
        known = {device.arch or this_machine().arch for device in self.plan.devices}
        return {arch: self.order(arch) for arch in sorted(known)}

    def choice(self) -> tuple[str, bool]:
        """(candidate, provisional): the fastest where all was measured, else the profile's first.

        Only what was asked for by engine and precision can be chosen, not the baseline beside it.
        """
        asked = [
            c
            for c in self.passed
            if self.engine in (AUTO, c.engine) and self.precision in (AUTO, c.precision)
        ] or self.passed  # of a trial bundle, before a search finds what was asked for
        timed = [(c, c.p50_ms) for c in asked if c.p50_ms is not None]
        if len(timed) == len(asked):
            return fastest(timed).name, False
        order = self.order()
        return min(asked, key=lambda c: order.index(c.name)).name, True

    def write(self, path: Path) -> str:
        """Write the bundle with every candidate that passed; returns its hash."""
        files = {c.name: self.built[c.name].files for c in self.passed}
        members: dict[str, bytes] = {}
        for name, held in files.items():
            for member, data in held.items():
                if members.setdefault(member, data) != data:
                    raise EngineError(
                        f"The backend of {name} writes {member}, which another candidate has too.",
                        fix="name files after their recipe, as models/RECIPE.onnx.",
                    )
        artifacts = [
            Artifact(path=member, size=len(data), sha256=sha256_bytes(data))
            for member, data in members.items()
        ]
        listed = [
            msgspec.structs.replace(c, artifacts=tuple(files.get(c.name, ())))
            for c in self.candidates.values()
        ]
        expected = {c.name: self.expected[c.name] for c in self.passed}
        golden, extra = golden_members(self.golden, expected, self.source.input)
        members |= extra
        members[MEASUREMENTS] = msgspec.json.Encoder().encode_lines(self.rows)
        chosen, provisional = self.choice()
        return write_bundle(
            path,
            Manifest(
                edgetl_bundle=BUNDLE_VERSION,
                name=path.stem,
                task=self.source.task,
                input=self.source.input,
                outputs=self.source.task.outputs(),
                normalize=self.source.normalize,
                single_image=takes_one(parse_onnx(self.context.canonical)),
                targets=tuple(device.name for device in self.plan.devices),
                order=self.order(),
                orders=self.orders(),
                artifacts=tuple(artifacts),
                candidates=tuple(listed),
                chosen=chosen,
                provisional=provisional,
                golden=golden,
                provenance=self.source.provenance(self._tools(), self.max_drop),
                calibration=self.context.used,
            ),
            members,
        )

    def _tools(self) -> dict[str, str]:
        """Versions of the engines that scored candidates, and the machine."""
        used = {c.checked_with for c in self.candidates.values() if c.checked_with}
        versions = dict(text.rsplit(" ", 1) for text in sorted(used))
        return versions | {"machine": this_machine().fingerprint}
