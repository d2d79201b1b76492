"""Every error that edgetl raises on purpose.

EdgetlError
├── UsageError           options that contradict each other or cannot be honoured
├── UnknownNameError     a name that is looked up (backbone, target, recipe, candidate) is not known
├── DataError            the photos: folders, classes, labels, splits
│   └── ImageError       one image that cannot be read
├── RunError             the run folder: not a run, unfinished, finished, other options
├── WeightsError         pretrained weights: absent, wrong hash, wrong keys or shapes
├── TrainingError        a network whose numbers became NaN or infinity
├── BundleError          the bundle: damaged, unsafe, of another version
├── EngineError          an inference engine refused or failed
│   └── EngineMissingError   the engine or extra is not installed, or has no hardware here
├── TraceError           the model cannot be written as the ONNX that the targets read
├── GateError            no candidate passed the accuracy gate
└── StorageError         a file could not be written (disk full, no permission)

Each says what is wrong and where (`message`) and how to mend it (`fix`); both are one line.
"""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Iterable


class EdgetlError(Exception):
    """Base of all errors that a user can mend."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = _one_line(message)
        self.fix = _one_line(fix)

    def __str__(self) -> str:
        return f"{self.message} Fix: {self.fix}" if self.fix else self.message


def _one_line(text: str) -> str:
    """Lines joined by a blank; blanks inside a line, as names of files may hold them, stay."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


class UsageError(EdgetlError):
    """Options contradict each other or cannot be honoured."""


class UnknownNameError(EdgetlError):
    """A looked-up name is not known; the nearest known names are suggested."""

    def __init__(
        self, kind: str, name: str, known: Iterable[str], *, listing: str, note: str = ""
    ) -> None:
        names, word = sorted(known), name.lower()
        found = [n for n in names if n.startswith(word)]
        found += difflib.get_close_matches(word, names, n=3, cutoff=0.5)
        found += [n for n in names if word in n]
        near = list(dict.fromkeys(found))[:3]
        hint = f"did you mean {', '.join(near)}?" if near else "no name is close."
        super().__init__(
            f"Unknown {kind} '{name}': {hint}", fix=f"choose one that `{listing}` lists.{note}"
        )
        self.name, self.nearest = name, near


class DataError(EdgetlError):
    """The photos cannot be used as they are: folders, classes, labels, splits."""


class ImageError(DataError):
    """One image cannot be read."""


class RunError(EdgetlError):
    """The run folder is not a run, is unfinished, finished, or has other options."""


class WeightsError(EdgetlError):
    """Pretrained weights are absent, damaged or belong to another network."""


class TrainingError(EdgetlError):
    """A network's loss, gradient or output became NaN or infinity."""


class BundleError(EdgetlError):
    """The bundle is damaged, unsafe or of another version."""


class EngineError(EdgetlError):
    """An inference engine refused a request or failed."""


class EngineMissingError(EngineError):
    """An engine, an extra or its hardware is not here."""


class TraceError(EdgetlError):
    """The model cannot be written as the ONNX that the targets read."""


class GateError(EdgetlError):
    """No candidate passed the accuracy gate."""


class StorageError(EdgetlError):
    """A file could not be written."""


def shell(*words: str | os.PathLike[str]) -> str:
    """A command as it runs when it is pasted into a shell, whatever the names of its files."""
    return " ".join(map(_word, words))


def _word(word: str | os.PathLike[str]) -> str:
    text = os.fspath(word)
    if isinstance(word, os.PathLike) and text.startswith("-"):  # else it would be an option
        text = f"./{text}"
    if all(letter.isprintable() for letter in text):
        return shlex.quote(text)
    # Control characters, and bytes that are no UTF-8: as the shell's $'…' spells them.
    spelled = (
        chr(b) if 32 <= b < 127 and b not in b"\\'" else f"\\{b:03o}" for b in os.fsencode(text)
    )
    return f"$'{''.join(spelled)}'"


def missing_extra(extra: str, what: str) -> EngineMissingError:
    """Error for a part of edgetl whose packages are not installed."""
    return EngineMissingError(
        f"{what} needs packages that are not installed.", fix=f"pip install 'edgetl[{extra}]'"
    )
