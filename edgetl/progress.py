"""Progress on stderr: bars with rate and time left; a line a minute where it is no terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

Advance = Callable[[int], None]
Bar = Callable[[str, int], contextlib.AbstractContextManager[Advance]]  # of a title and a total
PERIOD_S = 60.0  # between lines where stderr is no terminal


class Interrupt:
    """Ctrl-C, as the command line notes it; who ends less than the whole verb by it clears it."""

    noted = False


class _Lines:
    """When the next line is due: one clock for all bars, as many of them are short."""

    due: float | None = None

    @classmethod
    @contextlib.contextmanager
    def spoken(cls, describe: Callable[[], str]) -> Iterator[None]:
        """Write `describe()` to stderr once a minute, until the work inside is done."""
        done = threading.Event()
        cls.due = cls.due or time.monotonic() + PERIOD_S

        def speak() -> None:
            while not done.wait(max(0.0, (cls.due or 0.0) - time.monotonic())):
                if text := describe():
                    with contextlib.suppress(OSError, ValueError):  # stderr was closed
                        sys.stderr.write(f"edgetl: {text}\n")
                        sys.stderr.flush()
                cls.due = time.monotonic() + PERIOD_S

        thread = threading.Thread(target=speak, name="edgetl-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _left(done: int, total: int, unit: str, since: float) -> str:
    """How much of a bar is done, how fast, and how long the rest will take."""
    speed = done / max(time.monotonic() - since, 1e-9)
    text = f"{done} of {total} {unit}"
    if not done:
        return text
    rate = "" if unit == "s" else f", {speed:.1f} {unit}/s"
    return f"{text}{rate}, about {max(0, total - done) / speed:.0f} s left"


@contextlib.contextmanager
def no_bar(_title: str, _total: int) -> Iterator[Advance]:
    """A bar that draws nothing."""
    yield lambda _: None


@contextlib.contextmanager
def progress_bar(title: str, total: int, *, unit: str = "photos", show: bool) -> Iterator[Advance]:
    """Yield `advance(n)`: a bar on a terminal, a line a minute elsewhere; silent without `show`."""
    if not show:
        yield lambda _: None
        return
    if not sys.stderr.isatty():
        counted, start = [0], time.monotonic()

        def count(more: int) -> None:
            counted[0] += more

        with _Lines.spoken(lambda: f"{title}: {_left(counted[0], total, unit, start)}"):
            yield count
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, emoji=False), transient=True) as bars:
        task = bars.add_task(title, total=total, rate="")

        def advance(count: int) -> None:
            bars.advance(task, count)
            speed = bars.tasks[0].speed
            bars.update(task, rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield advance


@contextlib.contextmanager
def status_line(*, show: bool) -> Iterator[Callable[[str], None]]:
    """Yield `say(text)`: what is being done now, beside a spinner; as `progress_bar` elsewhere."""
    if not show:
        yield lambda _: None
        return
    if not sys.stderr.isatty():
        said = [""]

        def note(text: str) -> None:
            said[0] = text

        with _Lines.spoken(lambda: said[0]):
            yield note
        return
    from rich.console import Console

    with Console(stderr=True, markup=False, emoji=False).status("") as spinner:
        yield spinner.update
