"""The run folder: who may write into it, what becomes of what is there, what is left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from edgetl.errors import RunError, StorageError
from edgetl.options import FinetuneConfig
from edgetl.runs import folder as runs
from edgetl.runs.folder import claim, finished_run, locked, read_run

CONFIG = FinetuneConfig(
    data="/photos",
    backbone="squeezenet1_1",
    weights="none",
    strategy="scratch",
    epochs=1,
    size=32,
    fit="crop",
    flip=True,
    seed=0,
    device="cpu",
)


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """A finished run that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def unfinished(finished: Path) -> Path:
    record = read_run(finished)
    runs.write_run(finished, msgspec.structs.replace(record, status="running", config=CONFIG))
    return finished


def enter(home: Path, *, resume: bool = False, overwrite: bool = False) -> bool:
    with locked(home):
        return claim(home, CONFIG, resume=resume, overwrite=overwrite)


def contents(home: Path) -> dict[str, bytes]:
    return {str(p.relative_to(home)): p.read_bytes() for p in home.rglob("*") if p.is_file()}


# --- reading ----------------------------------------------------------------------------------


def test_a_finished_run_is_read(trained: Path) -> None:
    assert finished_run(trained).status == "finished"


def test_folders_that_are_no_run(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(RunError, match=r"No run at .*gone"):
        read_run(tmp_path / "gone")
    with pytest.raises(RunError, match=r"is not a run: it has no run\.json"):
        read_run(tmp_path)
    (finished / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        read_run(finished)
    (finished / "run.json").write_text('{"edgetl_run": 2}')
    with pytest.raises(RunError, match="missing required field"):
        read_run(finished)


def test_another_version_is_refused(finished: Path) -> None:
    record = read_run(finished)
    runs.write_run(finished, msgspec.structs.replace(record, edgetl_run=3))
    with pytest.raises(RunError, match="is a run of version 3; this edgetl reads 2"):
        read_run(finished)


def test_an_unfinished_run_is_refused_where_a_finished_one_is_needed(unfinished: Path) -> None:
    with pytest.raises(RunError, match="is unfinished") as got:
        finished_run(unfinished)
    assert "--resume" in got.value.fix


# --- claiming ---------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_an_empty_or_absent_folder_starts_anew(tmp_path: Path, exists: bool, resume: bool) -> None:
    home = tmp_path / "deep" / "run"
    if exists:
        home.mkdir(parents=True)
    assert enter(home, resume=resume) is False
    assert home.exists() == exists  # nothing became of it, so nothing is left
    assert not exists or not list(home.iterdir())


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_run_needs_overwrite(finished: Path, resume: bool) -> None:
    before = contents(finished)
    with pytest.raises(RunError, match="holds a finished run") as got:
        enter(finished, resume=resume)
    assert "--overwrite" in got.value.fix
    assert contents(finished) == before


def test_an_unfinished_run_needs_a_decision(unfinished: Path) -> None:
    before = contents(unfinished)
    with pytest.raises(RunError, match="holds an unfinished run") as got:
        enter(unfinished)
    assert "--resume" in got.value.fix
    assert "--overwrite" in got.value.fix
    assert contents(unfinished) == before
    assert enter(unfinished, resume=True) is True
    assert contents(unfinished) == before


def test_other_options_are_listed(unfinished: Path) -> None:
    record = read_run(unfinished)
    config = msgspec.structs.replace(CONFIG, size=64, seed=3)
    runs.write_run(unfinished, msgspec.structs.replace(record, config=config))
    with pytest.raises(RunError, match="was started with other options") as got:
        enter(unfinished, resume=True)
    assert "size: 64 before, 32 now" in got.value.message
    assert "seed: 3 before, 0 now" in got.value.message
    assert "epochs" not in got.value.message


def test_overwrite_removes_the_run_and_nothing_else(finished: Path) -> None:
    for name in ("notes.txt", "parts.edgetl", ".other.tmp"):
        (finished / name).write_text("mine")
    (finished / ".model.safetensors.ab12.tmp").write_text("a killed process's")
    (finished / "cache").mkdir()
    (finished / "cache" / "photos.npy").write_text("")
    assert enter(finished, overwrite=True) is False
    assert {p.name for p in finished.iterdir()} == {"notes.txt", "parts.edgetl", ".other.tmp"}


@pytest.mark.parametrize(
    "files",
    [
        ["holiday.jpg"],
        ["cache/precious.txt"],
        ["data.jsonl"],
        [".hidden"],
        [".precious.tmp"],
        ["run.json"],
        ["run.json", "model.safetensors"],
    ],
)
@pytest.mark.parametrize("option", ["none", "resume", "overwrite"])
def test_a_foreign_folder_is_refused_and_untouched(
    tmp_path: Path, files: list[str], option: str
) -> None:
    home = tmp_path / "home"
    for name in files:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text('{"somebody": "else"}')
    before = contents(home)
    with pytest.raises(RunError, match="is not empty and is no run"):
        enter(home, resume=option == "resume", overwrite=option == "overwrite")
    assert contents(home) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_traces_of_a_killed_start_are_no_obstacle(tmp_path: Path, overwrite: bool) -> None:
    home = tmp_path / "home"
    (home / "cache").mkdir(parents=True)
    for name in ("cache/photos.npy", ".run.json.x1.tmp", ".lock"):
        (home / name).write_text("")
    assert enter(home, overwrite=overwrite) is False


def test_a_run_of_another_version_can_be_overwritten(finished: Path) -> None:
    (finished / "run.json").write_text('{"edgetl_run": 99, "new": "fields"}')
    with pytest.raises(RunError, match="version 99"):
        enter(finished)
    assert enter(finished, overwrite=True) is False
    assert not list(finished.iterdir())


# --- holding ----------------------------------------------------------------------------------


def test_only_one_process_holds_a_folder(tmp_path: Path) -> None:
    home = tmp_path / "run"
    with locked(home):
        with pytest.raises(RunError, match="Another process is training in"), locked(home):
            pass
        assert (home / ".lock").exists()  # the loser leaves the winner's lock alone
    with locked(home):
        pass


def test_a_lock_that_was_just_removed_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, its holder may have finished and a third one started."""
    home, real = tmp_path / "run", runs.fcntl.flock

    def flock(stream: object, how: int) -> None:
        (home / ".lock").unlink()
        (home / ".lock").write_text("")
        real(stream, how)  # type: ignore[arg-type]

    monkeypatch.setattr(runs.fcntl, "flock", flock)
    with pytest.raises(RunError, match="Another process"), locked(home):
        pass


def test_what_fails_before_it_is_a_run_leaves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "run"
    with pytest.raises(ZeroDivisionError), locked(home):  # noqa: PT012
        (home / "cache").mkdir()
        (home / "cache" / "photos.npy").write_text("big")
        raise ZeroDivisionError
    assert not home.exists()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.write_text("mine")
    for path in (home, home / "run"):
        with pytest.raises(StorageError, match="Cannot write to"), locked(path):
            pass
    assert home.read_text() == "mine"


def test_tidy_keeps_the_results(finished: Path) -> None:
    before = contents(finished)
    (finished / "cache").mkdir()
    for name in ("cache/train.npy", "checkpoint.safetensors", "probe.npz", ".run.json.9.tmp"):
        (finished / name).write_text("")
    runs.tidy(finished)
    assert contents(finished) == before
    assert not (finished / "cache").exists()
