"""Two or more candidates side by side on real images: how often and how far they differ."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias, Union

import numpy as np

from edgetl.bundle import Bundle, open_bundle
from edgetl.data.names import nfc
from edgetl.data.walk import images_in
from edgetl.engines import NAMES, Session
from edgetl.errors import DataError, EngineError, ImageError, UnknownNameError, UsageError, shell
from edgetl.inputs.image import Pixels, pixels
from edgetl.metrics import Logits
from edgetl.runtime.compare.comparison import Comparison, Scores, Side, Unread
from edgetl.runtime.session import open_session
from edgetl.runtime.trust import best_candidate
from edgetl.spec import Candidate, Preprocess

log = logging.getLogger("edgetl")

PathLike: TypeAlias = Union[str, "os.PathLike[str]"]


class _Entry(NamedTuple):
    """A candidate that runs: `order[i]` is its column of the first bundle's label i."""

    name: str
    home: str  # the bundle's short name
    bundle: Bundle
    candidate: Candidate
    session: Session
    order: list[int]


class _Seen(NamedTuple):
    """One image that was read, its truth, and its logits `(sides, classes)`."""

    path: str
    truth: str | None
    logits: Logits


def compare(
    bundles: PathLike | Sequence[PathLike],
    images: PathLike | Sequence[PathLike],
    *,
    engines: Sequence[str] = (),
    candidates: Sequence[str] = (),
    top: int = 20,
    threads: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Run candidates of bundles on images, one at a time, and compare each with the first.

    `images` are files, or folders that are searched; a folder named after a class states the truth
    of its images. Each bundle gives its candidates named in `candidates` (recipes), or the fastest
    of each of `engines`, or just its fastest. Each image goes through every bundle's own
    preprocessing. `top` images are returned, those with other answers first, then by KL divergence.
    Raises UsageError, DataError, UnknownNameError, BundleError, EngineError.
    """
    _check_options(engines, candidates, top)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_bundle(path)) for path in _listed(bundles)]
        _check_labels(opened)
        entries = _open(opened, _chosen(opened, engines, candidates), threads, stack)
        files = find_images(images, log.warning)
        seen, unread = _run(entries, files, advance)
        if not seen:
            first, _, fix = unread[0].error.partition(" Fix: ")
            raise DataError(f"None of the {len(files)} images can be read: {first}", fix=fix)
        return _summary(entries, seen, unread, top)


def _listed(paths: PathLike | Sequence[PathLike]) -> list[Path]:
    if isinstance(paths, (str, os.PathLike)):
        return [Path(paths)]
    return [Path(path) for path in paths]


def find_images(
    images: PathLike | Sequence[PathLike], tell: Callable[[str], None] = lambda _: None
) -> list[tuple[Path, tuple[str, ...]]]:
    """Each image file with the names of the folders that may state its class, the nearest first.

    `tell` gets a line on each kind of file that is no image.
    """
    found: list[tuple[Path, tuple[str, ...]]] = []
    for path in _listed(images):
        if not path.is_dir():
            found.append((path, (path.absolute().parent.name,)))
            continue
        inside = images_in(path, tell)
        root = path.resolve().name
        found += [(p, (*reversed(p.relative_to(path).parts[:-1]), root)) for p in inside]
    if not found:
        raise DataError("No images were given.", fix="give image files, or folders of them.")
    return found


# --- who is compared ----------------------------------------------------------------------------


def _check_options(engines: Sequence[str], candidates: Sequence[str], top: int) -> None:
    if engines and candidates:
        raise UsageError(
            "Engines and candidates were both given.", fix="name engines, or candidates, not both."
        )
    if top < 0:
        raise UsageError(f"top is {top}.", fix="ask for 0 or more images.")
    for engine in engines:
        if engine not in NAMES:
            raise UnknownNameError("engine", engine, NAMES, listing="edgetl doctor")


def _check_labels(bundles: list[Bundle]) -> None:
    """DataError unless all bundles know the same classes."""
    for bundle in bundles[1:]:
        ours, theirs = bundles[0].manifest.labels, bundle.manifest.labels
        if sorted(ours) == sorted(theirs):
            continue
        sides = ((bundles[0], set(ours) - set(theirs)), (bundle, set(theirs) - set(ours)))
        only = [f"only {b.path} has {_some(sorted(names))}" for b, names in sides if names]
        raise DataError(
            f"The bundles have different classes: {'; '.join(only) or 'one names a class twice'}.",
            fix="compare bundles that were trained on the same classes.",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _chosen(
    bundles: list[Bundle], engines: Sequence[str], candidates: Sequence[str]
) -> list[tuple[Bundle, Candidate]]:
    """The candidates to compare, each once, in the order in which they were named."""
    chosen: dict[tuple[str, str], tuple[Bundle, Candidate]] = {}
    for bundle in bundles:
        named = [_named(bundle, recipe) for recipe in candidates]
        named += [best_candidate(bundle, engine) for engine in engines]
        for candidate in named or [best_candidate(bundle)]:
            chosen.setdefault((bundle.sha256, candidate.recipe), (bundle, candidate))
    if len(chosen) < 2:
        names = [c.recipe for c in bundles[0].manifest.candidates if c.rejected is None]
        raise UsageError(
            f"Only {', '.join(recipe for _, recipe in chosen) or 'nothing'} would be compared.",
            fix="give two bundles, or name two by --engines or by --candidates; these are here: "
            f"{', '.join(names)}.",
        )
    return list(chosen.values())


def _named(bundle: Bundle, recipe: str) -> Candidate:
    known = {c.recipe: c for c in bundle.manifest.candidates}
    if recipe not in known:
        listing = shell("edgetl", "inspect", bundle.path)
        raise UnknownNameError("candidate", recipe, known, listing=listing)
    if known[recipe].rejected is not None:
        raise EngineError(
            f"{bundle.path} does not hold {recipe}, which was refused: {known[recipe].rejected}.",
            fix="name another candidate, or export with other limits.",
        )
    return known[recipe]


def _open(
    bundles: list[Bundle],
    chosen: list[tuple[Bundle, Candidate]],
    threads: int,
    stack: contextlib.ExitStack,
) -> list[_Entry]:
    stems = [bundle.path.stem for bundle in bundles]
    labels, entries = chosen[0][0].manifest.labels, []
    for bundle, candidate in chosen:
        own = bundle.path.stem if len(set(stems)) == len(stems) else str(bundle.path)
        name = candidate.recipe if len(bundles) == 1 else f"{own}: {candidate.recipe}"
        session = open_session(bundle, candidate, threads=threads)
        stack.callback(session.close)
        order = [bundle.manifest.labels.index(label) for label in labels]
        entries.append(_Entry(name, own, bundle, candidate, session, order))
    return entries


# --- what they say ------------------------------------------------------------------------------


def _run(
    entries: list[_Entry],
    files: list[tuple[Path, tuple[str, ...]]],
    advance: Callable[[int], None],
) -> tuple[list[_Seen], list[Unread]]:
    labels = {nfc(label): label for label in entries[0].bundle.manifest.labels}
    seen: list[_Seen] = []
    unread: list[Unread] = []
    for path, folders in files:
        advance(1)
        ready: dict[Preprocess, Pixels] = {}
        try:
            for entry in entries:
                spec = entry.bundle.manifest.preprocess
                if spec not in ready:
                    ready[spec] = pixels(path, spec)
        except ImageError as error:
            unread.append(Unread(image=str(path), error=str(error)))
            continue
        rows = [
            e.session.run(ready[e.bundle.manifest.preprocess][np.newaxis])[0, e.order]
            for e in entries
        ]
        truth = next((labels[nfc(name)] for name in folders if nfc(name) in labels), None)
        seen.append(_Seen(str(path), truth, np.stack(rows)))
    return seen, unread


def _summary(
    entries: list[_Entry], seen: list[_Seen], unread: list[Unread], top: int
) -> Comparison:
    scores = Scores(
        np.stack([one.logits for one in seen], axis=1),
        [entry.candidate.temperature for entry in entries],
        entries[0].bundle.manifest.labels,
        [one.truth for one in seen],
    )
    sides = []
    for index, entry in enumerate(entries):
        described, bundle = entry.session.describe(), entry.bundle
        side = Side(
            name=entry.name,
            bundle=str(bundle.path),
            bundle_sha256=bundle.sha256,
            recipe=entry.candidate.recipe,
            engine=described.engine,
            engine_version=described.version,
            provider=described.provider,
            precision=described.precision,
            temperature=entry.candidate.temperature,
            preprocess=bundle.manifest.preprocess,
            accuracy=scores.accuracy(index),
            bad=int((~scores.finite[index]).sum()),
        )
        sides.append(side)
    return Comparison(
        labels=scores.labels,
        n=len(seen),
        known=int(scores.known.sum()),
        sides=tuple(sides),
        pairs=tuple(scores.pair(i, side.name) for i, side in enumerate(sides) if i),
        images=tuple(scores.image(i, seen[i].path) for i in scores.worst()[:top]),
        unread=tuple(unread),
        notes=tuple(_notes(entries, sides, len(seen), int(scores.known.sum()))),
    )


def _notes(entries: list[_Entry], sides: list[Side], n: int, known: int) -> list[str]:
    """What a reader should know before comparing the figures."""
    notes = []
    specs = {entry.home: entry.bundle.manifest.preprocess for entry in entries}
    if len(set(specs.values())) > 1:
        each = "; ".join(f"{home} reads {s.size} px by {s.fit}" for home, s in specs.items())
        notes.append(f"Preprocessing differs, and each bundle has its own: {each}.")
    notes += [
        f"{entry.name} lists the classes in another order; they were matched by name."
        for entry in entries
        if entry.order != sorted(entry.order)
    ]
    if 0 < known < n:
        notes.append(f"Accuracies are over the {known} of {n} images in folders named by class.")
    notes += [f"{s.name} gave NaN or infinity on {s.bad} of {n} images." for s in sides if s.bad]
    return notes
