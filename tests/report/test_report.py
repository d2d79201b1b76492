"""The run report: whole, self-contained and honest for every kind of run."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from edgetl import spec
from edgetl.inputs.image import ImageInput
from edgetl.options import FinetuneConfig
from edgetl.report import Mistake, write_run_report
from edgetl.runs.record import EpochRow, RunRecord, Stage
from edgetl.spec import SkippedFile
from edgetl.tasks.base import ClassScore, Evaluation
from edgetl.tasks.classification import Classification
from tests.helpers import evaluate_classes

VOID = {"meta", "link", "img", "br", "input", "hr"}
NASTY = "<b>x&y \"'</b>"


class Page(HTMLParser):
    """Elements, ids and text of a page; fails on elements that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += " ".join(data.split()) + " "

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def scores(labels: tuple[str, ...], wrong: int = 2) -> Evaluation:
    """Ten photos a class, of which class 0 loses `wrong` to class 1."""
    size = len(labels)
    rows = [[10 if t == p else 0 for p in range(size)] for t in range(size)]
    rows[0][0], rows[0][1] = 10 - wrong, wrong
    f1 = [1 - wrong / 10 if i == 0 else 1 - wrong / 40 if i == 1 else 1.0 for i in range(size)]
    return Evaluation(
        metrics={"accuracy": 1 - wrong / (10 * size), "macro_f1": sum(f1) / size},
        n=10 * size,
        labels=labels,
        per_class=tuple(
            ClassScore(label=label, precision=f, recall=f, f1=f, n=10)
            for label, f in zip(labels, f1, strict=True)
        ),
        confusion=tuple(tuple(row) for row in rows),
    )


def run_record(labels: tuple[str, ...] = ("cat", "dog", "eel"), wrong: int = 2) -> RunRecord:
    """A finished run whose fine-tuned network ships."""
    split = dict.fromkeys(labels, 10)
    return RunRecord(
        edgetl_run=2, status="finished",
        config=FinetuneConfig(
            data="/photos/pets", backbone="mobilenet_v2", weights="imagenet", strategy="auto",
            epochs=3, size=224, fit="crop", flip=True, seed=7, device="cpu",
        ),
        task=Classification(labels=labels), input=ImageInput(), normalize=spec.Normalize(),
        data=spec.DataSummary(
            root="/photos/pets", labels=labels, sha256="5" * 64, split_by="seeded",
            counts={"train": split, "validation": split, "test": split},
            photos=dict.fromkeys(("train", "validation", "test"), 10 * len(labels)),
            warnings=("few photos of eel",), duplicates=4,
        ),
        weights_origin=spec.WeightsOrigin(source="tv V2", sha256="a" * 64, licence="research"),
        created_utc="2025-01-02T03:04:05Z", versions={"torch": "2.9.0"}, threads=2,
        strategy="finetune", seconds=71.0, timings_s={"probe": 3.0},
        stages=(
            Stage(name="probe", metrics={"accuracy": 0.8, "macro_f1": 0.79}, loss=0.5, seconds=3.0),
            Stage(name="finetune", metrics={"accuracy": 0.9, "macro_f1": 0.89}, loss=0.3,
                  seconds=60.0,
                  details={"epoch kept": 3}),
        ),
        validation=scores(labels, wrong), test=scores(labels, wrong),
    )  # fmt: skip


def rows(stage: str = "finetune", epochs: int = 3, loss: float = 1.0) -> list[EpochRow]:
    return [
        EpochRow(
            stage=stage, epoch=epoch, loss=loss / epoch, learning_rate=0.001,
            metrics={"accuracy": 0.7 + epoch / 20, "macro_f1": 0.7},
            validation_loss=0.9 / epoch, images_per_s=50.0, seconds=20.0,
        )
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip


def mistake(**changes: str | float | bytes) -> Mistake:
    stream = io.BytesIO()
    Image.new("RGB", (24, 16), (200, 90, 20)).save(stream, "JPEG")
    fields = {
        "path": "test/cat/1.jpg", "truth": "cat", "predicted": "dog", "probability": 0.93,
        "split": "test", "jpeg": stream.getvalue(),
    }  # fmt: skip
    return msgspec.convert({**fields, **changes}, Mistake)


def written(
    folder: Path, record: RunRecord, history: list[EpochRow], mistakes: list[Mistake]
) -> tuple[str, Page]:
    path = folder / "report.html"
    write_run_report(path, record, history, mistakes)
    assert [entry.name for entry in folder.iterdir()] == ["report.html"]
    html = path.read_text("utf-8")
    return html, Page(html)


def test_needs_nothing_but_itself(tmp_path: Path) -> None:
    html, page = written(tmp_path, run_record(), rows(), [mistake()])
    assert not re.search(r"https?:|@import|//[a-z]", html)
    assert page.tags["script"] == page.tags["iframe"] == page.tags["object"] == 0
    names = ("src", "href", "xlink:href", "srcset", "data", "action")
    links = [value for name in names for value in page.values(name)]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_ids_are_unique_and_links_lead_to_them(tmp_path: Path) -> None:
    _, page = written(tmp_path, run_record(), rows(), [mistake()])
    ids = Counter(page.values("id"))
    assert ids.most_common(1)[0][1] == 1
    wanted = {value[1:] for value in page.values("href") if value.startswith("#")}
    wanted |= set(page.values("aria-labelledby"))
    assert wanted <= set(ids)


def test_whole_run(tmp_path: Path) -> None:
    record = run_record()
    html, page = written(tmp_path, record, rows("probe", 1) + rows(), [mistake()])
    for text in (
        "pets", "fine-tuned mobilenet_v2", "test accuracy", "1 min 11 s", "beats the probe",
        "never worse than the probe", "probe, 80.0 %", "few photos of eel", "5" * 64, "a" * 64,
        "research", "2.9.0", "epoch kept", "test, n = 30", "lowest F1", ", 93.0 %",
    ):  # fmt: skip
        assert text in page.text.replace("\N{NO-BREAK SPACE}", " "), text
    assert page.tags["svg"] == 2
    assert html.count('<tr class="lowest">') == 1
    image = next(value for value in page.values("src") if value.startswith("data:image/jpeg"))
    with Image.open(io.BytesIO(base64.b64decode(image.split(",")[1]))) as picture:
        assert picture.size == (24, 16)
    assert not re.search("#0[1-5]0[1-5]0[1-5]", html), "a proxy colour was left in the curves"


def test_labels_and_paths_are_escaped(tmp_path: Path) -> None:
    record = run_record((NASTY, "dog", "$5$ 良品"))
    data = replace(
        record.data,
        root=f"/photos/{NASTY.replace('/', '')}",
        skipped_files=(SkippedFile(path=f"train/{NASTY}.jpg", reason=NASTY),),
        warnings=(NASTY,),
    )
    record = replace(record, data=data)
    wrong = mistake(path=f"test/{NASTY}.jpg", truth=NASTY)
    html, page = written(tmp_path, record, rows(), [wrong])
    assert "<b>x" not in html
    assert page.text.count("<b>x&y") > 10
    assert "$5$ 良品" in page.text


def test_probe_that_was_not_beaten_ships(tmp_path: Path) -> None:
    record = run_record()
    probe, tuned = record.stages
    tuned = replace(tuned, metrics={"accuracy": 0.75, "macro_f1": 0.7})
    record = replace(record, strategy="probe", stages=(probe, tuned))
    html, page = written(tmp_path, record, rows(), [])
    assert "did not beat it" in page.text
    assert "probe on mobilenet_v2" in page.text
    assert html.count('<span class="badge good">ships</span>') == 1


def test_one_epoch_is_a_table(tmp_path: Path) -> None:
    _, page = written(tmp_path, run_record(), rows("finetune", 1), [])
    assert (page.tags["svg"], "a curve needs at least two" in page.text) == (0, True)


@pytest.mark.parametrize("history", [[], rows("probe", 1)])
def test_probe_only_has_no_curves_and_says_why(tmp_path: Path, history: list[EpochRow]) -> None:
    record = run_record()
    record = replace(record, strategy="probe", stages=record.stages[:1])
    _, page = written(tmp_path, record, history, [])
    assert page.tags["svg"] == 0
    assert "no epochs to draw" in page.text
    assert "no other stage was trained" in page.text


def test_from_scratch_has_no_probe_line(tmp_path: Path) -> None:
    record = run_record()
    stage = replace(record.stages[1], name="scratch")
    record = replace(record, strategy="scratch", stages=(stage,))
    _, page = written(tmp_path, record, rows("scratch", 60), [])
    assert page.tags["svg"] == 2
    assert "stroke-dasharray" not in "".join(page.values("style"))
    assert "no probe to compare it with" in page.text


def test_without_test_split_validation_is_named(tmp_path: Path) -> None:
    record = replace(run_record(), test=None)
    _, page = written(tmp_path, record, rows(), [mistake(split="validation")])
    assert "There is no test split." in page.text
    assert "validation accuracy" in page.text
    assert "test accuracy" not in page.text
    assert "validation, n = 30" in page.text


def test_unfinished_run_without_scores(tmp_path: Path) -> None:
    record = replace(
        run_record(), status="running", strategy="", stages=(), validation=None, test=None
    )
    _, page = written(tmp_path, record, [], [])
    for text in ("not finished", "Nothing ships yet", "Nothing was eval"):
        assert text in page.text


def test_no_mistakes(tmp_path: Path) -> None:
    _, page = written(tmp_path, run_record(wrong=0), rows(), [])
    assert "None: every one of the 30" in page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert page.tags["img"] == 0
    assert "badge warn" not in page.values("class"), "equal classes have no lowest"


def test_mistakes_come_worst_first(tmp_path: Path) -> None:
    wrong = [mistake(probability=p, split=s) for p, s in ((0.5, "test"), (0.99, "validation"))]
    _, page = written(tmp_path, run_record(), rows(), wrong)
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert text.index(", 99.0 %") < text.index(", 50.0 %")
    assert "(validation)" in text


def test_classes_without_photos_come_last(tmp_path: Path) -> None:
    record = run_record()
    absent = ClassScore(label="newt", precision=0.0, recall=0.0, f1=0.0, n=0)
    test = scores(record.task.labels)
    test = replace(test, per_class=(absent, *test.per_class))
    html, _ = written(tmp_path, replace(record, test=test), rows(), [])
    body = html[html.index('id="classes"') : html.index('id="mistakes"')]
    assert body.index("cat") < body.index("dog") < body.index("eel") < body.index("newt")


def test_long_list_of_skipped_files_is_cut(tmp_path: Path) -> None:
    record = run_record()
    files = tuple(SkippedFile(path=f"{i}.jpg", reason="truncated") for i in range(73))
    data = replace(record.data, skipped_files=files)
    _, page = written(tmp_path, replace(record, data=data), rows(), [])
    assert page.text.count("truncated") == 50
    assert "and 23 more." in page.text


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_diverged_training(tmp_path: Path, loss: float) -> None:
    _, page = written(tmp_path, run_record(), rows(loss=loss), [])
    assert page.tags["svg"] == 2
    assert not re.search("nan|inf", page.text)


def test_same_run_same_bytes_and_global_settings_kept(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    reports = []
    for name in ("a.html", "b.html"):
        write_run_report(tmp_path / name, run_record(), rows(), [mistake()])
        reports.append((tmp_path / name).read_bytes())
    assert reports[0] == reports[1]
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(("classes", "numbers"), [(2, True), (60, False), (100, False)])
def test_number_of_classes(tmp_path: Path, classes: int, numbers: bool) -> None:
    labels = tuple(f"class {i:03d}" for i in range(classes))
    html, page = written(tmp_path, run_record(labels), rows(), [])
    start = html.index('<table class="matrix')
    table = html[start : html.index("</table>", start) + len("</table>")]
    assert Page(table).tags["td"] == classes**2
    assert (">8</td>" in table) is numbers
    assert "class 000 → class 001 2 (20" in re.sub(r"\s+", " ", page.text)
    assert len(html) < 600_000


# --- what a reader should notice --------------------------------------------------------------


def test_findings_of_the_run_and_notes_on_its_weights_are_shown(tmp_path: Path) -> None:
    record = run_record()
    origin = replace(record.weights_origin, notes=("w.pth: 3 tensors <b>halved</b>",))
    warnings = ("the centre crop sees 19 % & less",)
    _, page = written(
        tmp_path, replace(record, warnings=warnings, weights_origin=origin), rows(), []
    )
    assert "the centre crop sees 19 % & less" in page.text
    assert "w.pth: 3 tensors <b>halved</b>" in page.text


def test_the_balance_of_classes_is_stated(tmp_path: Path) -> None:
    def page(**counts: int) -> str:
        record = run_record()
        test = {"cat": 1, "dog": 1, "eel": 1}
        photos = {"train": sum(counts.values()), "test": 3}
        data = replace(record.data, counts={"train": counts, "test": test}, photos=photos)
        return " ".join(written(tmp_path, replace(record, data=data), rows(), [])[1].text.split())

    uneven = page(cat=90, dog=45, eel=5)
    assert "from 5 photos of “eel” to 90 of “cat”, 1 to 18." in uneven
    assert "Accuracy is mostly about the large classes" in uneven
    assert "64.3 %" in uneven
    assert "3.6 %" in uneven
    assert "Accuracy is mostly" not in page(cat=12, dog=10, eel=11)
    assert "10 photos of every class" in page(cat=10, dog=10, eel=10)


def test_a_class_that_is_never_predicted_is_marked(tmp_path: Path) -> None:
    found = evaluate_classes(
        np.array([0, 0, 0, 1, 1, 0]), np.array([0, 0, 1, 1, 2, 2]), ("cat", "dog", "eel")
    )
    record = replace(run_record(), validation=found, test=found)
    _, page = written(tmp_path, record, rows(), [])
    assert page.text.count("never predicted") == 1
    assert page.text.count("lowest F1") == 1  # the heading's
    assert re.search(r"eel\s+never predicted", page.text)


@pytest.mark.parametrize(
    ("asked", "planned", "said"),
    [(3, 3, "epochs 3"), (0, 8, "epochs automatic, 8"), (0, None, "epochs automatic")],
)
def test_epochs_that_were_left_open_are_automatic(
    tmp_path: Path, asked: int, planned: int | None, said: str
) -> None:
    record = run_record()
    details = {} if planned is None else {"epochs": planned}
    stage = replace(record.stages[1], details=details)
    config = replace(record.config, epochs=asked)
    _, page = written(tmp_path, replace(record, config=config, stages=(stage,)), rows(), [])
    options = " ".join(page.text[page.text.index("Options") :].split())
    assert f" {said} size 224" in options
