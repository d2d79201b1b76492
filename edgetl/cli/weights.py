"""`edgetl weights list`, `fetch` and `verify`: pretrained weights, for a closed network too."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from edgetl.cli.common import Answer, Debug, Json, State, table, verb
from edgetl.errors import WeightsError, missing_extra
from edgetl.progress import progress_bar

app = typer.Typer(
    help="Pretrained weights: what is here, fetch them for a closed network, check them there.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _store() -> Any:
    try:
        from edgetl.train.weights import store
    except ModuleNotFoundError as error:
        raise missing_extra("train", "edgetl weights") from error
    return store


@app.command("list")
@verb
def listed(json: Json = False, debug: Debug = False) -> Answer:
    """List the weights on this machine: of each backbone those that would be taken."""
    found = _store().here()
    rows = [[w.backbone, f"{w.bytes / 1e6:.1f}", str(w.path), w.licence] for w in found]
    columns = ["backbone", "MB#", "file", "licence"]
    said = "" if found else "no weights are here; see `edgetl weights fetch --help`"
    return found, [said or table("", columns, rows)]


@app.command("fetch")
@verb
def fetch(
    names: Annotated[list[str], typer.Argument(help="Backbones, as `edgetl backbones` has them.")],
    to: Annotated[Path, typer.Option(help="A folder for their files, to be carried elsewhere.")],
    json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Copy or download weights into a folder that EDGETL_WEIGHTS may name on another machine."""
    bar = partial(progress_bar, show=not State.json, unit="bytes")
    found = [_store().collect(name, to, bar=bar) for name in dict.fromkeys(names)]
    rows = [[w.backbone, w.file, f"{w.bytes / 1e6:.1f}", w.sha256[:16]] for w in found]
    where = f"there: EDGETL_WEIGHTS={to} edgetl finetune … --backbone {found[0].backbone}"
    return found, [table("", ["backbone", "file", "MB#", "SHA-256"], rows), where]


@app.command("verify")
@verb
def verify(
    folder: Annotated[Path, typer.Argument(help="A folder that `fetch` filled.")],
    json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Check the files of a folder against the hashes that `fetch` wrote; exit 1 for a wrong one."""
    found = _store().verified(folder)
    bad = [row for row in found if row.state != "whole"]
    if bad:
        named = "; ".join(f"{row.file} is {row.state}" for row in bad)
        raise WeightsError(
            f"{len(bad)} of {len(found)} files in {folder} are not as they were fetched: {named}.",
            fix="fetch or copy them again.",
        )
    rows = [[row.backbone, row.file, row.state] for row in found]
    return [msgspec.to_builtins(row) for row in found], [
        table("", ["backbone", "file", "state"], rows)
    ]
