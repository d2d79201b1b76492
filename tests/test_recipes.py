"""Export recipes: every packaged file, and what a mistake in one is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetl.errors import UnknownNameError, UsageError
from edgetl.recipes import all_recipes, find_recipe, packaged, parse_toml
from edgetl.spec import Recipe

ROOT = Path(__file__).resolve().parent.parent
GATES = {"fp32": 0.997, "fp16": 0.98, "bf16": 0.98, "int8": 0.95}
ENGINES = {
    "float": {"onnxruntime", "openvino"},
    "ort-qdq": {"onnxruntime"},
    "nncf": {"openvino"},
    "trt-weak": {"tensorrt"},
    "trt-strong": {"tensorrt"},
}
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
    assert recipe.min_agreement == GATES[recipe.precision]
    assert recipe.engine in ENGINES[recipe.form]
    assert recipe.max_opset <= 17
    assert bool(recipe.calibration_images) == (recipe.precision == "int8")
    assert bool(recipe.activation) == bool(recipe.calibration) == (recipe.form == "ort-qdq")
    assert bool(recipe.preset) == (recipe.form == "nncf")
    # OpenVINO computes in BF16 by itself where the chip can: its precision is always stated.
    assert ("INFERENCE_PRECISION_HINT" in recipe.session) == (recipe.engine == "openvino")


def test_the_readme_explains_every_field() -> None:
    assert sorted(fields(ROOT / "export" / "README.md")) == sorted(Recipe.__struct_fields__)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "\ncolour = 1\n", r"my\.toml: .*unknown field `colour`"),
        (GOOD.replace('"fp32"', '"int3"'), r"my\.toml: Invalid enum value 'int3'.*`\$\.precision`"),
        (GOOD.replace("0.997", '"high"'), r"my\.toml: Expected `float`.*`\$\.min_agreement`"),
        (GOOD.replace("min_agreement = 0.997", ""), r"missing required field `min_agreement`"),
        (GOOD + "\n= broken\n", r"my\.toml: .*\(at line \d+"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_toml(text.encode(), Recipe, where="my.toml")
    assert parse_toml(GOOD.encode(), Recipe, where="my.toml") == find_recipe("ort-fp32")


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UsageError, match=r"my\.toml: .*utf-8"):
        parse_toml(GOOD.encode("utf-16"), Recipe, where="my.toml")


def test_an_unknown_recipe_gets_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown recipe 'ort-int9': did you mean ort-int8"):
        find_recipe("ort-int9")
    with pytest.raises(UnknownNameError, match=r"no name is close"):
        find_recipe("zzzzzz")


def test_packaged_files_are_sorted_and_whole() -> None:
    for folder in ("export", "devices"):
        found = packaged(folder)
        assert [name for name, _ in found] == sorted(name for name, _ in found)
        for name, data in found:
            assert (ROOT / folder / f"{name}.toml").read_bytes() == data
