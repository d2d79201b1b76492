"""`edgetl export` as it is typed: somebody's ONNX file and its options."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from edgetl.bundle import open_bundle
from edgetl.exporter.sources.onnx import LICENCE
from edgetl.files import sha256_bytes
from edgetl.machine import this_machine
from edgetl.runtime.selftest import self_test
from tests.cli.typed import COLOURS, ORT, RECIPE, Typed
from tests.exporter import small

Cli = Callable[..., subprocess.CompletedProcess[str]]

# --- end to end -------------------------------------------------------------------------------


def test_an_onnx_file_end_to_end(
    cli: Cli, model: Path, photos: Path, home: Path, tmp_path: Path
) -> None:
    """Exported, inspected and used: the bundle says what the given file says."""
    labels, out = tmp_path / "labels.txt", home / "mine.edgetl"
    labels.write_text("\n".join(small.LABELS) + "\n")
    given = ("export", model, "--calib", photos, "--labels", labels, *COLOURS, *ORT)
    done = cli(*given, "--search", "never", "--qat", "never", "--out", out, "--json")
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
        assert manifest.task.labels == small.LABELS
        assert manifest.input.fit == "squash"
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
    wanted = small.LABELS[int(small.run(small.canonical(), picture[None]).argmax())]
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
        assert opened.manifest.task.labels == ("class 0", "class 1", "class 2")
        candidate = opened.manifest.candidates[0]
        assert (candidate.split, candidate.agreement) == ("agreement", 1.0)
        assert (candidate.scores, candidate.settings.calibrated) == ({}, False)


def test_everything_at_once(model: Path, photos: Path, home: Path, quick: None) -> None:
    """Trained and mixed candidates are measured here beside the whole recipes."""
    extra = ("--qat", "always", "--search", "always", "--budget", "3s", "--max-drop", "0.5")
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
        assert {c.name for c in opened.manifest.candidates if c.artifacts} == passed
        assert all(check.passed is not False for check in self_test(opened))


# --- options that cannot be -------------------------------------------------------------------

RUN_OPTIONS = [
    (("--calib", "photos"), "--calib cannot be given with a run"),
    (("--labels", "x.txt", "--size", "64"), "--class-names, --size cannot be given with a run"),
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
        (("--size", "s"), "--size s is not a size"),
        (("--size", "48x64"), "--size 48x64 contradicts given.onnx"),
        (("--size", "48"), "--size 48 contradicts given.onnx"),
        (("--layout", "nhwc"), "--layout nhwc contradicts"),
        (("--labels", "none.txt"), "Cannot read class names"),
        (("--crop-pct", "0.9", "--fit", "pad"), "--crop-pct crops, and --fit pad shows all"),
        (("--max-drop", "2"), "--max-drop 2.0 is not possible"),
        (("--max-drop", "nan"), "--max-drop nan is not possible"),
        (("--budget", "0s"), "--budget 0 s leaves no time"),
        (("--budget", "9s", "--search", "never"), "--budget bounds a search, and --search never"),
        (("--budget", "soon"), "--budget soon is not a time"),
        (("--qat", "always", "--precision", "fp32"), "--qat always trains for INT8, but no INT8"),
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
    for options in (("--fit", "stretch"), ("--range", "100"), ("--layout", "hwc")):
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
        (RECIPE + "min_agreement = 0.9", "unknown field `min_agreement`"),
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
