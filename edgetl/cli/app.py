"""All verbs in one application.

What its parser refuses is an error as any other: one line, one document with --json; exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import edgetl
from edgetl.cli import (
    backbones,
    bench,
    bundles,
    compare,
    demo,
    devices,
    export,
    finetune,
    predict,
    samples,
    weights,
)
from edgetl.cli.common import State, log_to_stderr, report
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
        log_to_stderr()  # plug-ins may be warned of while options are parsed
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


app = typer.Typer(
    name="edgetl",
    cls=Verbs,
    help="From a folder of photos to a verified, quantized, measured model on an edge device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(edgetl.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """From a folder of photos to a verified, quantized, measured model on an edge device."""


app.command("finetune")(finetune.finetune)
app.command("train", help="The same as finetune.")(finetune.finetune)
app.command("export")(export.export)
app.command("evaluate")(predict.evaluate)
app.command("predict")(predict.predict)
app.command("bench")(bench.bench)
app.command("build")(bench.build)
app.command("compare")(compare.compare)
app.command("inspect")(bundles.inspect)
app.command("unpack")(bundles.unpack)
app.command("devices")(devices.devices)
app.command("backbones")(backbones.backbones)
app.add_typer(weights.app, name="weights")
app.command("samples")(samples.samples)
app.command("demo")(demo.demo)
app.command("doctor")(devices.doctor)
