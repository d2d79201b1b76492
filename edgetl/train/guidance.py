"""What a run's owner should be told: each finding as one sentence with numbers and a way out.

These are judgements, not errors. Each counts the photos that it rests on, so that a small
validation split says nothing that chance explains.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgetl.data.names import shown
from edgetl.inputs.base import Input
from edgetl.inputs.image import ImageInput, shown_share
from edgetl.options import FinetuneConfig
from edgetl.runs.record import Stage
from edgetl.spec import Split
from edgetl.tasks.base import Evaluation

LOOKED_AT = 1000  # photos whose shape is read
LEAST_SEEN = 0.40  # of a photo's area; a video frame of 16:9 shows 0.56
LONG_SHARE = 0.1  # of the photos, from which on it is said
FEW = 3  # photos that must agree before a class is said to change when it is mirrored


def framing(paths: Sequence[Path], spec: Input) -> list[str]:
    """That the centre crop of long photos leaves most of them unseen."""
    if not isinstance(spec, ImageInput) or spec.fit != "crop":
        return []
    step = max(1, len(paths) // LOOKED_AT)
    seen = [share for path in paths[::step] if (share := _seen_by_crop(path, spec))]
    long = [share for share in seen if share < LEAST_SEEN]
    if not seen or len(long) < LONG_SHARE * len(seen):
        return []
    share = statistics.median(long)
    of = f"{len(long)} of {len(seen)} training photos" + (" looked at" if step > 1 else "")
    return [
        f"{of} are about {spec.crop**2 / share:.1f} times as long as "
        f"{'wide' if spec.height == spec.width else 'the input is'}: the centre crop sees "
        f"{share:.0%} of such a photo. Where what matters may lie outside the middle, give --fit "
        "pad (all of it, smaller) or --fit squash (all of it, distorted)."
    ]


def _seen_by_crop(path: Path, spec: ImageInput) -> float:
    """Share of a photo's area that fit `crop` takes, either way up; 0 where it is unknown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on huge photos; this reads only the header
            with Image.open(path) as image:
                return shown_share(image, spec)
    except Exception:  # plug-ins raise almost anything; whoever reads the pixels says it
        return 0.0


def mirroring(plain: list[str], mirrored: list[str], truth: list[str]) -> list[str]:
    """That mirrored photos of a class are taken for another: `--no-flip`.

    Takes what the probe, which never saw mirrored photos, answers to validation photos as they are
    and mirrored.
    """
    moved: dict[str, Counter[str]] = {}
    for before, after, label in zip(plain, mirrored, truth, strict=True):
        if before == label:
            moved.setdefault(label, Counter())[after] += 1
    found = []
    for label, answers in sorted(moved.items()):
        (other, count), n = answers.most_common(1)[0], answers.total()
        if other != label and count >= FEW and 2 * count > n:
            found.append(f"{count} of {n} of {label} become {other}")
    if not found:
        return []
    return [
        f"Mirroring changes the class of validation photos ({shown(found, 5, '; ')}), and training "
        "mirrors photos: give --no-flip."
    ]


def far_below(probe: Stage, tuned: Stage, n: int, config: FinetuneConfig) -> list[str]:
    """That fine-tuning lost against the probe by more than chance explains on `n` photos."""
    # Shares with one photo more on either side: 0 and 1 are never certain.
    before, after = ((stage.primary * n + 1) / (n + 2) for stage in (probe, tuned))
    noise = math.sqrt((before * (1 - before) + after * (1 - after)) / n)
    if before - after <= 2 * noise:
        return []
    causes = ["classes that differ in a small or outer part, which random crops cut off"]
    if config.flip:
        causes.insert(0, "classes that mirroring changes, such as left and right (--no-flip)")
    if config.epochs:
        causes.append(f"--epochs {config.epochs}, which may be too few (leave it out)")
    causes.append("photos under wrong labels")
    return [
        f"Fine-tuning reached {tuned.primary:.4f} on the {n} validation photos and the probe "
        f"{probe.primary:.4f}: more than chance explains. Look for {'; '.join(causes)}."
    ]


def never_right(evaluations: Mapping[Split, Evaluation], trained: dict[str, int]) -> list[str]:
    """Classes of which a split's photos are all mistaken; `trained` counts photos by class."""
    by_text: dict[tuple[str, ...], list[str]] = {}
    for split, evaluation in evaluations.items():
        found = tuple(_mistaken(evaluation, trained))
        if found:
            by_text.setdefault(found, []).append(f"{split} ({evaluation.n} photos)")
    return [
        f"On {' and '.join(splits)}, {_classes(len(found))} never recognised: "
        f"{shown(found, 5, '; ')}. A mean over all photos hides this: look at macro-F1 and "
        "the scores by class, and add photos of what is rare."
        for found, splits in by_text.items()
    ]


def _mistaken(evaluation: Evaluation, trained: dict[str, int]) -> list[str]:
    never, found = evaluation.never_predicted(), []
    rows = evaluation.confusion or [()] * len(evaluation.per_class)
    for score, row in zip(evaluation.per_class, rows, strict=False):
        if score.n and not score.recall:
            predicted = "never predicted, " if score.label in never else ""
            taken = f", most taken for {evaluation.labels[int(np.argmax(row))]}" if row else ""
            found.append(
                f"{score.label} ({predicted}none of {score.n} right{taken}; "
                f"{trained.get(score.label, 0)} in training)"
            )
    return found


def _classes(count: int) -> str:
    return "1 class is" if count == 1 else f"{count} classes are"
