"""`edgetl demo`: the main job end to end on drawn photos, without a network."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

import edgetl
from edgetl.cli.common import Debug, show, table, verb
from edgetl.data.samples import find_sample, sample_folder
from edgetl.errors import UsageError, shell
from edgetl.files import read_jsonl, user_path
from edgetl.recipes import find_recipe
from edgetl.runs.folder import PHOTOS, read_run
from edgetl.spec import Photo

SAMPLE = "sample:parts"
EPOCHS = "2"
HELD_OUT = 3  # photos of a class that are shown


@verb
def demo(
    out: Annotated[Path, typer.Option(help="A new folder for all that is made.")] = Path(
        "demo-run"
    ),
    debug: Debug = False,
) -> None:
    """Fine-tune on drawn photos, export for this CPU, bench, predict: all in some minutes."""
    start, home = time.perf_counter(), user_path(out)
    run, bundle = home / "run", home / "parts.edgetl"
    if home.exists():
        raise UsageError(f"{home} is there already.", fix="remove it, or name another by --out.")
    photos = sample_folder(SAMPLE)
    sample = find_sample(SAMPLE)
    show(f"{sample.photos} photos of {sample.title}: {photos}")
    _edgetl("finetune", SAMPLE, "--out", run, "--epochs", EPOCHS)
    record = read_run(run)
    show(record.config.backbone)
    show(f"test accuracy {record.test.metrics['accuracy']:.4f}" if record.test else "no test")
    from edgetl.exporter.backends import BASELINE

    # to be quick, no search, and only the engine of what is in every bundle
    quick = ("--engine", find_recipe(BASELINE).engine, "--search", "never")
    _edgetl("export", run, "--target", "cpu", "--out", bundle, *quick)
    _edgetl("bench", bundle, "--duration", "2")
    _show_answers(run, bundle, photos)
    show(f"report: {run / 'report.html'}")
    show(f"bundle: {bundle}")
    show(
        f"done in {time.perf_counter() - start:.0f} s. With photos of your own, in photos/<class>/:"
    )
    mine, made = Path("photos"), Path("mine.edgetl")
    for words in (
        ("finetune", mine, "--out", Path("runs/mine")),
        ("export", Path("runs/mine"), "--target", "cpu", "--out", made),
        ("bench", made),
        ("predict", made, Path("one.jpg")),
    ):
        show(f"    {shell('edgetl', *words)}")


def _edgetl(*words: str | Path) -> None:
    """Show a command and run it; its failure ends the demo."""
    show("")
    show(f"$ {shell('edgetl', *words)}")
    done = subprocess.run([sys.executable, "-m", "edgetl", *map(str, words)], check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)


def _show_answers(run: Path, bundle: Path, photos: Path) -> None:
    """Held-out photos with what the bundle says of them, right and wrong."""
    held_out = [p for p in read_jsonl(run / PHOTOS, Photo) if p.split == "test"]
    some = [
        photo
        for label in sorted({p.label for p in held_out})
        for photo in [p for p in held_out if p.label == label][:HELD_OUT]
    ]
    rows = []
    with edgetl.load(bundle) as model:
        for photo in some:
            best = model.predict(photos / photo.path)[0].predictions[0]
            word = "right" if best.label == photo.label else "WRONG"
            rows.append([photo.path, photo.label, best.label, f"{best.probability:.4f}", word])
    wrong = sum(row[-1] == "WRONG" for row in rows)
    columns = ["photo, held out of training", "is", "predicted", "probability#", ""]
    show(table(f"{len(rows) - wrong} right, {wrong} wrong", columns, rows))
