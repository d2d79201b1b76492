"""What the parser refuses is an error as any other: one line, one document with --json; exit 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from edgetl.cli.common import State, report
from edgetl.cli.interrupts import INTERRUPTED
from edgetl.cli.options import Refusal
from edgetl.errors import UsageError

REFUSED = 2


class Verbs(TyperGroup):
    """All verbs, with errors of the parser told as those of the verbs are."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Parse and run `args`, sys.argv by default; exits."""
        words = sys.argv[1:] if args is None else list(args)
        State.json, State.debug = _asks_for_json(words), False
        try:
            code = super().main(words, *rest, **options | {"standalone_mode": False})
        except typer.Abort:
            code = INTERRUPTED
        except Refusal as error:
            code = REFUSED
            if words:
                report(self._told(error, words[0]))
            else:  # `edgetl` alone: its help
                error.show()
        sys.exit(code or 0)

    def _told(self, error: Any, verb: str) -> UsageError:
        """The refusal as an error of edgetl."""
        text = error.format_message().replace("Value error, ", "")
        fix = "see `edgetl --help`."
        if verb in self.commands:
            fix = f"see `edgetl {verb} --help`."
        elif verb.startswith("-"):
            fix = "name the command first, then its options: see `edgetl --help`."
        return UsageError(text if text.endswith(".") else f"{text}.", fix=fix)


def _asks_for_json(words: list[str]) -> bool:
    """Whether --json is among the options, however wrong the rest may be."""
    options = words[: words.index("--")] if "--" in words else words
    return any(word.partition("=")[0] == "--json" for word in options)
