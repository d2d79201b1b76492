"""`edgetl inspect` and `edgetl unpack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgetl.bundle import Bundle, open_bundle
from edgetl.bundle import unpack as unpack_bundle
from edgetl.cli.common import Answer, Debug, Json, emit, message, number, show, table, verb
from edgetl.cli.rows import manifest_document
from edgetl.runtime.selftest import Check, mending, self_test, verdict


@verb
def inspect(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Run the golden self-test in every engine here.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a bundle holds; its hash, structure and manifest are checked first."""
    with open_bundle(bundle) as opened:
        checks = self_test(opened) if verify else []
        verified = verdict(checks)
        if json:
            document = manifest_document(opened.manifest) | {"sha256": opened.sha256}
            if verify:
                document |= {"verified": verified, "checks": msgspec.to_builtins(checks)}
            emit(document)
        else:
            _print(opened, checks)
    if verify and not verified:
        if verified is None:
            message(
                "error: no candidate can run here. Fix: see `edgetl doctor`, or use its device."
            )
        else:
            failed = ", ".join(check.name for check in checks if check.passed is False)
            message(f"error: the self-test failed: {failed}. Fix: {mending(checks)}")
        raise typer.Exit(1)


def _print(bundle: Bundle, checks: list[Check]) -> None:
    manifest = bundle.manifest
    made = manifest.provenance
    backbone = made.config.backbone if made.config else made.weights.source
    show(f"{bundle.path}  sha256 {bundle.sha256}")
    show(
        f"{manifest.name}: {manifest.task.name} by {backbone} ({made.strategy}), "
        f"{len(manifest.task.labels)} classes, {manifest.input}, "
        f"for {', '.join(manifest.targets)}"
    )
    show(f"labels: {', '.join(manifest.task.labels)}")
    show(f"weights: {made.weights.source} (licence: {made.weights.licence})")
    show(f"made by edgetl {made.edgetl}, {made.created_utc}")
    if not any(getattr(c.settings, "calibrated", True) for c in manifest.candidates):
        show("probabilities: uncalibrated, as no labelled photos judged the candidates")
    first = manifest.task.metrics[0]
    sizes = {artifact.path: artifact.size for artifact in manifest.artifacts}
    rows = [
        [
            c.name,
            c.engine,
            c.precision,
            number(c.scores[first.name].value if first.name in c.scores else None),
            number(c.agreement),
            number(c.p50_ms, 3),
            number(sum(sizes[p] for p in c.artifacts) / 2**20, 1) if c.artifacts else "–",
            f"refused: {c.rejected}"
            if c.rejected
            else ("chosen" if c.name == manifest.chosen else "passed"),
        ]
        for c in manifest.candidates
    ]
    columns = [
        "candidate",
        "engine",
        "precision",
        f"{first.title}#",
        "agreement#",
        "p50 ms#",
        "MiB#",
        "",
    ]
    show(table("", columns, rows))
    for check in checks:
        word = {True: "passed", False: "FAILED", None: ""}[
            check.passed
        ]  # its detail says "skipped"
        difference = "" if check.difference is None else f" (difference {check.difference:g})"
        show(f"self-test {check.name}: {f'{word}{difference} {check.detail}'.strip()}")


@verb
def unpack(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    json: Json = False,
    debug: Debug = False,
) -> Answer:
    """Write a bundle's members as plain files, for C++, Triton or DeepStream."""
    written = [str(path) for path in unpack_bundle(bundle, folder)]
    return {"folder": str(folder), "files": written}, written
