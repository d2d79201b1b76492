"""`edgetl backbones`."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from edgetl.cli.common import Answer, Debug, Json, number, table, verb
from edgetl.errors import UsageError, missing_extra


@verb
def backbones(
    source: Annotated[
        str, typer.Option(help="Of this source alone: installed, torchvision or timm.")
    ] = "",
    local: Annotated[
        bool, typer.Option("--local", help="Only those whose weights are on this machine.")
    ] = False,
    max_params: Annotated[
        float | None, typer.Option(min=0, help="Only up to so many million parameters.")
    ] = None,
    max_gflops: Annotated[
        float | None, typer.Option(min=0, help="Only up to so many billion multiply-adds.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> Answer:
    """List the compact backbones that `finetune` knows, the smallest first.

    Figures are those of their source; multiply-adds are of one image of the stated size.
    """
    try:
        from edgetl.train.backbones import SOURCES, all_backbones, timm_is_here
        from edgetl.train.weights import is_local, named_folder
    except ModuleNotFoundError as error:
        raise missing_extra("train", "edgetl backbones") from error
    if source and source not in SOURCES:
        raise UsageError(
            f"--source {source} is not possible.", fix=f"choose {' or '.join(SOURCES)}."
        )
    named_folder()  # a wrong one is an error, not an empty one
    rows: list[dict[str, Any]] = []
    for info in sorted(all_backbones(source).values(), key=lambda b: b.parameters):
        small = max_params is None or info.parameters <= max_params * 1e6
        quick = max_gflops is None or (info.gflops is not None and info.gflops <= max_gflops)
        if small and quick and ((here := is_local(info)) or not local):
            rows.append({**msgspec.to_builtins(info), "local": here})
    shown = [
        [
            row["name"],
            row["source"],
            f"{row['parameters'] / 1e6:.2f}",
            str(row["size"]),
            number(row["gflops"], 3),
            number(row["imagenet_top1"]),
            "here" if row["local"] else "to fetch" if row["url"] else "to install",
            row["licence"] if len(row["licence"]) < 32 else "see --json",
        ]
        for row in rows
    ]
    columns = [
        "backbone", "source", "M parameters#", "pixels#", "GFLOPs#", "ImageNet top-1#", "weights",
        "licence of weights",
    ]  # fmt: skip
    said = [] if source or timm_is_here() else ["timm has more: pip install 'edgetl[timm]'"]
    return rows, [table("", columns, shown), *said]
