"""All verbs in one application."""

from __future__ import annotations

from typing import Annotated

import typer

import edgetl
from edgetl.cli import bench, build, bundles, compare, devices, evaluate, export, finetune, predict
from edgetl.cli.parser import Verbs

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
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("bench")(bench.bench)
app.command("build")(build.build)
app.command("compare")(compare.compare)
app.command("inspect")(bundles.inspect)
app.command("unpack")(bundles.unpack)
app.command("devices")(devices.devices)
app.command("backbones")(devices.backbones)
app.command("doctor")(devices.doctor)
