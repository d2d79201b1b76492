"""Two or more candidates side by side on real images: how often and how far they differ."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, Union

import numpy as np

from edgetl.bundle import Bundle, Candidate, open_bundle
from edgetl.data.names import nfc, shown
from edgetl.data.samples import real_path
from edgetl.data.walk import images_in
from edgetl.engines import Outputs, Session, find_engine
from edgetl.errors import DataError, EngineError, ImageError, UsageError
from edgetl.inputs.base import Geometry, Input, Read
from edgetl.options import CompareOptions, takes
from edgetl.runtime.choose import listed
from edgetl.runtime.compare.comparison import Answers, Comparison, Scores, Side, Unread
from edgetl.runtime.session import open_session
from edgetl.runtime.trust import best_candidate
from edgetl.tasks.base import Task, check_known, join

log = logging.getLogger("edgetl")

PathLike: TypeAlias = Union[str, "os.PathLike[str]"]


class _Entry(NamedTuple):
    """A candidate that runs."""

    name: str
    home: str  # the bundle's short name
    bundle: Bundle
    candidate: Candidate
    session: Session

    @property
    def task(self) -> Task:
        """What its outputs mean."""
        return self.bundle.manifest.task


class _Seen(NamedTuple):
    """One image that was read, its truth, and what each side answers."""

    path: str
    truth: str | None
    outputs: list[Outputs]
    geometries: list[Geometry]


@takes(CompareOptions)
def compare(
    bundles: PathLike | Sequence[PathLike],
    images: PathLike | Sequence[PathLike],
    *,
    advance: Callable[[int], None] = lambda _: None,
    options: CompareOptions | None = None,
    **changes: Any,
) -> Comparison:
    """Run candidates of bundles on images, one at a time, and compare each with the first.

    `images` are files, or folders that are searched; a folder named after a class states the truth
    of its images, or the table `labels` does. Each bundle gives its candidates named in
    `candidates`, or the fastest of each of `engines`, or just its fastest. Each image goes through
    every bundle's own preprocessing. `top` images are returned, those with other answers first,
    then by KL divergence.
    Raises UsageError, DataError, UnknownNameError, BundleError, EngineError.
    """
    asked = CompareOptions.of(options, changes)
    for engine in asked.engines:
        find_engine(engine)  # an unknown one is an error
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_bundle(path)) for path in _listed(bundles)]
        _check_tasks(opened)
        wanted = _chosen(opened, asked.engines, asked.candidates)
        entries = _open(opened, wanted, asked.threads, stack)
        files = find_images(images, log.warning)
        stated = _stated(entries[0].task, _listed(images), asked.labels)
        seen, unread = _run(entries, files, stated, advance)
        if not seen:
            first = unread[0][1]
            raise DataError(
                f"None of the {len(files)} images can be read: {first.message}", fix=first.fix
            )
        return _summary(entries, seen, unread, asked.top)


def _listed(paths: PathLike | Sequence[PathLike]) -> list[Path]:
    several = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    return [real_path(Path(path)) for path in several]


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


def _stated(task: Task, images: list[Path], table: str | None) -> dict[Path, str] | None:
    """What a table says of images, by file; None where there is no table."""
    if table is None:
        return None
    if len(images) != 1 or not images[0].is_dir():
        raise UsageError(
            "--labels needs one folder, which its paths begin in.", fix="give --images FOLDER."
        )
    root = images[0].resolve()
    known = tuple(nfc(label) for label in task.labels)
    found = task.scan(root, table, need_train=False, known=known).photos
    check_known(task, found, table, "correct the table.")
    return {(root / item.path).resolve(): item.label for item in found}


# --- who is compared ----------------------------------------------------------------------------


def _check_tasks(bundles: list[Bundle]) -> None:
    """DataError unless all bundles have one task and know the same classes."""
    first = bundles[0].manifest.task
    for bundle in bundles[1:]:
        other = bundle.manifest.task
        if type(first) is not type(other):
            raise DataError(
                f"{bundles[0].path} and {bundle.path} have different tasks.",
                fix="compare bundles of one task.",
            )
        ours, theirs = first.labels, other.labels
        if sorted(ours) == sorted(theirs):
            continue
        sides = ((bundles[0], set(ours) - set(theirs)), (bundle, set(theirs) - set(ours)))
        only = [f"only {b.path} has {shown(sorted(names), 8)}" for b, names in sides if names]
        raise DataError(
            f"The bundles have different classes: {'; '.join(only) or 'one names a class twice'}.",
            fix="compare bundles that were trained on the same classes.",
        )


def _chosen(
    bundles: list[Bundle], engines: Sequence[str], candidates: Sequence[str]
) -> list[tuple[Bundle, Candidate]]:
    """The candidates to compare, each once, in the order in which they were named."""
    chosen: dict[tuple[str, str], tuple[Bundle, Candidate]] = {}
    for bundle in bundles:
        named = [_named(bundle, name) for name in candidates]
        named += [best_candidate(bundle, engine) for engine in engines]
        for candidate in named or [best_candidate(bundle)]:
            chosen.setdefault((bundle.sha256, candidate.name), (bundle, candidate))
    if len(chosen) < 2:
        names = [c.name for c in bundles[0].manifest.candidates if c.rejected is None]
        raise UsageError(
            f"Only {', '.join(name for _, name in chosen) or 'nothing'} would be compared.",
            fix="give two bundles, or name two by --engines or by --candidates; these are here: "
            f"{', '.join(names)}.",
        )
    return list(chosen.values())


def _named(bundle: Bundle, name: str) -> Candidate:
    found = listed(bundle, name)
    if found.rejected is not None:
        raise EngineError(
            f"{bundle.path} does not hold {name}, which was refused: {found.rejected}.",
            fix="name another candidate, or export with other limits.",
        )
    return found


def _open(
    bundles: list[Bundle],
    chosen: list[tuple[Bundle, Candidate]],
    threads: int,
    stack: contextlib.ExitStack,
) -> list[_Entry]:
    stems = [bundle.path.stem for bundle in bundles]
    entries = []
    for bundle, candidate in chosen:
        own = bundle.path.stem if len(set(stems)) == len(stems) else str(bundle.path)
        name = candidate.name if len(bundles) == 1 else f"{own}: {candidate.name}"
        session = open_session(bundle, candidate, threads=threads)
        stack.callback(session.close)
        entries.append(_Entry(name, own, bundle, candidate, session))
    return entries


# --- what they say ------------------------------------------------------------------------------


def _run(
    entries: list[_Entry],
    files: list[tuple[Path, tuple[str, ...]]],
    stated: dict[Path, str] | None,
    advance: Callable[[int], None],
) -> tuple[list[_Seen], list[tuple[str, ImageError]]]:
    seen: list[_Seen] = []
    unread: list[tuple[str, ImageError]] = []
    for path, folders in files:
        advance(1)
        ready: dict[Input, Read] = {}
        try:
            for entry in entries:
                spec = entry.bundle.manifest.input
                if spec not in ready:
                    ready[spec] = spec.read(path)
        except ImageError as error:
            unread.append((str(path), error))
            continue
        reads = [ready[entry.bundle.manifest.input] for entry in entries]
        found = zip(entries, reads, strict=True)
        outputs = [entry.session.run(read.pixels[np.newaxis]) for entry, read in found]
        by_folders = entries[0].task.truth_by_folders
        truth = by_folders(folders) if stated is None else stated.get(path.resolve())
        seen.append(_Seen(str(path), truth, outputs, [read.geometry for read in reads]))
    return seen, unread


def _summary(
    entries: list[_Entry], seen: list[_Seen], unread: list[tuple[str, ImageError]], top: int
) -> Comparison:
    scores = Scores(
        [
            Answers(
                entry.task,
                entry.candidate.settings,
                join([one.outputs[i] for one in seen]),
                [one.geometries[i] for one in seen],
            )
            for i, entry in enumerate(entries)
        ],
        [one.truth for one in seen],
    )
    sides = []
    for index, entry in enumerate(entries):
        described, bundle = entry.session.describe(), entry.bundle
        sides.append(
            Side(
                name=entry.name,
                bundle=str(bundle.path),
                bundle_sha256=bundle.sha256,
                candidate=entry.candidate.name,
                engine=described.engine,
                engine_version=described.version,
                provider=described.provider,
                precision=described.precision,
                temperature=getattr(entry.candidate.settings, "temperature", 1.0),
                preprocess=bundle.manifest.input,
                accuracy=scores.accuracy(index),
                bad=int((~scores.finite[index]).sum()),
            )
        )
    return Comparison(
        labels=entries[0].task.labels,
        metric=entries[0].task.metrics[0].title,
        n=len(seen),
        known=int(scores.known.sum()),
        sides=tuple(sides),
        pairs=tuple(scores.pair(i, side.name) for i, side in enumerate(sides) if i),
        images=tuple(scores.image(i, seen[i].path) for i in scores.worst()[:top]),
        unread=tuple(Unread(image=path, error=str(error)) for path, error in unread),
        notes=tuple(_notes(entries, sides, len(seen), int(scores.known.sum()))),
    )


def _notes(entries: list[_Entry], sides: list[Side], n: int, known: int) -> list[str]:
    """What a reader should know before comparing the figures."""
    notes = []
    specs = {entry.home: entry.bundle.manifest.input for entry in entries}
    if len(set(specs.values())) > 1:
        each = "; ".join(f"{home} reads {spec}" for home, spec in specs.items())
        notes.append(f"Preprocessing differs, and each bundle has its own: {each}.")
    notes += [
        f"{entry.name} lists the classes in another order; they were matched by name."
        for entry in entries
        if entry.task.labels != entries[0].task.labels
    ]
    if 0 < known < n:
        title = entries[0].task.metrics[0].title
        notes.append(f"{known} of {n} images are of known class; {title} is over these.")
    notes += [f"{s.name} gave NaN or infinity on {s.bad} of {n} images." for s in sides if s.bad]
    return notes
