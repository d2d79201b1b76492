"""`edgetl export` as it is typed: somebody's ONNX file, its options, and what goes wrong."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

from edgetl.bundle import open_bundle
from edgetl.cli.app import app
from edgetl.cli.export import _colours, _seconds
from edgetl.errors import UsageError
from edgetl.exporter import export as exporting
from edgetl.exporter import search as searching
from edgetl.exporter.onnx_source import LICENCE
from edgetl.files import sha256_bytes
from edgetl.machine import this_machine
from edgetl.runtime.selftest import self_test
from tests.exporter import small

Cli = Callable[..., subprocess.CompletedProcess[str]]
Change = Callable[[onnx.ModelProto], None]

COLOURS = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--fit", "squash")
ORT = ("--target", "cpu", "--engine", "onnxruntime")


class Typed:
    """What a command line came to."""

    def __init__(self, *arguments: Any) -> None:
        done = CliRunner().invoke(app, ["export", *map(os.fspath, arguments)])
        self.code, self.out, self.err = done.exit_code, done.stdout, done.stderr

    def error(self) -> str:
        """The one line of an error; it exits with 1 and shows no traceback."""
        assert self.code == 1, (self.code, self.out, self.err)
        assert "Traceback" not in self.err
        lines = [x for x in self.err.splitlines() if x.startswith("edgetl: error: ")]
        assert lines == self.err.splitlines()[-1:]
        assert " Fix: " in lines[0]
        return lines[0].removeprefix("edgetl: error: ")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of pictures; do not write into them."""
    return small.folder(tmp_path_factory.mktemp("export") / "photos", 24)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "given.onnx"
    path.write_bytes(small.given())
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty folder for what an export writes."""
    made = tmp_path / "out"
    made.mkdir()
    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Measure for an instant, and know of no earlier trials."""
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(exporting, "MEASURE_SECONDS", 0.05)
    monkeypatch.setattr(searching, "TURNS", 2)
    monkeypatch.setattr(searching, "RUNS", 2)


def changed(model: Path, change: Change) -> Path:
    proto = onnx.load(model)
    change(proto)
    onnx.save(proto, model)
    return model


# --- end to end -------------------------------------------------------------------------------


def test_an_onnx_file_end_to_end(
    cli: Cli, model: Path, photos: Path, home: Path, tmp_path: Path
) -> None:
    """Exported, inspected and used: the bundle says what the given file says."""
    labels, out = tmp_path / "labels.txt", home / "mine.edgetl"
    labels.write_text("\n".join(small.LABELS) + "\n")
    given = ("export", model, "--calib", photos, "--labels", labels, *COLOURS, *ORT)
    done = cli(*given, "--search", "never", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["bundle"], found["provisional"], found["notes"]) == (str(out), False, [])
    rows = {row["recipe"]: row for row in found["candidates"]}
    assert rows["ort-fp32"]["rejected"] is None
    assert rows["ort-fp32"]["agreement"] == 1.0
    assert rows["ort-fp32"]["accuracy"] > 0.7  # it knows its classes
    assert rows["ort-fp32"]["measured_on"] == this_machine().fingerprint
    assert [p.name for p in home.iterdir()] == ["mine.edgetl"]

    with open_bundle(out) as opened:
        manifest = opened.manifest
        assert manifest.labels == small.LABELS
        assert manifest.preprocess.fit == "squash"
        origin = manifest.provenance
        assert (origin.strategy, origin.config, origin.test) == ("given", None, None)
        assert origin.weights.source == "given.onnx"
        assert origin.weights.sha256 == sha256_bytes(small.given())
        assert origin.weights.licence == LICENCE
        assert "onnxruntime" in origin.versions
        assert manifest.calibration is not None
        assert manifest.calibration.n > 20
        assert all(check.passed is not False for check in self_test(opened))

    picture = small.picture(1, 77777)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    wanted = small.LABELS[int(small.run(small.master(), picture[None]).argmax())]
    said = cli("predict", out, tmp_path / "picture.png", "--json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)[0]["predictions"][0]["label"] == wanted

    shown = cli("inspect", out)
    assert shown.returncode == 0, shown.stderr
    for text in ("given.onnx", *small.LABELS, "ort-fp32"):
        assert text in shown.stdout


def test_loose_photos_are_judged_by_agreement(
    model: Path, photos: Path, home: Path, tmp_path: Path, quick: None
) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    for path in photos.rglob("*.png"):
        (loose / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    done = Typed(
        model, "--calib", loose, *COLOURS, *ORT, "--out", home / "x.edgetl", "--precision", "fp32"
    )
    assert done.code == 0, done.err
    assert "is chosen (measured)" in done.err
    with open_bundle(home / "x.edgetl") as opened:
        assert opened.manifest.labels == ("class 0", "class 1", "class 2")
        candidate = opened.manifest.candidates[0]
        assert (candidate.split, candidate.accuracy) == ("agreement", 1.0)


def test_everything_at_once(model: Path, photos: Path, home: Path, quick: None) -> None:
    """Trained and mixed candidates are measured here beside the whole recipes."""
    extra = ("--qat", "--search", "always", "--budget", "3s", "--max-drop", "0.5")
    done = Typed(
        model, "--calib", photos, *COLOURS, *ORT, *extra, "--out", home / "x.edgetl", "--json"
    )
    assert done.code == 0, done.err
    found = json.loads(done.out)
    rows = {row["recipe"]: row for row in found["candidates"]}
    assert {"ort-fp32", "ort-int8", "ort-int8-qat"} <= set(rows)
    mixed = [name for name in rows if "mixed" in name]
    assert mixed
    assert found["provisional"] is False
    for row in rows.values():
        assert row["provisional"] is False
        assert (row["p50_ms"] is None) == (row["rejected"] is not None)
    assert [note.split(":")[0] for note in found["notes"]] == ["QAT", "search"]
    for name in mixed:
        assert rows[name]["quantization"]["kept_float"]
    with open_bundle(home / "x.edgetl") as opened:
        passed = {name for name, row in rows.items() if row["rejected"] is None}
        assert {c.recipe for c in opened.manifest.candidates if c.artifacts} == passed
        assert all(check.passed is not False for check in self_test(opened))


# --- spellings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("10m", 600),
        ("1h", 3600),
        ("1.5m", 90),
        (" 2m ", 120),
        ("0.5", 0.5),
    ],
)
def test_budget(text: str, seconds: float) -> None:
    assert _seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "10 m", "1h30m", "-5m", "10M", "1e3", "inf", "ten", "5d"]
)
def test_budget_that_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time") as got:
        _seconds(text)
    assert "90s, 10m or 1h" in got.value.fix


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (None, None),
        ("0.5", (0.5, 0.5, 0.5)),
        ("0.1,0.2,0.3", (0.1, 0.2, 0.3)),
        ("123.7, 116.3, 103.5", (123.7, 116.3, 103.5)),
        ("0", (0.0, 0.0, 0.0)),
        ("1e-1,.2,3.", (0.1, 0.2, 3.0)),
    ],
)
def test_colours(text: str | None, values: Any) -> None:
    assert _colours("--mean", text) == values


@pytest.mark.parametrize("text", ["", ",", "0.1,0.2", "1,2,3,4", "0.1;0.2;0.3", "a", "0,1 0,2 0,3"])
def test_colours_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--std .*is not one number or three"):
        _colours("--std", text)


# --- options that cannot be -------------------------------------------------------------------

RUN_OPTIONS = [
    (("--calib", "photos"), "--calib cannot be given with a run"),
    (("--labels", "x.txt", "--size", "64"), "--labels, --size cannot be given with a run"),
    (("--range", "255"), "--range cannot be given with a run"),
    (("--mean", "0.5", "--std", "0.5"), "--mean, --std cannot be given with a run"),
    (("--layout", "auto"), "--layout cannot be given with a run"),
    (("--fit", "pad"), "--fit cannot be given with a run"),
]


@pytest.mark.parametrize(("options", "message"), RUN_OPTIONS)
def test_options_of_the_other_source(options: tuple[str, ...], message: str, home: Path) -> None:
    done = Typed(home, *options, *ORT, "--out", home / "x.edgetl")
    assert message in done.error()
    assert not list(home.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "somewhere"), "--data is where a run's photos are now"),
        (("--mean", "0.5"), "--mean stands alone"),
        (("--std", "0.5"), "--std stands alone"),
        (("--mean", "0.5,0.5", "--std", "0.5"), "--mean 0.5,0.5 is not one number or three"),
        (("--mean", "nan", "--std", "1"), "cannot normalise"),
        (("--mean", "0.5", "--std", "0"), "cannot normalise"),
        (("--mean", "127", "--std", "60"), "is not in units of 0…1"),
        (("--size", "48"), "--size 48 contradicts given.onnx"),
        (("--layout", "nhwc"), "--layout nhwc contradicts"),
        (("--labels", "none.txt"), "Cannot read labels file"),
        (("--max-drop", "2"), "--max-drop 2.0 is not possible"),
        (("--max-drop", "nan"), "--max-drop nan is not possible"),
        (("--budget", "0s"), "--budget 0 s leaves no time"),
        (("--budget", "soon"), "--budget soon is not a time"),
        (("--qat", "--precision", "fp32"), "--qat trains for INT8, but no INT8 recipe is tried"),
        (
            ("--search", "always", "--precision", "fp32"),
            "--search always places INT8, but no INT8 recipe is tried",
        ),
        (("--dla",), "No deep learning accelerator is known of cpu"),
        (("--precision", "fp16"), "no recipe for engine onnxruntime, precision fp16"),
        (("--recipe", "none.toml"), "Cannot read --recipe none.toml"),
    ],
)
def test_options_that_contradict(
    options: tuple[str, ...], message: str, model: Path, photos: Path, home: Path
) -> None:
    done = Typed(model, "--calib", photos, *ORT, *options, "--out", home / "x.edgetl")
    assert message in done.error()
    assert not list(home.iterdir())


def test_a_search_needs_this_machine_among_the_targets(
    model: Path, photos: Path, home: Path
) -> None:
    options = ("--target", "jetson-orin-nano,raspberry-pi-5", "--search", "always")
    done = Typed(model, "--calib", photos, *options, "--out", home / "x.edgetl")
    assert "which none of the targets is" in done.error()


def test_options_that_typer_refuses(model: Path, home: Path) -> None:
    for options in (("--fit", "stretch"), ("--range", "100"), ("--layout", "hwc"), ("--size", "s")):
        done = Typed(model, *options, *ORT, "--out", home / "x.edgetl")
        assert done.code == 2
        assert options[0] in done.err
    assert Typed(model, "--target", "cpu").code == 2  # no --out


def test_an_error_as_json(model: Path, home: Path) -> None:
    done = Typed(model, *ORT, "--out", home / "x.edgetl", "--json")
    assert "needs photos" in done.error()
    said = json.loads(done.out)["error"]
    assert said["type"] == "UsageError"
    assert said["fix"] == "give --calib FOLDER."


# --- recipes ----------------------------------------------------------------------------------

RECIPE = """
name = "mine"
title = "Mine"
engine = "onnxruntime"
precision = "int8"
form = "ort-qdq"
min_agreement = 0.0
activation = "quint8"
calibration = ["minmax"]
calibration_images = 16
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "mine.toml: "),
        ("\udcff", "mine.toml: "),
        ('name = "mine"', "missing required field"),
        (RECIPE + 'colour = "red"', "colour"),
        (RECIPE.replace('"int8"', '"int4"'), "int4"),
        (RECIPE.replace("16", '"many"'), "calibration_images"),
        (RECIPE.replace('"mine"', '"ort-int8"'), "is named 'ort-int8', as a recipe of edgetl is"),
        (RECIPE.replace('"mine"', '"mine-qat"'), "is named 'mine-qat'"),
        (RECIPE.replace('"mine"', '"../mine"'), "mine.toml"),
        (RECIPE.replace('"ort-qdq"', '"float"'), "mine.toml"),
        (RECIPE.replace("0.0", "7.0"), "min_agreement is 7"),
    ],
)
def test_bad_recipes(
    text: str, message: str, *, model: Path, photos: Path, home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    out = home / "x.edgetl"
    done = Typed(model, "--calib", photos, *ORT, "--recipe", path, "--out", out)
    assert message in done.error()
    assert str(path) in done.error()
    assert not list(home.iterdir())


def test_one_recipe_twice(model: Path, photos: Path, home: Path, tmp_path: Path) -> None:
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(RECIPE)
    both = ("--recipe", tmp_path / "a.toml", "--recipe", tmp_path / "b.toml")
    done = Typed(model, "--calib", photos, *ORT, *both, "--out", home / "x.edgetl")
    assert "Two --recipe files have one name" in done.error()


def test_a_recipe_of_ones_own(
    model: Path, photos: Path, home: Path, tmp_path: Path, quick: None
) -> None:
    """It is tried, measured and shipped as edgetl's own are."""
    (tmp_path / "mine.toml").write_text(RECIPE)
    given = (model, "--calib", photos, *COLOURS, *ORT, "--recipe", tmp_path / "mine.toml")
    options = ("--search", "never", "--max-drop", "0.9", "--json")
    done = Typed(*given, *options, "--out", home / "x.edgetl")
    assert done.code == 0, done.err
    rows = {row["recipe"]: row for row in json.loads(done.out)["candidates"]}
    assert set(rows) == {"ort-fp32", "ort-int8", "mine"}
    assert rows["mine"]["rejected"] is None
    assert rows["mine"]["p50_ms"] > 0
    with open_bundle(home / "x.edgetl") as opened:
        assert "models/mine.onnx" in [a.path for a in opened.manifest.artifacts]


# --- photos that cannot be --------------------------------------------------------------------


def test_photos_that_are_not_there(model: Path, home: Path, tmp_path: Path) -> None:
    for folder, message in ((tmp_path / "gone", "No data folder at"), (home, "No photos in")):
        done = Typed(model, "--calib", folder, *ORT, "--out", tmp_path / "x.edgetl")
        assert message in done.error()
        assert str(folder) in done.error()


def test_photos_of_one_class(model: Path, photos: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "disc").symlink_to(photos / "disc")
    done = Typed(model, "--calib", tmp_path / "one", *ORT, "--out", home / "x.edgetl")
    assert "Only one class, disc" in done.error()


def test_photos_that_are_too_few_or_all_the_same(
    model: Path, photos: Path, home: Path, tmp_path: Path
) -> None:
    for label in small.LABELS:
        (tmp_path / "few" / label).mkdir(parents=True)
        data = (photos / label / "00.png").read_bytes()
        for number in range(6):
            (tmp_path / "few" / label / f"{number}.png").write_bytes(data)
    done = Typed(model, "--calib", tmp_path / "few", *ORT, "--out", home / "x.edgetl")
    assert "holds 3 different photos that can be read (of 18 files" in done.error()


def spoiled(photos: Path, root: Path, every: int) -> Path:
    """The photos, every so many of them cut off."""
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        copy = root / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes()[: 100 if number % every == 0 else None])
    return root


def test_corrupt_photos(
    *,
    model: Path,
    photos: Path,
    home: Path,
    tmp_path: Path,
    quick: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Most of them: refused. A few: named, and the rest is used."""
    most = spoiled(photos, tmp_path / "most", 1)
    done = Typed(model, "--calib", most, *ORT, "--out", home / "x.edgetl")
    assert "72 of 72 photos in" in done.error()
    assert not list(home.iterdir())
    few = spoiled(photos, tmp_path / "few", 10)
    precision = ("--precision", "fp32")
    done = Typed(model, "--calib", few, *COLOURS, *ORT, *precision, "--out", home / "x.edgetl")
    assert done.code == 0, done.err
    assert "skipped 8 of 72 photos" in caplog.text
    assert (home / "x.edgetl").is_file()


def test_class_folders_that_are_no_labels(
    model: Path, photos: Path, home: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("disc\nframe\nlines\n")
    given = (model, "--calib", photos, "--labels", labels)
    done = Typed(*given, *ORT, "--out", home / "x.edgetl")
    assert "1 of 3 class folders" in done.error()
    assert "stripes" in done.error()


# --- models that cannot be --------------------------------------------------------------------


def unknown_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].output[0] = "before"
    node = helper.make_node("Mystery", ["before"], ["logits"], "riddle", domain="com.example")
    proto.graph.node.append(node)
    proto.opset_import.append(helper.make_opsetid("com.example", 1))


def control_flow(proto: onnx.ModelProto) -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", ["before"], ["y"])], "b", [], [value])
    proto.graph.node[-1].output[0] = "before"
    node = helper.make_node(
        "If", ["yes"], ["logits"], "choice", then_branch=branch, else_branch=branch
    )
    proto.graph.node.append(node)
    proto.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))


def open_size(proto: onnx.ModelProto) -> None:
    for axis, name in ((2, "H"), (3, "W")):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name


def two_inputs(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, 3]))


def no_colours(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unknown_operator, "given.onnx: Mystery 'riddle' is of the operator domain 'com.example'"),
        (control_flow, "If 'choice' is control flow"),
        (open_size, "given.onnx leaves the image size open"),
        (two_inputs, "given.onnx has 2 inputs (pixels, more), not one"),
        (no_colours, "no axis holds three colours"),
    ],
)
def test_models_that_cannot_be(
    change: Change, message: str, model: Path, photos: Path, home: Path
) -> None:
    changed(model, change)
    done = Typed(model, "--calib", photos, *ORT, "--out", home / "x.edgetl")
    assert message in done.error()
    assert not list(home.iterdir())


def test_an_open_size_can_be_given(model: Path, photos: Path, home: Path, quick: None) -> None:
    changed(model, open_size)
    options = ("--size", small.SIZE, "--precision", "fp32")
    done = Typed(
        model, "--calib", photos, *COLOURS, *ORT, *map(str, options), "--out", home / "x.edgetl"
    )
    assert done.code == 0, done.err


def test_external_data_that_is_missing(model: Path, photos: Path, home: Path) -> None:
    proto = onnx.load(model)
    onnx.save(proto, model, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (model.parent / "weights.bin").unlink()
    done = Typed(model, "--calib", photos, *ORT, "--out", home / "x.edgetl")
    assert "keeps weights in the file 'weights.bin', which is not beside it" in done.error()


@pytest.mark.parametrize("data", [b"", b"not a model\n", b"\x89PNG\r\n", b"\x08\x07" * 9])
def test_what_is_no_onnx_file(data: bytes, model: Path, photos: Path, home: Path) -> None:
    model.write_bytes(data)
    done = Typed(model, "--calib", photos, *ORT, "--out", home / "x.edgetl")
    assert "given.onnx is not an ONNX file" in done.error()


def test_a_model_that_is_not_there(photos: Path, home: Path, tmp_path: Path) -> None:
    for name in ("gone.onnx", "folder.onnx"):
        (tmp_path / "folder.onnx").mkdir(exist_ok=True)
        done = Typed(tmp_path / name, "--calib", photos, *ORT, "--out", home / "x.edgetl")
        assert f"Cannot read {tmp_path / name}" in done.error()


def test_a_cut_off_model(model: Path, photos: Path, home: Path) -> None:
    model.write_bytes(small.given()[:-500])
    done = Typed(model, "--calib", photos, *ORT, "--out", home / "x.edgetl")
    assert "given.onnx" in done.error()


def test_training_that_does_not_know_an_operator(
    model: Path, photos: Path, home: Path, quick: None
) -> None:
    """A network that runs everywhere, but that --qat cannot run."""

    def soft(proto: onnx.ModelProto) -> None:
        proto.graph.node[-1].output[0] = "before"
        proto.graph.node.append(helper.make_node("Softsign", ["before"], ["logits"], "soft"))

    changed(model, soft)
    given = (model, "--calib", photos, *COLOURS, *ORT, "--out", home / "x.edgetl")
    done = Typed(*given, "--qat", "--max-drop", "0.5")
    assert done.code == 0, done.err
    assert "QAT: Softsign 'Softsign_1' is an operator, which training" in done.err
    assert "export without --qat" in done.err
    with open_bundle(home / "x.edgetl") as opened:
        assert not [c for c in opened.manifest.candidates if "-qat" in c.recipe]


# --- whole or absent --------------------------------------------------------------------------


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Typed]:
    """Type a command line while no file may grow beyond so many bytes."""

    def of(most: int, *arguments: Any) -> Typed:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            return Typed(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return of


@pytest.mark.parametrize("when", ["at once", "measuring", "after the search"])
def test_a_full_disk(
    when: str, full: Callable[..., Typed], *, model: Path, photos: Path, home: Path, quick: None
) -> None:
    """The quantizer's files do not fit, or the bundle, or only the one with what was found."""
    out = home / "x.edgetl"
    given = (model, "--calib", photos, *COLOURS, *ORT, "--max-drop", "0.9", "--recipe")
    given += (model.with_name("mine.toml"), "--out", out)
    model.with_name("mine.toml").write_text(RECIPE)  # it passes, whatever its agreement is
    assert Typed(*given, "--search", "never").code == 0
    most = {"at once": 4096, "measuring": 40_000, "after the search": out.stat().st_size + 1000}
    out.write_bytes(b"the old bundle")
    done = full(most[when], *given, "--search", "always", "--budget", "1s")
    assert "Cannot write" in done.error()
    assert "File too large" in done.error()
    assert ("search: trial" in done.err) == (when == "after the search")
    assert out.read_bytes() == b"the old bundle"
    assert [p.name for p in home.iterdir()] == ["x.edgetl"]


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files of other processes; nothing may be left in it."""
    made = tmp_path / "tmp"
    made.mkdir()
    yield made
    assert not list(made.glob("edgetl*"))


@pytest.fixture
def searching_process(
    model: Path, photos: Path, home: Path, scratch: Path, tmp_path: Path
) -> Iterator[subprocess.Popen[str]]:
    """An export in a process of its own that searches for a long time."""
    command = ["export", model, "--calib", photos, *COLOURS, *ORT, "--out", home / "x.edgetl"]
    command += ["--search", "always", "--max-drop", "0.9", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "edgetl", *map(str, command)],
        env=os.environ | {"TMPDIR": str(scratch), "EDGETL_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def interrupt(process: subprocess.Popen[str], at: str) -> list[str]:
    """Ctrl-C, as a terminal sends it, once a line holds `at`; returns the lines until then."""
    seen: list[str] = []
    assert process.stderr is not None
    for line in process.stderr:
        seen.append(line)
        if at in line:
            os.killpg(process.pid, signal.SIGINT)
            return seen
    raise AssertionError(f"no line held {at!r}: {seen}")


def test_ctrl_c_ends_the_search_and_not_the_export(
    searching_process: subprocess.Popen[str], home: Path
) -> None:
    seen = interrupt(searching_process, "search: trial 8")
    shown, said = searching_process.communicate(timeout=120)
    assert searching_process.returncode == 0, said
    assert "Traceback" not in said
    found = json.loads(shown)
    begun = "".join([*seen, said]).count("search: trial")
    assert begun < 12  # it ended soon; a trial that was running is no placement
    finished = int(found["notes"][-1].split()[1])
    assert begun - 1 <= finished <= begun
    assert found["notes"][-1].endswith("; Ctrl-C ended it")
    with open_bundle(home / "x.edgetl") as opened:
        mixed = [c for c in opened.manifest.candidates if "mixed" in c.recipe]
        assert mixed
        for candidate in mixed:
            assert candidate.quantization is not None
            assert candidate.quantization.kept_float
            assert candidate.rejected is not None or candidate.p50_ms is not None
        assert all(check.passed is not False for check in self_test(opened))
    assert [p.name for p in home.iterdir()] == ["x.edgetl"]


def test_a_second_ctrl_c_ends_the_export(
    searching_process: subprocess.Popen[str], home: Path
) -> None:
    interrupt(searching_process, "search: trial 8")
    seen = interrupt(searching_process, "-mixed")
    _, said = searching_process.communicate(timeout=120)
    assert searching_process.returncode == 130, said
    assert said.endswith("edgetl: interrupted\n")
    assert "Traceback" not in "".join([*seen, said])
    assert not list(home.iterdir())


def test_finished_trials_are_there_after_ctrl_c(
    searching_process: subprocess.Popen[str], tmp_path: Path
) -> None:
    interrupt(searching_process, "search: trial 4")
    searching_process.communicate(timeout=120)
    (stored,) = (tmp_path / "cache" / "search").iterdir()
    rows = [json.loads(line) for line in stored.read_text().splitlines()]
    assert len(rows) >= 3
    assert np.isfinite([[row["ratio"], row["divergence"]] for row in rows]).all()
