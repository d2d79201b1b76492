"""Search which parts of a network to keep in floating point: a Pareto front of speed and accuracy.

Engines differ in what they run well in INT8, and networks in where INT8 hurts, so both are
measured: each placement is built from a few photos, timed in turns with the whole network in INT8,
and compared with FP32 on training photos kept out of calibration. From the fastest of a few starts,
parts are added or removed one by one while that makes the network faster (a steepest descent);
then, from the fastest one, those are added that bring the logits nearest to FP32 for the time they
cost.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import edgetl
from edgetl.engines import Session, ready_engine
from edgetl.errors import EngineError, StorageError, TraceError
from edgetl.exporter.backends import Proxy, backend_of
from edgetl.exporter.candidates import Built, build, mean_distance
from edgetl.exporter.context import BuildContext
from edgetl.exporter.search.blocks import DEPTHWISE, GATES, REGION, blocks
from edgetl.files import cache_folder, sha256_bytes, write_bytes
from edgetl.machine import this_machine
from edgetl.progress import Interrupt
from edgetl.spec import Recipe, Record
from edgetl.tasks.base import join

PHOTOS = 32  # calibrate a trial; what is chosen is built again with the recipe's own number
GAIN = 0.005  # a part must make the network at least so much faster to be taken for speed
TURNS, RUNS = 12, 5
QUANTILE = 0.25  # of the samples; on a busy machine it moves less than the median
CONFIRMED = 2  # best placements of a round that are timed again, longer, before one is taken
FINALISTS = 3
METHOD = "quartiles of 12 x 5, confirmed, 4"  # change it with how a trial is built or timed
NEVER = 1e9  # ratio and divergence of a placement that cannot be built

Say = Callable[[str], None]


class Trial(Record, frozen=True, kw_only=True):
    """One placement: how fast against the whole network in INT8, and how near to FP32."""

    parts: tuple[str, ...]  # kept in floating point
    hint: str  # precision of what is not INT8: f32, bf16; or "" where the engine has no choice
    ratio: float  # of times; below 1 is faster than everything in INT8
    divergence: float  # nats
    confirmed: bool = False  # timed once more, longer


class Search:
    """Trials of one recipe on this machine; finished ones are kept in the cache folder."""

    def __init__(self, recipe: Recipe, context: BuildContext, deadline: float, say: Say) -> None:
        """`deadline` is by `time.monotonic`; `say` is told of every trial."""
        self.recipe = msgspec.structs.replace(
            recipe, calibration_images=PHOTOS, calibration=recipe.calibration[:1]
        )
        self.hints = backend_of(recipe).hints(recipe)  # precisions of what is not quantized
        self.context, self.deadline, self.say = context, deadline, say
        self.parts = blocks(context.canonical)
        key = [
            sha256_bytes(context.canonical),
            msgspec.json.encode(self.recipe).decode(),
            sha256_bytes(context.photos(PHOTOS).tobytes()),
            this_machine().fingerprint,
            ready_engine(recipe.engine).version(),
            edgetl.__version__,
            METHOD,
        ]
        self._file = f"search/{sha256_bytes('|'.join(key).encode())}.jsonl"
        self.trials: dict[tuple[tuple[str, ...], str], Trial] = {}
        self._known = {(t.parts, t.hint): t for t in self._stored()}
        self._whole: Session | None = None
        self._last: tuple[tuple[str, ...], Built] | None = None
        self.stopped = ""  # why it ended before it was done

    def run(self) -> list[Trial]:
        """All trials, until nothing gets better, the time is over or Ctrl-C."""
        try:
            fastest = self._walk(self._start(), _quickens)
            self._walk(fastest, _pays)
        except KeyboardInterrupt:
            Interrupt.noted = False  # it ends the search, and not the export
            self.stopped = "Ctrl-C"
        except TimeoutError:
            self.stopped = "its time was over"
        finally:
            if self._whole is not None:
                self._whole.close()
        return list(self.trials.values())

    def _start(self) -> Trial:
        """The whole network in INT8, or what often pays together though no part does alone."""
        best = self._best(())
        kinds = [name for name in self.parts if not name.startswith(REGION) and name != "stem"]
        light = [name for name in kinds if name.startswith((DEPTHWISE, GATES))]
        for parts in dict.fromkeys((tuple(sorted(light)), tuple(sorted(kinds)))):
            found = self._best(parts) if len(parts) > 1 else best
            found = self._again(found) if _quickens(best, found) else best
            best = found if _quickens(best, found) else best
        return best

    def _walk(self, best: Trial, better: Callable[[Trial, Trial], bool]) -> Trial:
        """Add a part, or for speed remove one, while the best change is `better`."""
        while True:
            floats = self.kept(best.parts)
            near = [{*best.parts, name} for name, nodes in self.parts.items() if nodes - floats]
            if better is _quickens:
                near += [{*best.parts} - {name} for name in best.parts]
            tried = [self._best(tuple(sorted(parts))) for parts in near]
            found = [trial for trial in tried if better(best, trial)]
            if better is _quickens:
                # as many a round, whether it is resumed or not
                most = max(0, CONFIRMED - sum(trial.confirmed for trial in tried))
                once = sorted((t for t in found if not t.confirmed), key=_ratio)[:most]
                found = [t for t in found if t.confirmed]
                found += [t for t in map(self._again, once) if better(best, t)]
            if not found:
                return best
            best = min(found, key=partial(_price, best) if better is _pays else _ratio)

    def _again(self, trial: Trial) -> Trial:
        """Time a trial once more and longer: the fastest of many is in part the luckiest."""
        key = (trial.parts, trial.hint)
        if trial.confirmed or trial.ratio >= NEVER:
            return trial
        self._check_time()
        self.say(f"again, in {trial.hint or 'float'}: {', '.join(trial.parts)}")
        with self._failing():
            with self._opened(trial.parts, trial.hint) as session:
                image = self.context.held_out()[0][:1]
                ratio = time_ratio(session, self._reference(), image, turns=3 * TURNS)
            self._keep(key, msgspec.structs.replace(trial, ratio=ratio, confirmed=True))
        return self.trials[key]

    def kept(self, parts: tuple[str, ...]) -> frozenset[str]:
        """Node names of parts."""
        return frozenset().union(*(self.parts[name] for name in parts))

    def _best(self, parts: tuple[str, ...]) -> Trial:
        """The faster of a placement's trials, one for each precision of the rest."""
        return min((self._trial(parts, hint) for hint in self.hints), key=_ratio)

    def _trial(self, parts: tuple[str, ...], hint: str) -> Trial:
        key = (parts, hint)
        if key not in self._known:
            self._check_time()
            named = ", ".join(parts) or "nothing"
            self.say(f"trial {len(self.trials) + 1}, in {hint or 'float'}: {named}")
            self._keep(key, self._run(parts, hint))
        return self.trials.setdefault(key, self._known[key])

    def _check_time(self) -> None:
        if Interrupt.noted:  # something native swallowed it
            raise KeyboardInterrupt
        if time.monotonic() > self.deadline:
            raise TimeoutError

    def _keep(self, key: tuple[tuple[str, ...], str], trial: Trial) -> None:
        self.trials[key] = self._known[key] = trial
        with contextlib.suppress(StorageError):  # the next search measures it again, no more
            write_bytes(self.path, msgspec.json.Encoder().encode_lines(self._known.values()))

    @property
    def path(self) -> Path:
        """Where trials are kept for later searches; StorageError where there is no cache."""
        return cache_folder() / self._file

    def _stored(self) -> Iterator[Trial]:
        """Trials of an earlier search; lines that are not whole are left out."""
        try:
            lines = self.path.read_bytes().splitlines()
        except (OSError, StorageError):
            return
        for line in lines:
            try:
                yield msgspec.json.decode(line, type=Trial)
            except msgspec.DecodeError:
                continue

    def _built(self, parts: tuple[str, ...]) -> Built:
        """The placement's files; the last one's are kept for its other precision."""
        if self._last is None or self._last[0] != parts:
            self._last = parts, build(self.recipe, self.context, self.kept(parts))
        return self._last[1]

    def _reference(self) -> Session:
        """The whole network in INT8, which every placement is timed against."""
        if self._whole is None:
            self._whole = open_built(build(self.recipe, self.context), self.hints[0])
        return self._whole

    def _run(self, parts: tuple[str, ...], hint: str) -> Trial:
        ratio = apart = NEVER
        with self._failing(), self._opened(parts, hint) as session:
            images, reference = self.context.held_out()
            outputs = join([session.run(images[i : i + 1]) for i in range(len(images))])
            itself = not parts and hint == self.hints[0]
            ratio = 1.0 if itself else time_ratio(session, self._reference(), images[:1])
            # infinite when outputs are not finite
            apart = min(mean_distance(self.context.source.task, reference, outputs), NEVER)
        return Trial(parts=parts, hint=hint, ratio=ratio, divergence=apart)

    def _opened(self, parts: tuple[str, ...], hint: str) -> contextlib.closing[Session]:
        return contextlib.closing(open_built(self._built(parts), hint))

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """A placement that cannot be built or run is none; the search goes on without it."""
        try:
            yield
        except (EngineError, TraceError):
            if Interrupt.noted:  # a native module made that of Ctrl-C
                raise KeyboardInterrupt from None


def open_built(built: Built, hint: str) -> Session:
    """A session on this machine; EngineError when it cannot be."""
    recipe = backend_of(built.recipe).with_hint(built.recipe, hint)
    own = Proxy(recipe.engine, recipe.precision, recipe.session)
    return own.open(tuple(built.files.values()))


def time_ratio(session: Session, other: Session, image: Any, *, turns: int = TURNS) -> float:
    """Time of `session` over that of `other` for one image, taken in turns; lower quartiles."""
    samples: tuple[list[int], list[int]] = ([], [])
    for _ in range(turns):
        for kept, candidate in zip(samples, (session, other), strict=True):
            candidate.run(image)
            candidate.run(image)  # caches and clocks are the other one's until now
            for _ in range(RUNS):
                start = time.perf_counter_ns()
                candidate.run(image)
                kept.append(time.perf_counter_ns() - start)
    mine, others = (float(np.quantile(kept, QUANTILE)) for kept in samples)
    return mine / others


def finalists(trials: list[Trial], own: str) -> list[Trial]:
    """Up to `FINALISTS` trials of the Pareto front: the fastest, the nearest to FP32, and between.

    The whole network in INT8 with its `own` precision of the rest is a candidate already.
    """
    front = [
        t
        for t in pareto(trials)
        if (t.parts or t.hint != own) and max(t.ratio, t.divergence) < NEVER
    ]
    if len(front) <= FINALISTS:
        return front
    places = np.linspace(0, len(front) - 1, FINALISTS).round().astype(int)
    return [front[i] for i in places]


def pareto(trials: list[Trial]) -> list[Trial]:
    """Trials that no other one beats in both respects, the fastest first."""
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.ratio, t.divergence)):
        if not front or trial.divergence < front[-1].divergence:
            front.append(trial)
    return front


def _ratio(trial: Trial) -> float:
    return trial.ratio


def _quickens(old: Trial, new: Trial) -> bool:
    """Whether a placement is faster by more than `GAIN`."""
    return old.ratio - new.ratio > GAIN * old.ratio


def _pays(old: Trial, new: Trial) -> bool:
    """Whether a placement is nearer to FP32 by more than a tenth."""
    return new.divergence < 0.9 * old.divergence


def _price(old: Trial, new: Trial) -> float:
    """Time that a placement costs for each nat it gains."""
    return max(new.ratio - old.ratio, 1e-4) / max(old.divergence - new.divergence, 1e-9)
