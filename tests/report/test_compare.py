"""The page of a comparison: whole, self-contained, and true for every kind of outcome."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from edgetl.inputs.image import sized
from edgetl.report.compare import render, write_comparison
from edgetl.runtime.compare.comparison import Change, ComparedImage, Comparison, Pair, Side, Unread
from edgetl.tasks.base import Prediction

VOID = {"meta", "link", "img", "br", "input", "hr"}
NASTY = "<b>x&y \"'</b>"


class Page(HTMLParser):
    """Text and attributes of a page; fails on elements that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.text, self.open = "", list[str]()
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def side(name: str, **changes: Any) -> Side:
    stated: dict[str, Any] = {
        "name": name,
        "bundle": "a.edgetl",
        "bundle_sha256": "0" * 64,
        "candidate": name,
        "engine": "onnxruntime",
        "engine_version": "1.2.3",
        "provider": "CPUExecutionProvider",
        "precision": "fp32",
        "temperature": 1.5,
        "preprocess": sized(32, "squash"),
        "accuracy": 0.5,
    }
    return Side(**stated | changes)


def outcome(photos: list[Path], **changes: Any) -> Comparison:
    """Two candidates that call every photo by another class."""
    images = [
        ComparedImage(
            image=str(photo),
            truth="disc",
            answers=(
                Prediction(label="disc", probability=0.75),
                Prediction(label=NASTY, probability=0.625),
            ),
            words=("disc", NASTY),
            agree=False,
            kl=0.1234,
            probability=0.3,
        )
        for photo in photos
    ]
    pair = Pair(
        other="ov-int8",
        agreement=0.875,
        logit_max=2.0,
        logit_mean=0.25,
        probability_max=0.3,
        probability_mean=0.03,
        kl_max=0.5,
        kl_mean=0.05,
        drop=0.125,
        drop_interval=(-0.1, 0.3),
        changes=(Change(first="disc", other=NASTY, n=7),),
    )
    stated: dict[str, Any] = {
        "labels": ("disc", NASTY),
        "metric": "accuracy",
        "n": 40,
        "known": 40,
        "sides": (side("ort-fp32"), side("ov-int8", accuracy=0.375)),
        "pairs": (pair,),
        "images": tuple(images),
    }
    return Comparison(**stated | changes)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two photos in two folders, red on the left and blue on the right."""
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:, :45], pixels[:, 45:] = (255, 0, 0), (0, 0, 255)
    paths = [tmp_path / "disc" / "a.png", tmp_path / "odd & <i>" / "b.png"]
    for path in paths:
        path.parent.mkdir()
        Image.fromarray(pixels).save(path)
    return paths


def test_the_page_is_whole_and_needs_nothing_else(photos: list[Path], tmp_path: Path) -> None:
    write_comparison(tmp_path / "page.html", outcome(photos))
    page = Page((tmp_path / "page.html").read_text("utf-8"))
    for tag, name, value in page.attributes:
        if name in {"src", "href"}:
            assert value.startswith(("data:", "#")), (tag, value)
    assert not [tag for tag, _, _ in page.attributes if tag == "script"]
    for text in ("87.5", "50.0 · 37.5", "12.50 (-10.00 … 30.00)", "ov-int8", "truth: disc"):
        assert text in page.text
    assert f"disc → {NASTY} 7" in re.sub(" +", " ", page.text)
    targets = {value for _, name, value in page.attributes if name == "id"}
    links = {value[1:] for tag, name, value in page.attributes if (tag, name) == ("a", "href")}
    assert links <= targets


def test_thumbnails_are_what_each_candidate_saw(photos: list[Path]) -> None:
    padded = side("b: ort-fp32", preprocess=sized(48, "pad"))
    page = Page(render(outcome(photos, sides=(side("a: ort-fp32"), padded))))
    sources = [v for t, n, v in page.attributes if (t, n) == ("img", "src")]
    assert len(sources) == 2 * len(photos)
    squashed, with_bars = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))
        for uri in sources[:2]
    )
    assert (squashed.shape, with_bars.shape) == ((32, 32, 3), (48, 48, 3))
    assert squashed[0, 0, 0] > 200  # red up to the edge
    assert with_bars[0, 0, 0] < 160  # grey above it
    assert "by each preprocessing in turn" in page.text
    alone = Page(render(outcome(photos)))
    assert len([t for t, _, _ in alone.attributes if t == "img"]) > 0
    assert "by each preprocessing" not in alone.text


def test_paths_are_shown_from_where_they_part(photos: list[Path]) -> None:
    page = Page(render(outcome(photos)))
    assert " disc/a.png " in page.text
    assert " odd & <i>/b.png " in page.text
    assert str(photos[0]) in [value for _, name, value in page.attributes if name == "title"]


def test_a_photo_that_is_gone_has_no_thumbnail(photos: list[Path]) -> None:
    photos[0].unlink()
    page = Page(render(outcome(photos)))
    assert page.text.count("no thumbnail") == 1


def test_nothing_known_nothing_asked(photos: list[Path]) -> None:
    """No truth, no images, no finite logits: dashes, no invented figures."""
    (pair,) = outcome(photos).pairs
    fields = ("logit_max", "logit_mean", "probability_max", "probability_mean", "kl_max", "kl_mean")
    empty = replace(pair, drop=None, drop_interval=None, changes=(), **dict.fromkeys(fields))
    blank = outcome(
        [],
        known=0,
        pairs=(empty,),
        sides=(side("a", accuracy=None), side("b", accuracy=None)),
        unread=(Unread(image="x.jpg", error="Cannot read image x.jpg: it is empty."),),
        notes=("b gave NaN or infinity on 40 of 40 images.",),
    )
    page = Page(render(blank))
    assert "so accuracy is not known" in page.text
    assert "None was asked for." in page.text
    assert "x.jpg – Cannot read image x.jpg: it is empty." in page.text
    assert "NaN or infinity on 40" in page.text
    assert "Answers that moved" not in page.text


def test_more_than_two_candidates(photos: list[Path]) -> None:
    (pair,) = outcome(photos).pairs
    page = Page(
        render(
            outcome(
                photos,
                sides=(side("a"), side("b", accuracy=0.7), side("c", accuracy=0.6)),
                pairs=(replace(pair, other="b"), replace(pair, other="c", agreement=0.25)),
            )
        )
    )
    assert "same answer, lowest: c 25.0" in page.text
    assert "50.0–70.0" in page.text
    assert "moved from 1 to 3" in page.text
