"""Several classes true of one photo, from a table to a bundle's answers, as a user types it."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import edgetl
from tests.conftest import draw

LABELS = ("bars", "disc", "square")
Cli = Callable[..., subprocess.CompletedProcess[str]]
SPLITS = {"train": 60, "validation": 24, "test": 24}


class Job(NamedTuple):
    """Photos with one or two shapes each, their table, the run, and the bundle."""

    photos: Path
    table: Path
    run: Path
    bundle: Path
    rows: list[dict[str, str]]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    home = tmp_path_factory.mktemp("multilabel")
    photos, table, rng = home / "photos", home / "labels.csv", np.random.default_rng(0)
    photos.mkdir()
    rows = []
    for split, count in SPLITS.items():
        for number in range(count):
            shown = sorted(rng.choice(LABELS, size=rng.integers(1, 3), replace=False))
            name = f"{split}-{number}.png"
            parts = [draw(label, int(rng.integers(10**6))) for label in shown]
            joined = Image.new("RGB", (sum(p.width for p in parts), parts[0].height))
            for place, part in enumerate(parts):
                joined.paste(part, (sum(p.width for p in parts[:place]), 0))
            joined.save(photos / name)
            rows.append({"path": name, "labels": "|".join(shown), "split": split})
    rows.append({"path": "nothing.png", "labels": "", "split": "test"})
    draw("disc", 1).resize((48, 48)).point(lambda _: 90).save(photos / "nothing.png")
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["path", "labels", "split"])
        writer.writeheader()
        writer.writerows(rows)
    options: dict[str, Any] = {"task": "multilabel", "labels": str(table), "strategy": "scratch"}
    net: dict[str, Any] = {"backbone": "squeezenet1_1", "size": (32, 64), "fit": "squash"}
    edgetl.finetune(photos, out=home / "run", epochs=3, progress=False, **options, **net)
    bundle = home / "b.edgetl"
    edgetl.export(home / "run", target="cpu", out=bundle, max_drop=0.9, qat="never", search="never")
    return Job(photos, table, home / "run", bundle, rows)


def test_every_class_has_its_answer(job: Job, cli: Cli, tmp_path: Path) -> None:
    done = cli("predict", job.bundle, job.photos, "--top", "3", "--draw", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(job.rows) == len(list(tmp_path.glob("*.png")))
    with edgetl.load(job.bundle) as model:
        least = dict(zip(model.labels, model.candidate.settings.thresholds, strict=True))
    for row in found:
        assert {p["label"] for p in row["predictions"]} == set(LABELS)
        for p in row["predictions"]:
            assert p["present"] == (p["probability"] >= least[p["label"]])


def test_run_and_bundle_are_scored_on_the_test_rows(job: Job, cli: Cli) -> None:
    scores = []
    for model, *more in ((job.run,), (job.bundle, "--candidate", "ort-fp32")):
        done = cli("evaluate", model, job.photos, "--labels", job.table, *more, "--json")
        assert done.returncode == 0, done.stderr
        scores.append(json.loads(done.stdout))
    run, bundle = scores
    assert run["n"] == bundle["n"] == SPLITS["test"] + 1
    assert run["map"] == pytest.approx(bundle["map"], abs=1e-3)
    assert run["macro_f1"] == pytest.approx(bundle["macro_f1"], abs=0.01)  # by the same thresholds
    done = cli("evaluate", job.bundle, job.photos, "--labels", job.table)
    assert "AP" in done.stdout
    assert f"mAP {edgetl.evaluate(job.bundle, job.photos, labels=str(job.table)).primary:.4f}" in (
        done.stdout
    )


def test_candidates_are_gated_and_shown_by_map(job: Job, cli: Cli) -> None:
    found = json.loads(cli("inspect", job.bundle, "--verify", "--json").stdout)
    assert found["task"]["type"] == "multilabel"
    assert found["preprocess"] == found["preprocess"] | {"size": None, "height": 32, "width": 64}
    shipped = [c for c in found["candidates"] if c["rejected"] is None]
    assert {c["precision"] for c in shipped} > {"fp32"}
    for c in shipped:
        assert c["map"] == pytest.approx(c["reference_map"] - c["drop"])
        assert len(c["thresholds"]) == len(LABELS)
        assert c["calibrated"]
    assert all(check["passed"] is not False for check in found["checks"])


def test_candidates_are_compared(job: Job, cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    names = "ort-fp32,ort-int8"
    words = ("--images", job.photos, "--candidates", names, "--html", page, "--json")
    done = cli("compare", job.bundle, *words)
    assert done.returncode == 0, done.stderr
    (pair,) = json.loads(done.stdout)["pairs"]
    assert 0.5 <= pair["agreement"] <= 1
    text = page.read_text("utf-8")
    assert text.count("squash") >= 2
    assert "What is true of the images was not given, so mAP is not known" in text


def test_a_comparison_knows_what_a_table_states(job: Job, cli: Cli) -> None:
    """The same score as `evaluate`, of all images that the table lists."""
    words = ("--images", job.photos, "--candidates", "ort-fp32,ort-int8", "--labels", job.table)
    done = cli("compare", job.bundle, *words, "--json", "--top", "3")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["metric"], found["known"], found["n"]) == ("mAP", found["n"], found["n"])
    for side in found["sides"]:
        assert 0.2 < side["accuracy"] <= 1
    assert {*found["images"][0]} >= {"truth", "words", "answers"}
    assert all(image["truth"] is not None for image in found["images"])
    one = cli("compare", job.bundle, "--images", job.photos / "train-0.png", *words[2:])
    assert "--labels needs one folder" in one.stderr


def test_the_report_has_no_matrix(job: Job) -> None:
    page = (job.run / "report.html").read_text("utf-8")
    assert "Average precision" in page
    assert 'id="confusion"' not in page
    assert f"{SPLITS['train']} train" in page.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "needs --labels"),
        (("--labels", "gone.csv"), "Cannot read labels file"),
        (("--labels", "single.csv"), "labels"),
    ],
)
def test_tables_that_do_not_do(
    words: tuple[str, ...], said: str, job: Job, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "single.csv").write_text("path,label\ntrain-0.png,disc\n")
    given = [str(tmp_path / w) if w.endswith(".csv") else w for w in words]
    done = cli("finetune", job.photos, "--task", "multilabel", *given, "--out", tmp_path / "r")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()
