"""`edgetl compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgetl.cli.common import Debug, Json, emit, message, number, show, table, verb
from edgetl.cli.rows import comparison_document
from edgetl.errors import UsageError, missing_extra
from edgetl.files import check_replaceable, check_room
from edgetl.options import CompareOptions
from edgetl.progress import progress_bar
from edgetl.runtime.compare.compare import compare as run
from edgetl.runtime.compare.compare import find_images
from edgetl.runtime.compare.comparison import ComparedImage, Comparison, Pair, Side


@verb
def compare(
    bundles: Annotated[list[Path], typer.Argument(help="One bundle, or several.")],
    images: Annotated[
        list[Path],
        typer.Option(
            help="An image or a folder of them; may be repeated. Class folders are truth."
        ),
    ],
    options: CompareOptions,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with thumbnails of these images.")
    ] = None,
    fail_below: Annotated[
        float, typer.Option(min=0, max=1, help="Exit 1 when the agreement is below this.")
    ] = 0.0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run candidates side by side on images: agreement, differences, the worst images first."""
    if html is not None:
        _check_html(html)
    total = len(find_images(images))
    with progress_bar("comparing", total, unit="images", show=not json) as advance:
        found = run(bundles, images, options=options, advance=advance)
    if html is not None:
        from edgetl.report.compare import write_comparison

        write_comparison(html, found)
    if json:
        emit(comparison_document(found))
    else:
        _print(found)
        if html is not None:
            message(f"wrote {html}")
    low = [pair for pair in found.pairs if pair.agreement < fail_below]
    for pair in low:
        message(f"agreement of {pair.other} is {pair.agreement:.4f}, below {fail_below}.")
    if low:
        raise typer.Exit(1)


def _check_html(path: Path) -> None:
    """Refuse before anything runs what would fail at the end."""
    if path.is_dir():
        raise UsageError(f"--html {path} is a folder.", fix="name a file, such as compare.html.")
    check_replaceable(path, ".html", b"<!doctype html", "--html")
    check_room(path.parent, fix="let --html name a file where you may write.")
    try:
        import edgetl.report.compare  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("edgetl"):
            raise
        raise missing_extra("train", "The page of --html") from error


def _print(found: Comparison) -> None:
    known = f", the class of {found.known} is known" if found.known else ""
    title = f"{found.n} images{known}"
    sides, pairs = ([name.replace("METRIC", found.metric) for name in c] for c in (SIDES, PAIRS))
    show(table(title, sides, [_side(i, side) for i, side in enumerate(found.sides, 1)]))
    title = f"against {found.sides[0].name}; p: probability, KL in nats"
    show(table(title, pairs, [_pair(i, pair) for i, pair in enumerate(found.pairs, 2)]))
    for note in found.notes:
        show(note)
    for item in found.unread:
        message(f"skipped: {item.error}")
    if found.images:
        names = [str(i) for i in range(1, len(found.sides) + 1)]
        columns = ["image", "truth", *names, "max |Δp|#", "KL#"]
        show(table("worst first", columns, [_image(image) for image in found.images]))


SIDES = ["", "candidate", "engine", "on", "precision#", "METRIC#"]
PAIRS = [
    "", "agreement#", "|Δlogit| max#", "mean#", "|Δp| max#", "mean#", "KL max#", "mean#",
    "METRIC drop#",
]  # fmt: skip


def _side(index: int, side: Side) -> list[str]:
    return [
        str(index),
        side.name,
        f"{side.engine} {side.engine_version}",
        side.provider,
        side.precision,
        number(side.accuracy),
    ]


def _pair(index: int, pair: Pair) -> list[str]:
    figures = (pair.logit_max, pair.logit_mean, pair.probability_max, pair.probability_mean)
    cells = [number(value) for value in (pair.agreement, *figures, pair.kl_max, pair.kl_mean)]
    drop = number(pair.drop)
    if pair.drop_interval is not None:
        low, high = pair.drop_interval
        drop += f" ({low:.4f} … {high:.4f})"
    return [str(index), *cells, drop]


def _image(image: ComparedImage) -> list[str]:
    both = zip(image.words, image.answers, strict=True)
    answers = [f"{words} {answer.probability:.3f}" for words, answer in both]
    ends = [number(image.probability), number(image.kl)]
    return [image.image, image.truth or "–", *answers, *ends]
