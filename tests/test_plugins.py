"""A package from outside, installed as a wheel, through every verb; and plug-ins that are not here.

tests/plugin adds a task of two outputs, an input, an engine and a backend by entry points alone.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageDraw

PLUGIN = Path(__file__).parent / "plugin"
KINDS = ("round", "square")
PHOTOS = 200  # of each kind
SIZES = ((120, 72), (80, 112), (150, 100), (64, 96))
ENGINES = ("onnxruntime", "openvino", "refonnx")
pytestmark = pytest.mark.slow  # the whole job, several times


class Home(NamedTuple):
    """Where all is: the plug-in as installed, photos, a run and a bundle."""

    folder: Path
    site: Path

    def edgetl(self, *words: Any, path: str | None = None) -> subprocess.CompletedProcess[str]:
        """The command line with the plug-in, or with what `path` adds alone."""
        return self.python("-m", "edgetl", *words, path=path)

    def python(self, *words: Any, path: str | None = None) -> subprocess.CompletedProcess[str]:
        own = {"EDGETL_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *map(str, words)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
            env=os.environ | own | {"PYTHONPATH": str(self.site) if path is None else path},
        )

    def document(self, *words: Any, path: str | None = None) -> Any:
        """What --json prints; nothing may have failed."""
        done = self.edgetl(*words, "--json", path=path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refusal(self, *words: Any, path: str | None = None, code: int = 1) -> str:
        """The one line on stderr of what is refused."""
        done = self.edgetl(*words, path=path)
        assert done.returncode == code, done.stderr
        (line,) = done.stderr.splitlines()
        return line


def draw(seed: int, kind: str) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """A dark photo with one bright blob, and the blob's box."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    width, height = SIZES[rng.integers(len(SIZES))]
    noise = rng.integers(0, 60, (height // 6, width // 6, 3), np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)
    least = min(width, height)
    wide, high = (int(side) for side in rng.integers(least * 2 // 5, least * 4 // 5, 2))
    left, top = int(rng.integers(0, width - wide)), int(rng.integers(0, height - high))
    box = left, top, left + wide, top + high
    pen = ImageDraw.Draw(image)
    shape = pen.ellipse if kind == "round" else pen.rectangle
    colour = tuple(int(value) for value in rng.integers(170, 250, 3))
    shape((left, top, left + wide - 1, top + high - 1), fill=colour)
    return image, box


def overlap(box: Any, other: Any) -> float:
    """Intersection over union."""
    a, b = np.reshape(box, (2, 2)), np.reshape(other, (2, 2))
    both = np.maximum(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]), 0).prod()
    return float(both / ((a[1] - a[0]).prod() + (b[1] - b[0]).prod() - both))


def install(folder: Path) -> Path:
    """Build the plug-in's wheel by the newest setuptools here, and install it into a folder."""
    found = importlib.metadata.distributions(name="setuptools")
    newest = max(found, key=lambda one: int(one.version.partition(".")[0]))
    builder = os.environ | {"PYTHONPATH": str(newest.locate_file(""))}
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(PLUGIN)]
    subprocess.run([*pip, *build], check=True, env=builder)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True
    )
    return site


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The plug-in, installed; and its photos in `photos`, the truth in `boxes.json` beside them."""
    folder = tmp_path_factory.mktemp("plugins")
    photos = folder / "photos"
    photos.mkdir()
    rows = []
    for number in range(PHOTOS):
        for kind in KINDS:
            image, box = draw(number, kind)
            image.save(photos / f"{kind}{number:03d}.png")
            rows.append({"path": f"{kind}{number:03d}.png", "label": kind, "box": box})
    (photos / "boxes.json").write_text(json.dumps(rows), "utf-8")
    return Home(folder, install(folder))


@pytest.fixture(scope="module")
def run(home: Home) -> Any:
    """A run of the plug-in's task: what finetune prints."""
    given = ("--task", "blobs", "--weights", "none", "--epochs", 16)
    return home.document("finetune", "photos", "--out", "run", *given)


@pytest.fixture(scope="module")
def bundle(home: Home, run: Any) -> Path:
    """Its bundle, for every engine in FP32 and INT8."""
    recipes = [word for name in ("fp32", "int8") for word in ("--recipe", recipe(name))]
    plain = ("--qat", "never", "--search", "never", "--max-drop", 0.05)
    home.document("export", "run", "--target", "cpu", "--out", "b.edgetl", *recipes, *plain)
    return home.folder / "b.edgetl"


def recipe(name: str) -> Path:
    return PLUGIN / "recipes" / f"ref-{name}.toml"


def test_a_run_is_trained_and_scored_by_the_plugins_own_metric(home: Home, run: Any) -> None:
    assert run["metrics"]["test"]["iou"] > 0.6
    assert run["labels"] == list(KINDS)
    record = json.loads((home.folder / "run" / "run.json").read_text("utf-8"))
    assert record["input"] == {"type": "grey", "side": 64}
    assert "IoU" in (home.folder / "run" / "report.html").read_text("utf-8")
    assert not [text for text in run["warnings"] if "crop" in text]  # its input shows all


def test_every_engine_passes_the_gate_in_fp32_and_int8(home: Home, bundle: Path) -> None:
    shown = home.document("inspect", bundle, "--verify")
    assert [o["name"] for o in shown["outputs"]] == ["boxes", "kinds"]
    assert shown["task"]["type"] == "blobs"
    assert shown["verified"] is True
    passed = [c for c in shown["candidates"] if c["rejected"] is None]
    both = {(engine, precision) for engine in ENGINES for precision in ("fp32", "int8")}
    assert both <= {(c["engine"], c["precision"]) for c in passed}
    for candidate in passed:
        assert candidate["drop"] <= 0.05
        assert candidate["iou"] > 0.6
        assert candidate["p50_ms"] > 0
    (mine,) = [c for c in passed if c["name"] == "ref-fp32"]
    assert mine["session"] == {"batch": "split"}
    assert mine["checked_with"].startswith("refonnx ")


@pytest.mark.parametrize("engine", ENGINES)
def test_boxes_come_in_the_photos_own_pixels(home: Home, bundle: Path, engine: str) -> None:
    rows = json.loads((home.folder / "photos" / "boxes.json").read_text("utf-8"))[-48:]
    paths = [f"photos/{row['path']}" for row in rows]
    found = home.document("predict", bundle, *paths, "--engine", engine, "--precision", "int8")
    assert [result["image"] for result in found] == paths
    blobs = [result["predictions"][0] for result in found]
    assert blobs[0].keys() == {"label", "probability", "box"}
    pairs = zip(blobs, rows, strict=True)
    assert np.mean([overlap(blob["box"], row["box"]) for blob, row in pairs]) > 0.6
    right = [blob["label"] == row["label"] for blob, row in zip(blobs, rows, strict=True)]
    assert np.mean(right) > 0.7


def test_what_was_found_is_drawn_on_the_photo(home: Home, bundle: Path) -> None:
    (result,) = home.document("predict", bundle, "photos/square000.png")
    done = home.edgetl("predict", bundle, "photos/square000.png", "--draw", "drawn")
    assert done.returncode == 0, done.stderr
    drawn = np.asarray(Image.open(home.folder / "drawn" / "square000.png"))
    plain = np.asarray(Image.open(home.folder / "photos" / "square000.png"))
    assert drawn.shape == plain.shape
    rows, columns = np.nonzero((drawn == (255, 0, 0)).all(axis=2))
    left, top, right, bottom = result["predictions"][0]["box"]
    assert abs(columns.max() - min(right, drawn.shape[1] - 1)) < 2
    assert abs(rows.max() - min(bottom, drawn.shape[0] - 1)) < 2
    assert np.array_equal(drawn[0, 0], plain[0, 0]) or min(left, top) < 2


def test_the_other_verbs_know_the_plugin(home: Home, bundle: Path) -> None:
    scores = home.document("evaluate", bundle, "photos", "--engine", "refonnx")
    assert scores["iou"] > 0.6
    assert home.document("evaluate", "run", "photos")["n"] == 2 * PHOTOS
    timed = home.document("bench", bundle, "--engine", "refonnx", "--duration", 0.1)
    assert {row["recipe"] for row in timed["rows"]} == {"ref-fp32", "ref-int8"}
    images = [w for name in ("round000", "square001") for w in ("--images", f"photos/{name}.png")]
    named = ("--candidates", "ort-fp32,ref-int8", "--html", "c.html")
    compared = home.document("compare", bundle, *images, *named)
    first, second = (image["answers"] for image in compared["images"])
    assert overlap(first[0]["box"], first[1]["box"]) > 0.5
    boxes = [answer["box"] for answer in (*first, *second)]
    assert max(box[2] for box in boxes) > 2  # pixels of a photo, not of the input's share
    assert "64 px in grey" in (home.folder / "c.html").read_text("utf-8")
    parts = {part["name"]: part["version"] for part in home.document("doctor")["parts"]}
    assert parts["tasks"].endswith(", blobs")
    assert parts["inputs"] == "image, grey"
    assert parts["plug-ins"] == "edgetl-blobs 0.1.0"
    assert parts["refonnx"] == importlib.metadata.version("onnx")


def test_without_the_plugin_its_bundle_and_run_are_refused(home: Home, bundle: Path) -> None:
    for words in (("inspect", bundle), ("predict", bundle, "photos/round000.png")):
        line = home.refusal(*words, path="")
        assert "has the task 'blobs', which this edgetl does not know. Fix: " in line
        assert "install the package that adds it" in line
    line = home.refusal("export", "run", "--target", "cpu", "--out", "x.edgetl", path="")
    assert "run.json" in line
    assert "the package that adds its task 'blobs' is not here" in line
    line = home.refusal("finetune", "photos", "--out", "x", "--task", "blobs", path="", code=2)
    assert "'blobs' is not one of 'classification', 'multilabel'" in line
    words = ("export", "run", "--target", "cpu", "--out", "x.edgetl", "--recipe", recipe("fp32"))
    assert "there is no engine 'refonnx'" in home.refusal(*words, path="")


def test_data_of_another_task_are_refused_in_one_line(
    home: Home, run: Any, bundle: Path, shapes: Path, tmp_path: Path
) -> None:
    given = ("--weights", "none", "--out", "x")
    assert "boxes.json" in home.refusal("finetune", shapes, "--task", "blobs", *given)
    assert "boxes.json" in home.refusal("evaluate", bundle, shapes)
    line = home.refusal("finetune", "photos", "--task", "multilabel", *given)
    assert "needs --labels" in line
    assert "photos" in home.refusal("finetune", "photos", *given)
    table = tmp_path / "boxes.json"
    table.write_text('[{"path": "a.png", "label": "round", "box": [1, 2, 3]}]', "utf-8")
    assert "`$[0].box`" in home.refusal("finetune", tmp_path, "--task", "blobs", *given)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with a package whose module raises as it is imported."""
    (tmp_path / "unlucky.py").write_text("raise RuntimeError('no such luck')", "utf-8")
    metadata = tmp_path / "unlucky-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: unlucky\nVersion: 1.0\n")
    groups = ("engines", "backends", "tasks", "train_tasks", "inputs")
    points = "".join(f"[edgetl.{group}]\nluck = unlucky:thing\n" for group in groups)
    (metadata / "entry_points.txt").write_text(points, "utf-8")
    return tmp_path


def test_a_plugin_that_cannot_be_imported_is_named_and_the_rest_works(
    home: Home, bundle: Path, broken: Path
) -> None:
    path = os.pathsep.join([str(broken), str(home.site)])
    for words in (
        ("predict", bundle, "photos/round000.png"),
        ("finetune", "--help"),
        ("bench", bundle, "--engine", "refonnx", "--duration", "0.1"),
        ("doctor",),
    ):
        done = home.edgetl(*words, path=path)
        assert done.returncode == 0, done.stderr
        said = [line for line in done.stderr.splitlines() if "unlucky" in line]
        assert len(said) == len(set(said))
        assert all("'luck' of unlucky is left out: no such luck" in line for line in said)
        assert said or words[0] != "doctor"  # which asks for all of them
    line = home.edgetl("finetune", "photos", "--task", "luck", "--out", "x", path=path).stderr
    assert "task 'luck' of unlucky is left out: no such luck" in line
    assert "'luck' is not one of 'classification', 'multilabel', 'blobs'" in line


def test_a_candidate_of_an_engine_that_is_not_here_is_passed_over(
    write_tiny: Callable[..., Path], shapes: Path, home: Home, tmp_path: Path
) -> None:
    """A bundle of edgetl's own task, whose best candidate needs the plug-in's engine."""
    foreign = {"ort-fp32": {"engine": "refonnx", "session": {"batch": "split"}}}
    path = write_tiny(tmp_path / "b.edgetl", ("ort-fp32", "ov-fp32"), foreign)
    photo = next(shapes.rglob("*.png"))
    (result,) = home.document("predict", path, photo, path="")
    assert result["candidate"] == "ov-fp32"
    line = home.refusal("predict", path, photo, "--candidate", "ort-fp32", path="")
    assert "no engine 'refonnx'" in line
    shown = home.document("inspect", path, "--verify", path="")
    assert any("no engine 'refonnx'" in check["detail"] for check in shown["checks"])
    timed = home.document("bench", path, "--duration", 0.1, path="")
    assert [item["recipe"] for item in timed["skipped"]] == ["ort-fp32"]
    (result,) = home.document("predict", path, photo, "--engine", "refonnx")
    assert result["candidate"] == "ort-fp32"
