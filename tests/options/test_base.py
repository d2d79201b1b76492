"""A field of a struct is all that an option needs."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import edgetl
from edgetl import options
from edgetl.cli.app import Verbs
from edgetl.cli.common import emit, verb
from edgetl.cli.options import from_file
from edgetl.errors import UsageError
from edgetl.inputs.decode import DEPTHS
from edgetl.options import Option, Options, fields, takes
from edgetl.options.runtime import names
from edgetl.registry import Registry


class SliceOptions(Options, frozen=True, kw_only=True):
    """Options of a verb that is not there."""

    kind: Annotated[str, Option("What is sliced.")]
    thickness: Annotated[float, Option("Thin or thick.", low=0.5, high=50, unit=" mm")] = 5.0
    cut: Annotated[Literal["straight", "wavy"], Option("The blade.")] = "straight"
    grade: Annotated[Literal[1, 2] | None, Option("Of flour.", default="by kind")] = None
    crust: Annotated[bool, Option("Cut the crust off.", flags=("--no-crust",))] = True
    toast: Annotated[bool, Option("Toast it.")] = False
    spreads: Annotated[tuple[str, ...], Option("Put on it.", flags=("--spread",))] = ()
    guests: Annotated[
        tuple[str, ...], Option("For whom.", flags=("--for", "--to"), parse=names)
    ] = ()

    def check(self) -> None:
        if self.toast and self.cut == "wavy":
            raise UsageError("--toast and --cut wavy stick.", fix="leave one away.")


class SliceConfig(SliceOptions, frozen=True, kw_only=True, forbid_unknown_fields=False):
    loaf: str = ""


@takes(SliceOptions)
def slice_(
    loaf: str, *, fast: bool = False, options: SliceOptions | None = None, **changes: Any
) -> SliceOptions:
    """Slice a loaf."""
    return SliceOptions.of(options, changes)


@verb
def typed(
    loaf: Annotated[str, typer.Argument(help="What to slice.")],
    options: SliceOptions,
    fast: Annotated[bool, typer.Option("--fast", help="In a hurry.")] = False,
) -> None:
    """Slice a loaf."""
    emit(msgspec.structs.asdict(slice_(loaf, options=options)) | {"loaf": loaf, "fast": fast})


def run(*words: str) -> tuple[int, Any, str]:
    app = typer.Typer(cls=Verbs, rich_markup_mode=None)
    app.callback()(lambda: None)
    app.command("slice")(typed)
    done = CliRunner().invoke(app, ["slice", *words])
    said = json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout
    return done.exit_code, said, done.stderr


def test_a_field_is_in_the_help_with_its_default_and_its_range() -> None:
    said = " ".join(run("--help")[1].split())
    for text in (
        "--kind <str> What is sliced. [required]",
        "Thin or thick. [default: 5.0; 0.5…50 mm]",
        "--cut <straight|wavy> The blade. [default: straight]",
        "--grade <1|2> Of flour. [default: by kind]",
        "--no-crust Cut the crust off.",
        "--for, --to <str> For whom.",
        "--config <path>",
        "--fast In a hurry.",
    ):
        assert text in said, said


def test_two_names_of_one_option_in_a_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "slice.toml"
    path.write_text('kind = "rye"\nto = "a"\nfor = "b"\n')
    code, _, said = run("loaf", "--config", str(path))
    assert code == 1
    assert "gives both" in said


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "slice.toml"
    path.write_text(
        'kind = "rye"\nthickness = 9\ngrade = 2\ncrust = false\nspread = ["jam"]\nto = "a, b"\n'
    )
    code, found, said = run("loaf", "--config", str(path), "--thickness", "2", "--spread", "butter")
    assert code == 0, said
    assert found == {
        "loaf": "loaf", "fast": False, "kind": "rye", "thickness": 2.0, "cut": "straight",
        "grade": 2, "crust": False, "toast": False, "spreads": ["butter"], "guests": ["a", "b"],
    }  # fmt: skip
    code, found, said = run(
        "l", "--kind", "x", "--grade", "1", "--no-crust", "--to", "c,d", "--fast"
    )
    assert (code, found["grade"], found["crust"], found["fast"]) == (0, 1, False, True), said
    assert found["guests"] == ["c", "d"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("thick = 3", "has no option 'thick' to give"),
        ("range_ = 3", "has no option 'range_'"),
        ('cut = "zigzag"', "zigzag"),
        ('thickness = "thin"', "thickness"),
        ("thickness =", "slice.toml"),
    ],
)
def test_a_file_with_a_mistake_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "slice.toml"
    path.write_text(text)
    code, _, said = run("loaf", "--kind", "rye", "--config", str(path))
    assert code == 1
    assert str(path) in said
    assert message in said


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "Missing option '--kind'"),
        (("--kind", "x", "--cut", "zigzag"), 2, "'zigzag' is not one of"),
        (("--kind", "x", "--thickness", "99"), 1, "--thickness 99.0 is not possible"),
        (("--kind", "x", "--thickness", "nan"), 1, "--thickness nan is not possible"),
        (("--kind", "x", "--toast", "--cut", "wavy"), 1, "--toast and --cut wavy stick"),
        (("--kind", "x", "--config", "gone.toml"), 1, "Cannot read --config gone.toml"),
    ],
)
def test_what_is_refused(words: tuple[str, ...], code: int, message: str) -> None:
    found, _, said = run("loaf", *words)
    assert (found, message in said) == (code, True), said
    assert " Fix: " in said


def test_python_has_every_field_as_a_keyword() -> None:
    shown = inspect.signature(slice_).parameters
    assert list(shown)[:3] == ["loaf", "fast", "options"]
    assert list(shown)[3:] == [field.name for field in fields(SliceOptions)]
    assert shown["kind"].default is inspect.Parameter.empty
    assert shown["thickness"].default == 5.0
    assert "SliceOptions" in str(slice_.__doc__)
    found = slice_("loaf", kind="rye", spreads=[Path("jam")], guests="a,b")
    assert (found.spreads, found.guests) == (("jam",), ("a", "b"))
    assert slice_("loaf", options=found, toast=True) == msgspec.structs.replace(found, toast=True)
    for wrong in ({"kind": "rye", "blade": 1}, {"options": found, "blade": 1}):
        with pytest.raises(TypeError, match="blade"):
            slice_("loaf", **wrong)
    with pytest.raises(TypeError, match="kind"):
        slice_("loaf")
    for changes in ({"thickness": "thin"}, {"cut": "zigzag"}, {"thickness": 0}, {"grade": 3}):
        with pytest.raises(UsageError, match="is not possible") as error:
            slice_("loaf", kind="rye", **changes)
        assert error.value.fix.startswith("choose ")


def test_what_is_stored_has_the_field_and_ignores_later_ones() -> None:
    given = msgspec.structs.asdict(SliceOptions(kind="rye", thickness=3.0))
    stored = json.loads(msgspec.json.encode(SliceConfig(**given, loaf="l")))
    assert stored.keys() == {*given, "loaf"}
    assert msgspec.convert(stored | {"later": 1}, SliceConfig).thickness == 3.0
    with pytest.raises(msgspec.ValidationError, match="later"):
        msgspec.convert(given | {"later": 1}, SliceOptions)


KINDS = [kind for kind in vars(options).values() if isinstance(kind, type)]
KINDS = [kind for kind in KINDS if issubclass(kind, Options) and fields(kind)]
OPTIONS = [(kind, field) for kind in KINDS for field in fields(kind)]


@pytest.mark.parametrize(
    ("kind", "field"), OPTIONS, ids=[f"{k.__name__}-{f.name}" for k, f in OPTIONS]
)
def test_every_option_explains_itself_and_its_default_is_possible(kind: Any, field: Any) -> None:
    assert field.option.help.endswith(".")
    if field.default is not msgspec.NODEFAULT:
        assert field.read(field.default) == field.default


def test_every_public_verb_shows_its_options() -> None:
    for name in ("finetune", "export", "evaluate", "bench", "build", "compare", "load"):
        kind = getattr(options, f"{name.capitalize()}Options")
        shown = inspect.signature(getattr(edgetl, name)).parameters
        assert {field.name for field in fields(kind)} < set(shown), name
        with pytest.raises(TypeError, match="bogus"):
            getattr(edgetl, name)("a", bogus=1, **FIRST.get(name, {}))


FIRST: dict[str, dict[str, Any]] = {
    "finetune": {"out": "x"},
    "export": {"out": "x"},
    "evaluate": {"data": "b"},
    "compare": {"images": "b"},
}


def test_depths_are_those_of_the_decoder() -> None:
    field = next(f for f in fields(options.FinetuneOptions) if f.name == "depth")
    assert (field.option.low, field.option.high) == (min(DEPTHS), max(DEPTHS))


# --- files ------------------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=12)
SLICES = st.fixed_dictionaries(
    {},
    optional={
        "kind": WORDS,
        "thickness": st.floats(0.5, 50),
        "cut": st.sampled_from(["straight", "wavy"]),
        "grade": st.sampled_from([1, 2]),
        "crust": st.booleans(),
        "toast": st.booleans(),
        "spreads": st.lists(WORDS, max_size=3),
    },
)


@given(SLICES)
def test_a_file_holds_any_options(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    path = tmp_path_factory.mktemp("slice") / "slice.toml"
    homes = {field.name: field.keys[0] for field in fields(SliceOptions)}
    lines = [f"{homes[k]} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in values.items()]
    path.write_text("".join(lines), encoding="utf-8")
    found = from_file(SliceOptions, path)
    assert found == {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


# --- names that plug-ins add ------------------------------------------------------------------

BREADS: Registry[object] = Registry("bread", "tests.breads", {"spelt": "json"}, object)


class ShopOptions(Options, frozen=True, kw_only=True):
    bread: Annotated[str, Option("On the shelf.", known=BREADS)] = "rye"


def test_a_name_may_be_added_later() -> None:
    with pytest.raises(UsageError, match="--bread corn is not possible") as error:
        ShopOptions.of(None, {"bread": "corn"})
    assert error.value.fix == "choose among rye, spelt."
    BREADS.own["corn"] = "json"
    try:
        assert ShopOptions.of(None, {"bread": "corn"}).bread == "corn"
    finally:
        del BREADS.own["corn"]
