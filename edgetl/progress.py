"""Progress bars with rate and time left on stderr; silent when stderr is not a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Advance = Callable[[int], None]


class Interrupt:
    """Ctrl-C, as the command line notes it; who ends less than the whole verb by it clears it."""

    noted = False


@contextlib.contextmanager
def progress_bar(title: str, total: int, *, unit: str = "photos", show: bool) -> Iterator[Advance]:
    """Yield `advance(n)`; draws a bar only when `show` is set and stderr is a terminal."""
    if not (show and sys.stderr.isatty()):
        yield lambda _: None
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
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=total, rate="")

        def advance(count: int) -> None:
            bars.advance(task, count)
            speed = bars.tasks[0].speed
            bars.update(task, rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield advance


@contextlib.contextmanager
def status_line(*, show: bool) -> Iterator[Callable[[str], None]]:
    """Yield `say(text)`: what is being done now, beside a spinner; silent as `progress_bar` is."""
    if not (show and sys.stderr.isatty()):
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as spinner:
        yield spinner.update
