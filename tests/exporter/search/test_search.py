"""The search over placements: real trials on this machine, kept, resumed and ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetl.engines import find_engine
from edgetl.errors import EngineError
from edgetl.exporter.backends import backend_of
from edgetl.exporter.candidates import build
from edgetl.exporter.context import BuildContext
from edgetl.exporter.onnx.checks import parse_onnx
from edgetl.exporter.search import search as searching
from edgetl.exporter.search.search import (
    FINALISTS,
    NEVER,
    Search,
    Trial,
    finalists,
    open_built,
    pareto,
    time_ratio,
)
from edgetl.machine import this_machine
from edgetl.progress import Interrupt
from edgetl.recipes import find_recipe
from tests.exporter import small

RECIPE = find_recipe("ort-int8")
PARTS = {"depthwise 3x3", "classifier", "stem", "pooling"}

Make = Callable[..., Search]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts without trials, and takes few samples."""
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(searching, "TURNS", 2)
    monkeypatch.setattr(searching, "RUNS", 2)


@pytest.fixture
def made(tmp_path: Path) -> BuildContext:
    return small.context(photos=12, model=small.canonical(blocks=1))


@pytest.fixture
def make(made: BuildContext) -> Make:
    def of(
        *, seconds: float = 600, say: Callable[[str], None] = lambda _: None, **changes: Any
    ) -> Search:
        recipe = msgspec.structs.replace(RECIPE, **changes)
        return Search(recipe, made, time.monotonic() + seconds, say)

    return of


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[frozenset[str]]:
    """What every build keeps in float, as they happen."""
    seen: list[frozenset[str]] = []

    def counted(recipe: Any, context: Any, keep: frozenset[str] = frozenset()) -> Any:
        seen.append(keep)
        return build(recipe, context, keep)

    monkeypatch.setattr(searching, "build", counted)
    return seen


def lines(search: Search) -> list[Trial]:
    return [msgspec.json.decode(line, type=Trial) for line in search.path.read_bytes().splitlines()]


# --- whole searches ---------------------------------------------------------------------------


def test_a_whole_search(make: Make, builds: list[frozenset[str]]) -> None:
    said: list[str] = []
    search = make(say=said.append)
    assert set(search.parts) == PARTS
    trials = search.run()
    assert search.stopped == ""
    assert trials[0].parts == ()
    tried = {t.parts for t in trials}
    starts = [(), ("classifier", "depthwise 3x3", "pooling")]
    assert tried >= set(starts)
    # whichever start was faster, every part was added to it or taken from it
    assert any(tried >= {tuple(sorted({*s} ^ {name})) for name in PARTS} for s in starts)
    told = [text for text in said if text.startswith("trial")]
    assert len({(t.parts, t.hint) for t in trials}) == len(trials) == len(told)
    assert said[0] == "trial 1, in float: nothing"
    for trial in trials:
        assert trial.hint == ""
        assert list(trial.parts) == sorted(trial.parts)
        assert 0 < trial.ratio < 100
        assert 0 <= trial.divergence < 1
    assert len(set(builds)) == len(trials)
    again = [text for text in said if text.startswith("again")]
    # and the whole network that all are timed against; the quickest ones are timed again
    assert len(trials) + 1 <= len(builds) <= len(trials) + 1 + len(again)
    assert lines(search) == trials


def test_every_trial_is_built_from_few_photos(make: Make, made: BuildContext) -> None:
    make(calibration=("percentile", "minmax"), calibration_images=500).run()
    assert made.used is not None
    assert made.used.n == 12
    source: Any = made.source
    assert source.asked == [searching.PHOTOS]


def test_finished_trials_are_not_measured_again(make: Make, builds: list[frozenset[str]]) -> None:
    first = make()
    found = first.run()
    builds.clear()
    again = make(seconds=-1)  # what is known takes no time
    assert again.run() == found
    assert again.stopped == ""
    assert builds == []


def test_other_work_has_trials_of_its_own(make: Make, tmp_path: Path) -> None:
    paths = {make().path, make(per_channel=False).path, make(exclude=("Gemm",)).path}
    for photos, blocks in ((11, 1), (12, 2)):
        model = small.canonical(blocks=blocks)
        other = small.context(photos=photos, model=model)
        paths.add(Search(RECIPE, other, 0, print).path)
    assert len(paths) == 5
    # how many photos the recipe itself calibrates with does not matter to a trial
    assert make(calibration_images=7).path in paths


def test_what_pays_is_added_one_by_one(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """On figures where the stem costs speed and the classifier accuracy."""

    def figures(search: Search, parts: tuple[str, ...], hint: str) -> Trial:
        slow = 1.0 - 0.2 * ("stem" in parts) + 0.05 * sum(p != "stem" for p in parts)
        far = 0.5 - 0.4 * ("classifier" in parts) - 0.001 * len(parts)
        return Trial(parts=parts, hint=hint, ratio=slow, divergence=far, confirmed=True)

    monkeypatch.setattr(Search, "_run", figures)
    trials = {t.parts for t in make().run()}
    assert ("classifier", "stem") in trials
    assert ("pooling", "stem") in trials  # tried beside it
    assert ("depthwise 3x3", "pooling") not in trials  # without the stem: not on the way
    assert ("classifier", "depthwise 3x3", "stem") in trials
    assert max(len(parts) for parts in trials) == 3  # nothing more came of a third one


def test_what_was_fast_by_luck_is_timed_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part looks faster at first; in the longer run only the stem is."""
    said: list[str] = []

    def times(session: Any, other: Any, image: Any, *, turns: int = 1) -> float:
        if turns == 1:
            return 0.5 if "stem" in said[-1] else 0.6
        return 0.7 if "stem" in said[-1] else 1.1

    monkeypatch.setattr(searching, "time_ratio", times)
    search = make(say=said.append)
    rows = {t.parts: t for t in search.run()}
    again = [text.split(": ")[1] for text in said if text.startswith("again")]
    assert len(again) == len(set(again))
    assert again[:2] == ["classifier, depthwise 3x3, pooling", "stem"]  # a start, and a part
    assert (rows["stem",].ratio, rows["stem",].confirmed) == (0.7, True)
    assert sum(t.confirmed for t in rows.values()) == len(again)
    alone = [t for t in rows.values() if len(t.parts) == 1]
    assert sum(t.confirmed for t in alone) == searching.CONFIRMED
    assert all(t.ratio == 1.1 for t in alone if t.confirmed and t.parts != ("stem",))
    said.clear()
    resumed = make(say=said.append)  # nothing is timed a third time
    assert {t.parts: t for t in resumed.run()} == rows
    assert said == []


def test_ctrl_c_while_it_is_timed_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The placement keeps its first figure."""

    def times(*_: Any, turns: int = 1) -> float:
        if turns > 1:
            raise KeyboardInterrupt
        return 0.5

    monkeypatch.setattr(searching, "time_ratio", times)
    search = make()
    trials = search.run()
    assert search.stopped == "Ctrl-C"
    assert {t.parts for t in trials} == {(), ("classifier", "depthwise 3x3", "pooling")}
    assert {t.ratio for t in trials} == {0.5, 1.0}
    assert not any(t.confirmed for t in trials)


# --- endings ----------------------------------------------------------------------------------


def test_no_time_is_no_trial(make: Make, builds: list[frozenset[str]]) -> None:
    search = make(seconds=-1)
    assert search.run() == []
    assert search.stopped == "its time was over"
    assert builds == []
    assert not search.path.exists()


def test_when_time_is_over_what_is_finished_stays(make: Make) -> None:
    def say(text: str) -> None:
        if text.startswith("trial 3"):
            search.deadline = 0  # the third is running: it ends, and no fourth begins

    search = make(say=say)
    trials = search.run()
    assert len(trials) == 3
    assert search.stopped == "its time was over"
    assert lines(search) == trials


@pytest.mark.parametrize("renamed", [False, True])
def test_ctrl_c_in_a_trial_keeps_the_others(
    renamed: bool, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a native module makes another error of it: then it is no placement that fails."""
    trials = 0

    def pressed(built: Any, hint: str) -> Any:
        nonlocal trials
        trials += 1
        if trials == 4:  # the first trial opens the whole network as well
            Interrupt.noted = True  # as the command line's handler does
            if renamed:
                raise EngineError("initialization failed")
            raise KeyboardInterrupt
        return open_built(built, hint)

    monkeypatch.setattr(searching, "open_built", pressed)
    search = make()
    found = search.run()
    assert len(found) == 2
    assert search.stopped == "Ctrl-C"
    assert Interrupt.noted is False  # the export goes on
    assert lines(search) == found
    said: list[str] = []
    resumed = make(say=said.append)
    more = resumed.run()
    assert [(t.parts, t.divergence) for t in more[:2]] == [(t.parts, t.divergence) for t in found]
    assert resumed.stopped == ""
    assert len([text for text in said if text.startswith("trial")]) == len(more) - 2
    assert all(t.ratio < NEVER for t in more)


@pytest.mark.parametrize(
    "damage",
    [b"", b"garbage\n", b'{"parts": ["stem"], "hint": ""', b"\xff\xfe\n", b"{}\n", b"null\n[]\n"],
)
def test_damaged_lines_are_left_out(
    damage: bytes, make: Make, builds: list[frozenset[str]]
) -> None:
    first = make()
    found = first.run()
    kept = first.path.read_bytes().splitlines(keepends=True)
    first.path.write_bytes(damage + b"\n" + b"".join(kept[1:]) + kept[0][:-9])
    builds.clear()
    again = make().run()
    assert [t.parts for t in again[:2]] == [t.parts for t in found[:2]]
    assert builds[0] == frozenset()  # the first line was lost with its end
    assert set(again) & set(found) >= set(found[1:3])


@pytest.mark.parametrize("data", [b"", b"\x00" * 50])
def test_a_damaged_file_is_written_anew(data: bytes, make: Make) -> None:
    path = make().path
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    search = make()
    assert search.run() == lines(search)


def test_a_cache_that_cannot_be_written_ends_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a file where the folder would be")
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "file"))
    assert len(make().run()) >= 5


# --- what cannot be ---------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["ort-int8", "ov-int8"])
def test_a_placement_that_cannot_be_built(recipe: str, made: BuildContext) -> None:
    """With everything in float there is no INT8 file; such a trial never wins."""
    stated = find_recipe(recipe)
    if find_engine(stated.engine).missing(stated.session) is not None:
        pytest.skip(f"{stated.engine} is not installed")
    search = Search(stated, made, math.inf, lambda _: None)
    nodes = [n.name for n in parse_onnx(made.canonical).graph.node]
    search.parts["all of it"] = frozenset(nodes)
    whole = search._best(())
    never = search._best(("all of it",))
    assert (never.ratio, never.divergence) == (NEVER, NEVER)
    assert whole.ratio < NEVER
    assert finalists([whole, never], whole.hint) == []
    assert never in lines(search)


def test_logits_that_are_not_finite_are_kept_as_such(
    make: Make, made: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON has no infinity."""
    monkeypatch.setattr(searching, "mean_distance", lambda *_: math.inf)
    search = make()
    trial = search._best(("stem",))
    assert trial.divergence == NEVER
    assert lines(search) == [trial]
    assert finalists([trial], "") == []


# --- precision of the rest --------------------------------------------------------------------


def test_hints() -> None:
    backend = backend_of(RECIPE)
    assert (backend.hints(RECIPE), backend.hint(RECIPE)) == (("",), "")
    assert backend.with_hint(RECIPE, "") == RECIPE
    own = find_recipe("ov-int8")
    backend = backend_of(own)
    assert backend.hints(own) == (("f32", "bf16") if this_machine().bf16 else ("f32",))
    assert backend.with_hint(own, "bf16").session == {"INFERENCE_PRECISION_HINT": "bf16"}
    kept = backend.with_hint(msgspec.structs.replace(own, session={"NUM_STREAMS": "1"}), "f32")
    assert kept.session == {"NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32"}


def test_time_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session against itself, and a network of one block against one of sixteen."""
    monkeypatch.setattr(searching, "TURNS", 8)
    made = [small.context(model=small.canonical(blocks=n)) for n in (1, 16)]
    short, long = (open_built(build(find_recipe("ort-fp32"), m), "") for m in made)
    image = small.pictures(1)
    assert 0.3 < time_ratio(short, short, image) < 3
    assert time_ratio(short, long, image) < 0.8
    assert time_ratio(long, short, image) > 1.2


# --- the front --------------------------------------------------------------------------------

figure = st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.5]) | st.floats(0.01, 10)
trial_lists = st.lists(
    st.builds(
        Trial,
        parts=st.lists(st.sampled_from(sorted(PARTS)), unique=True).map(lambda p: tuple(sorted(p))),
        hint=st.sampled_from(["f32", "bf16"]),
        ratio=figure | st.just(NEVER),
        divergence=figure | st.just(NEVER),
    ),
    max_size=12,
)


@given(trials=trial_lists)
def test_the_front_is_what_nothing_beats(trials: list[Trial]) -> None:
    front = pareto(trials)
    assert [t.ratio for t in front] == sorted({t.ratio for t in front})
    assert [t.divergence for t in front] == sorted({t.divergence for t in front}, reverse=True)
    for trial in trials:
        beaten = any(
            o.ratio <= trial.ratio
            and o.divergence <= trial.divergence
            and (o.ratio, o.divergence) != (trial.ratio, trial.divergence)
            for o in trials
        )
        same = any((t.ratio, t.divergence) == (trial.ratio, trial.divergence) for t in front)
        assert same is not beaten
    assert set(front) <= set(trials)


@given(trials=trial_lists)
def test_finalists_are_few_and_from_the_front(trials: list[Trial]) -> None:
    chosen = finalists(trials, "f32")
    front = [t for t in pareto(trials) if t.parts or t.hint == "bf16"]
    front = [t for t in front if t.ratio < NEVER and t.divergence < NEVER]
    assert len(chosen) == min(FINALISTS, len(front))
    assert len(set(chosen)) == len(chosen)
    assert [t for t in front if t in chosen] == chosen
    if front:
        assert (chosen[0], chosen[-1]) == (front[0], front[-1])


def test_the_whole_network_is_a_finalist_where_its_rest_has_another_precision() -> None:
    whole = Trial(parts=(), hint="f32", ratio=1.0, divergence=0.02)
    rest = Trial(parts=(), hint="bf16", ratio=0.9, divergence=0.03)
    stem = Trial(parts=("stem",), hint="bf16", ratio=1.1, divergence=0.01)
    assert finalists([whole, rest, stem], "f32") == [rest, stem]
    assert finalists([whole, rest, stem], "bf16") == [whole, stem]
