"""Export recipes: every packaged file, and what a mistake in one is answered with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgetl.errors import UnknownNameError, UsageError
from edgetl.exporter.backends import check_recipe
from edgetl.recipes import all_recipes, find_recipe, packaged, parse_toml
from edgetl.spec import Device, Recipe

ROOT = Path(__file__).resolve().parent.parent
ENGINES = {
    "float": {"onnxruntime", "openvino"},
    "ort-qdq": {"onnxruntime"},
    "nncf": {"openvino"},
    "trt-weak": {"tensorrt"},
    "trt-strong": {"tensorrt"},
    "trt-qdq-weak": {"tensorrt"},
    "trt-qdq-strong": {"tensorrt"},
}
INTEGERS = {"ort-qdq", "nncf", "trt-qdq-weak", "trt-qdq-strong"}
GOOD = (ROOT / "export" / "ort-fp32.toml").read_text("utf-8")


def fields(readme: Path) -> list[str]:
    """Names in the first column of the table under "Fields"."""
    text = readme.read_text("utf-8").split("## Fields")[1].split("## ")[0].split("| `form` |", 1)
    first = text[0] + ("| `form` |" + text[1].split("\n\n")[0] if len(text) > 1 else "")
    return [line.split("`")[1] for line in first.splitlines() if line.startswith("| `")]


def test_every_file_is_a_recipe_of_its_name() -> None:
    files = {path.stem for path in (ROOT / "export").glob("*.toml")}
    assert files == set(all_recipes())
    assert {"ort-fp32", "ort-int8", "ov-fp32", "ov-bf16", "ov-int8"} <= files
    assert {"trt-fp16-weak", "trt-fp16-strong"} <= files
    for name, recipe in all_recipes().items():
        assert recipe.name == name
        assert recipe.title
        assert find_recipe(name) is recipe


@pytest.mark.parametrize("recipe", all_recipes().values(), ids=lambda recipe: recipe.name)
def test_every_recipe_keeps_the_gate_and_fits_its_engine(recipe: Recipe) -> None:
    assert recipe.engine in ENGINES[recipe.form]
    # FP16 tensors in QuantizeLinear exist from opset 19 on, and TensorRT 10.12 reads it.
    assert recipe.max_opset == (19 if recipe.form == "trt-qdq-strong" else 17)
    assert (recipe.precision == "int8") == (recipe.form in INTEGERS)
    assert bool(recipe.calibration_images) == (recipe.precision == "int8")
    assert bool(recipe.activation) == (recipe.form == "ort-qdq")
    assert bool(recipe.preset) == (recipe.form == "nncf")
    assert not recipe.fold_normalisation or recipe.form in ("ort-qdq", "nncf")
    assert recipe.exclude == () or recipe.form in INTEGERS
    # OpenVINO computes in BF16 by itself where the chip can: its precision is always stated.
    assert ("INFERENCE_PRECISION_HINT" in recipe.session) == (recipe.engine == "openvino")
    assert ("typing" in recipe.session) == (recipe.engine == "tensorrt")
    check_recipe(recipe, where=recipe.name)


@pytest.mark.parametrize("recipe", all_recipes().values(), ids=lambda recipe: recipe.name)
def test_calibrations_are_those_that_the_engine_offers(recipe: Recipe) -> None:
    offered = {"ort-qdq": 3, "trt-qdq-weak": 3, "trt-qdq-strong": 3, "nncf": 2}.get(recipe.form, 0)
    assert len(set(recipe.calibration)) == len(recipe.calibration) <= offered
    if recipe.form in INTEGERS - {"nncf"}:
        assert len(recipe.calibration) == 3
    assert "entropy" not in recipe.calibration or recipe.form != "nncf"


def test_the_readme_explains_every_field() -> None:
    assert sorted(fields(ROOT / "export" / "README.md")) == sorted(Recipe.__struct_fields__)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "\ncolour = 1\n", r"my\.toml: .*unknown field `colour`"),
        (GOOD.replace('"fp32"', '"int3"'), r"my\.toml: Invalid enum value 'int3'.*`\$\.precision`"),
        (GOOD + '\nmax_opset = "high"\n', r"my\.toml: .*(max_opset|line)"),
        (GOOD.replace("form =", "session.a ="), r"missing required field `form`"),
        (GOOD + '\ncalibration = "minmax"\n', r"Expected `array`, got `str`.*`\$\.calibration`"),
        (GOOD + '\ncalibration = ["random"]\n', r"Invalid enum value 'random'"),
        (GOOD + "\n= broken\n", r"my\.toml: .*\(at line \d+"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_toml(text.encode(), Recipe, where="my.toml")
    assert parse_toml(GOOD.encode(), Recipe, where="my.toml") == find_recipe("ort-fp32")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ort-fp32", {"name": "../../etc"}, "the name '../../etc' cannot be part of a file's name"),
        ("ort-fp32", {"name": "Ort"}, "the name 'Ort' cannot"),
        ("ort-fp32", {"name": ""}, "the name '' cannot"),
        ("ort-fp32", {"name": "a--b"}, "the name 'a--b' cannot"),
        ("ort-fp32", {"name": "-a"}, "the name '-a' cannot"),
        ("ort-fp32", {"name": "a.b"}, "the name 'a.b' cannot"),
        ("ort-fp32", {"name": "a\n"}, "cannot be part of a file's name"),
        ("ort-fp32", {"name": "ä"}, "the name 'ä' cannot"),
        ("ort-fp32", {"name": "a" * 61}, "cannot be part of a file's name"),
        ("ort-fp32", {"engine": "tensorrt"}, "tensorrt has no form 'float'"),
        ("ort-int8", {"form": "nncf"}, "onnxruntime has no form 'nncf'"),
        ("ort-fp32", {"precision": "int8"}, "form 'float' for onnxruntime is not int8"),
        ("ort-int8", {"precision": "fp32"}, "form 'ort-qdq' for onnxruntime is not fp32"),
        ("ort-int8", {"calibration_images": 0}, "nothing calibrates it"),
        ("ort-int8", {"activation": ""}, "form 'ort-qdq' with activation ''"),
        ("ov-int8", {"activation": "qint8"}, "form 'nncf' with activation 'qint8'"),
        ("ov-int8", {"calibration": ("entropy",)}, "NNCF does not calibrate by entropy"),
        ("ort-fp32", {"precision": "bf16"}, "form 'float' for onnxruntime is not bf16"),
        ("ort-fp32", {"calibration": ("minmax",)}, "form 'float' quantizes nothing"),
        ("ov-fp32", {"session": {}}, "does not say in which precision"),
        ("trt-int8-weak", {"session": {"typing": "strong"}}, "is typed otherwise"),
        ("trt-int8-weak", {"session": {"typing": "weak", "dla": "0"}}, "does not run on DLA"),
    ],
)
def test_contradictions_are_named(name: str, changes: dict[str, Any], message: str) -> None:
    recipe = msgspec.structs.replace(find_recipe(name), **changes)
    with pytest.raises(UsageError, match=rf"^mine\.toml: .*{re.escape(message)}") as got:
        check_recipe(recipe, where="mine.toml")
    assert got.value.fix


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UsageError, match=r"my\.toml: .*utf-8"):
        parse_toml(GOOD.encode("utf-16"), Recipe, where="my.toml")


def test_an_unknown_recipe_gets_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown recipe 'ort-int9': did you mean ort-int8"):
        find_recipe("ort-int9")
    with pytest.raises(UnknownNameError, match=r"no name is close"):
        find_recipe("zzzzzz")


def test_packaged_files_are_sorted_and_whole() -> None:
    kinds: dict[str, type[Any]] = {"export": Recipe, "devices": Device}
    for folder, kind in kinds.items():
        found = packaged(folder, kind)
        assert list(found) == sorted(path.stem for path in (ROOT / folder).glob("*.toml"))
        for name, read in found.items():
            data = (ROOT / folder / f"{name}.toml").read_bytes()
            assert parse_toml(data, kind, where="") == read
