"""`edgetl samples`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgetl.cli.common import Answer, Debug, Json, table, verb
from edgetl.data.samples import PREFIX, SAMPLES, find_sample, write_sample
from edgetl.errors import UsageError
from edgetl.files import user_path


@verb
def samples(
    name: Annotated[str | None, typer.Argument(help="One of them, to be written.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for its photos.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> Answer:
    """List the photos that edgetl makes itself, or write one set of them to a folder.

    `sample:NAME` may stand wherever a folder of photos may, as in `edgetl finetune sample:parts`.
    """
    if (name is None) != (out is None):
        raise UsageError("NAME and --out go together.", fix="edgetl samples parts --out photos")
    if name is not None and out is not None:
        sample, folder = find_sample(name), user_path(out)
        write_sample(sample, folder)
        document = {"name": name, "folder": str(folder), "photos": sample.photos}
        return document, [f"{sample.photos} photos written to {folder}"]
    listed = [
        {"name": PREFIX + key, "title": s.title, "photos": s.photos, "classes": s.classes}
        for key, s in SAMPLES.items()
    ]
    rows = [[str(value) for value in row.values()] for row in listed]
    return listed, [table("", ["sample", "photos of", "photos#", "classes#"], rows)]
