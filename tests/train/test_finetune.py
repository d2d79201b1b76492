"""Whole trainings on drawn photos: what they write; killed ones resume to the same bits."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgetl
from edgetl.errors import (
    DataError,
    EdgetlError,
    RunError,
    StorageError,
    TrainingError,
    UnknownNameError,
    UsageError,
    WeightsError,
)
from edgetl.files import read_jsonl
from edgetl.options import FinetuneOptions
from edgetl.runs.folder import read_run
from edgetl.runs.record import EpochRow, RunRecord, Stage
from edgetl.spec import Photo
from edgetl.train import finetune as finetuning

NET = "squeezenet1_1"
MakeWeights = Callable[..., Path]
Cli = Callable[..., subprocess.CompletedProcess[str]]
RESULTS = {"data.jsonl", "metrics.jsonl", "model.safetensors", "report.html", "run.json"}


def finetune(data: Path, out: Path, **changes: Any) -> RunRecord:
    options = {"backbone": NET, "strategy": "scratch", "epochs": 2, "size": 48} | changes
    return edgetl.finetune(data, out=out, **options)


# --- what a run holds -------------------------------------------------------------------------


def test_a_run_from_scratch(trained: Path, shapes: Path) -> None:
    assert {p.name for p in trained.iterdir()} == RESULTS
    record = read_run(trained)
    assert record.status == "finished"
    assert record.config.data == str(shapes)
    assert (record.config.weights, record.config.strategy, record.config.epochs) == (
        "none",
        "scratch",
        16,
    )
    assert record.strategy == "scratch"
    assert record.weights_origin.source == "random initialisation"
    assert record.task.labels == ("bars", "disc", "square")
    assert sum(sum(split.values()) for split in record.data.counts.values()) == 72
    assert {"edgetl", "python", "torch", "torchvision", "numpy", "pillow"} <= set(record.versions)
    assert {"photos", "scratch", "evaluation"} <= set(record.timings_s)
    assert record.seconds > sum(record.timings_s.values()) * 0.9
    assert record.validation is not None
    assert record.test is not None
    assert record.validation.n == record.test.n == 9
    assert record.validation.metrics["accuracy"] > 0.6
    assert np.trace(record.validation.confusion) == round(record.validation.metrics["accuracy"] * 9)
    rows = read_jsonl(trained / "metrics.jsonl", EpochRow)
    assert [row.epoch for row in rows] == list(range(1, len(rows) + 1))
    best = max(rows, key=lambda row: (row.metrics["accuracy"], -row.validation_loss))
    assert (
        record.stages[0].primary
        == best.metrics["accuracy"]
        == record.validation.metrics["accuracy"]
    )
    photos = read_jsonl(trained / "data.jsonl", Photo)
    assert len(photos) == 72
    assert b"<html" in (trained / "report.html").read_bytes()


@pytest.mark.usefixtures("single")
def test_a_stated_depth_is_how_all_of_the_run_reads_photos(tmp_path: Path) -> None:
    data = tmp_path / "data"
    rng = np.random.default_rng(0)
    for label, level in (("dim", 900), ("lit", 3000)):
        (data / label).mkdir(parents=True)
        for index in range(12):
            values = rng.integers(level - 300, level + 300, (6, 6)).repeat(12, 0).repeat(12, 1)
            Image.fromarray(values.astype(np.uint16)).save(data / label / f"{index}.png")
    record = finetune(data, tmp_path / "run", depth=12, epochs=1)
    assert (record.input.rules, record.input.depth) == (2, 12)
    assert record.data.warnings == ()
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    text = (tmp_path / "again/run.json").read_text().replace('"finished"', '"running"')
    (tmp_path / "again/run.json").write_text(text)
    with pytest.raises(RunError, match="depth"):  # another depth is another run
        finetune(data, tmp_path / "again", epochs=1, resume=True)


def test_a_probe_on_weights_from_a_file(
    shapes: Path, weights_file: MakeWeights, tmp_path: Path, single: None
) -> None:
    path = weights_file(NET)
    record = finetune(shapes, tmp_path / "run", strategy="probe", weights=path, epochs=None)
    assert record.strategy == "probe"
    assert [stage.name for stage in record.stages] == ["probe"]
    assert record.weights_origin.source == path.name
    assert record.validation is not None
    assert record.validation.metrics["accuracy"] > 0.5
    again = finetune(shapes, tmp_path / "again", strategy="probe", weights=path, epochs=None)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (
        tmp_path / "again" / "model.safetensors"
    ).read_bytes()
    assert again.validation == record.validation


def test_strategy_finetune_ships_the_network_it_tuned(
    shapes: Path, weights_file: MakeWeights, tmp_path: Path, single: None
) -> None:
    record = finetune(shapes, tmp_path / "run", strategy="finetune", weights=weights_file(NET))
    assert record.strategy == "finetune"
    assert [stage.name for stage in record.stages] == ["probe", "finetune"]
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl", EpochRow)
    assert [(row.stage, row.epoch) for row in rows] == [
        ("probe", 1),
        ("finetune", 1),
        ("finetune", 2),
    ]


def stages(*scores: tuple[float, float]) -> list[Stage]:
    return [
        Stage(name=name, metrics={"accuracy": accuracy, "macro_f1": accuracy}, loss=loss, seconds=1)
        for name, (accuracy, loss) in zip(("probe", "finetune"), scores, strict=True)
    ]


@pytest.mark.parametrize(
    ("probe", "tuned", "ships"),
    [
        ((0.8, 0.5), (0.9, 0.9), "finetune"),
        ((0.9, 0.9), (0.8, 0.1), "probe"),
        ((0.9, 0.3), (0.9, 0.4), "probe"),
        ((0.9, 0.4), (0.9, 0.3), "finetune"),
        ((0.9, 0.3), (0.9, 0.3), "finetune"),
    ],
)
def test_auto_ships_the_better_on_validation(
    probe: tuple[float, float],
    tuned: tuple[float, float],
    ships: str,
    *,
    shapes: Path,
    weights_file: MakeWeights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    single: None,
) -> None:
    """The stages' scores are set here; which network was saved is told by its head's bias."""
    import torch

    outcome = stages(probe, tuned)
    rows = [_row(stage) for stage in outcome]

    def fake_probe(_: object, model: Any) -> Any:
        return _with_bias(model, 1.0), outcome[0], rows[0]

    def fake_tuning(_: object, model: Any, __: str) -> Any:
        return _with_bias(model, 2.0), outcome[1], rows[1:]

    monkeypatch.setattr(finetuning, "fit_probe_stage", fake_probe)
    monkeypatch.setattr(finetuning, "fit_network", fake_tuning)
    record = finetune(shapes, tmp_path / "run", strategy="auto", weights=weights_file(NET))
    assert record.strategy == ships
    assert len(record.stages) == 2
    import safetensors.torch

    saved = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    expected = 1.0 if ships == "probe" else 2.0
    assert torch.equal(saved["classifier.1.bias"], torch.full((3,), expected))


def _with_bias(model: Any, value: float) -> Any:
    import copy

    import torch

    made = copy.deepcopy(model)
    torch.nn.init.constant_(made.head.bias, value)
    return made


def _row(stage: Stage) -> EpochRow:
    return EpochRow(
        stage=stage.name,
        epoch=1,
        loss=0,
        learning_rate=0,
        metrics=stage.metrics,
        validation_loss=stage.loss,
        images_per_s=0,
        seconds=0,
    )


def test_auto_is_never_worse_than_its_probe(
    shapes: Path, weights_file: MakeWeights, tmp_path: Path, single: None
) -> None:
    record = finetune(shapes, tmp_path / "run", strategy="auto", weights=weights_file(NET))
    assert record.validation is not None
    assert record.validation.metrics["accuracy"] == max(stage.primary for stage in record.stages)


def test_two_classes_of_two_photos_each(
    drawn: Callable[..., Path], weights_file: MakeWeights, tmp_path: Path, single: None
) -> None:
    data = tmp_path / "photos"
    drawn(data / "train", {"disc": 2, "bars": 1})
    drawn(data / "val", {"disc": 1, "bars": 1}, seed=50)
    for strategy, weights in (("scratch", None), ("finetune", weights_file(NET))):
        record = finetune(
            data, tmp_path / strategy, strategy=strategy, weights=weights, epochs=1, size=32
        )
        assert record.validation is not None
        assert record.validation.n == 2
        assert record.test is None


def test_runs_in_the_data_folder_are_no_classes(
    drawn: Callable[..., Path], tmp_path: Path, single: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Twice; a folder and a photo have names that are no UTF-8, a class one that Windows keeps."""
    root = drawn(tmp_path / os.fsdecode(b"d\xe9"), {"disc": 8, "square": 8})
    (root / "disc").rename(root / "aux. ")
    (root / "square/00.png").rename(root / os.fsdecode(b"square/\xff.png"))
    first = finetune(root, root / "run", epochs=1)
    again = finetune(root, root / "runs/2", epochs=1)
    assert first.task.labels == again.task.labels == ("aux. ", "square")
    assert first.data == again.data == read_run(root / "runs/2").data
    assert edgetl.evaluate(root / "run", root).n == 16
    (root / "train").mkdir()
    for name in first.task.labels:
        (root / name).rename(root / "train" / name)
    finetune(root, root / "run3", epochs=1)
    assert "2 of the 16 training photos were set aside" in caplog.text


def test_no_test_photos_and_a_broken_file_are_said(
    drawn: Callable[..., Path], cli: Cli, tmp_path: Path
) -> None:
    data, config = tmp_path / "photos", tmp_path / "options.toml"
    drawn(data / "train", dict.fromkeys(("bars", "disc"), 12))
    drawn(data / "valid", dict.fromkeys(("bars", "disc"), 3), seed=50)
    (data / "train" / "disc" / "torn.png").write_bytes(b"\x89PNG\r\n")
    config.write_text(f'backbone = "{NET}"\nstrategy = "scratch"\nepochs = 9\nsize = 40\n')
    arguments = ["finetune", data, "--out", tmp_path / "run", "--config", config]
    done = cli(*arguments, "--epochs", "1", "--size", "32", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["run"] == str(tmp_path / "run")
    assert found["seconds"] > 0
    assert {"accuracy", "macro_f1", "n"} <= set(found["metrics"]["validation"])
    assert found["metrics"]["test"] is None
    assert (found["strategy"], found["backbone"]) == ("scratch", NET)
    assert found["weights_origin"]["source"] == "random initialisation"
    assert [skipped["path"] for skipped in found["skipped_files"]] == ["train/disc/torn.png"]
    assert found["skipped_files"][0]["reason"]
    assert any("No test split" in text for text in found["warnings"])
    assert "No test split" in done.stderr
    assert "torn.png" in done.stderr
    record = read_run(tmp_path / "run")
    assert (record.config.epochs, record.config.size) == (1, 32)  # the command line goes first
    assert len(record.data.skipped_files) == 1

    done = cli(*arguments)
    assert done.returncode == 1
    assert "holds a finished run" in done.stderr
    assert "Traceback" not in done.stderr
    done = cli("train", *arguments[1:], "--epochs", "1", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert "there is no test split" in done.stderr
    assert "validation" in done.stdout


# --- what is refused --------------------------------------------------------------------------

PROBE: dict[str, Any] = {"strategy": "probe", "epochs": None}


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"resume": True, "overwrite": True}, UsageError, "--resume and --overwrite contradict"),
        ({"weights": "w.pth"}, UsageError, "--strategy scratch does not use --weights"),
        (PROBE | {"weights": "none"}, UsageError, "needs pretrained weights"),
        (PROBE | {"epochs": 2}, UsageError, "--strategy probe trains no epochs"),
        ({"size": 20}, UsageError, "--size 20 is not possible"),
        ({"epochs": 0}, UsageError, "--epochs 0 is not possible"),
        ({"backbone": "squeezenet"}, UnknownNameError, "did you mean squeezenet1_"),
        (PROBE | {"weights": "gone.pth"}, WeightsError, "No weights file at"),
        ({"labels": "gone.csv"}, DataError, "Cannot read labels file"),
    ],
)
def test_refusals_leave_no_folder(
    changes: dict[str, Any],
    kind: type[EdgetlError],
    message: str,
    shapes: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(kind, match=message) as got:
        finetune(shapes, tmp_path / "run", **changes)
    assert got.value.fix
    assert not (tmp_path / "run").exists()


def test_no_data_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No data folder at"):
        finetune(tmp_path / "gone", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "has no option 'epoch'"),
        ('strategy = "best"', "strategy"),
        ('seed = "big"', "seed"),
        ("size = ", "options.toml"),
    ],
)
def test_a_config_file_with_a_mistake(text: str, message: str, tmp_path: Path) -> None:
    from edgetl.cli.options import from_file

    path = tmp_path / "options.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as got:
        from_file(FinetuneOptions, path)
    assert str(path) in got.value.message
    with pytest.raises(UsageError, match="Cannot read --config"):
        from_file(FinetuneOptions, tmp_path / "gone.toml")


def test_photos_on_which_the_weights_overflow_are_named(
    weights_file: MakeWeights, tmp_path: Path, single: None
) -> None:
    """Finite weights, so large that bright photos give infinity: no traceback, no shipped NaN."""
    import safetensors.torch

    tensors = safetensors.torch.load_file(weights_file(NET))
    tensors["features.0.weight"].fill_(3e37)
    safetensors.torch.save_file(tensors, tmp_path / "huge.safetensors")
    rng = np.random.default_rng(0)
    for label, level in (("dark", 0), ("bright", 240)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for index in range(4):
            noise = rng.integers(level, level + 15, (8, 8, 3), np.uint8)
            picture = Image.fromarray(noise).resize((48, 48))
            picture.save(tmp_path / "photos" / label / f"{index}.png")
    with pytest.raises(TrainingError, match="The network's output is NaN or infinity") as got:
        finetune(
            tmp_path / "photos",
            tmp_path / "run",
            strategy="probe",
            epochs=None,
            weights=tmp_path / "huge.safetensors",
        )
    assert re.search(r"photos: bright/\d\.png, bright/", got.value.message)
    assert "dark/" not in got.value.message
    assert "--weights" in got.value.fix


def test_a_loss_of_nan_leaves_a_run_that_can_go_on(
    options: dict[str, Any],
    whole: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    single: None,
) -> None:
    from edgetl.train.loop import Trainer

    step = Trainer.train_step

    def spoiling(self: Trainer, images: Any, truth: Any) -> float:
        return step(self, images.float() * float("nan") if self.step == 3 else images, truth)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", spoiling)
        with pytest.raises(TrainingError, match="The loss in epoch 2 is NaN or infinity") as got:
            edgetl.finetune(out=tmp_path / "run", **options)
    assert len(re.findall(r"(?:bars|disc|square)/\d\d\.png", got.value.message)) >= 24
    assert "keeps the last whole epoch" in got.value.fix
    edgetl.finetune(out=tmp_path / "run", resume=True, **options)
    assert outcome(tmp_path / "run") == whole


# --- resuming ---------------------------------------------------------------------------------

KILLER = """
import importlib, os, signal, sys
import edgetl
import edgetl.train.finetune
where, count, options = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3])
module, _, path = where.partition(":")
owner = importlib.import_module(module)
*parents, name = path.split(".")
for parent in parents:
    owner = getattr(owner, parent)
real, calls = getattr(owner, name), 0

def killing(*args, **kwargs):
    global calls
    calls += 1
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)

setattr(owner, name, killing)
edgetl.finetune(**options)
"""


def killed(where: str, count: int, options: dict[str, Any]) -> None:
    """Train in another process that is killed when it calls `where` for the `count`-th time."""
    command = [sys.executable, "-c", KILLER, where, str(count), repr(options)]
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def outcome(run: Path) -> dict[str, Any]:
    """All that a run says but when and how fast."""
    record = json.loads((run / "run.json").read_text())
    for key in ("created_utc", "seconds", "timings_s"):
        del record[key]
    for stage in record["stages"]:
        del stage["seconds"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"], row["images_per_s"]
    return {
        "files": {p.name for p in run.iterdir()},
        "model": (run / "model.safetensors").read_bytes(),
        "photos": (run / "data.jsonl").read_bytes(),
        "rows": rows,
        "record": record,
    }


@pytest.fixture(scope="module")
def options(shapes: Path, weights_file: MakeWeights) -> dict[str, Any]:
    return {
        "data": str(shapes),
        "backbone": NET,
        "weights": str(weights_file(NET)),
        "strategy": "finetune",
        "epochs": 3,
        "size": 48,
    }


@pytest.fixture(scope="module")
def whole(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of an uninterrupted run."""
    import torch

    out, threads = tmp_path_factory.mktemp("whole") / "run", torch.get_num_threads()
    torch.set_num_threads(1)
    edgetl.finetune(out=out, **options)
    torch.set_num_threads(threads)
    return outcome(out)


# Two steps an epoch; fsync is called for run.json, data.jsonl, metrics.jsonl, the checkpoint.
MOMENTS = {
    "before run.json": ("edgetl.runs.folder:write_run", 1),
    "before data.jsonl": ("edgetl.train.finetune:write_bytes", 1),
    "before the probe": ("edgetl.train.tasks.classification:fit_probe", 1),
    "in the second epoch": ("edgetl.train.loop:Trainer.train_step", 4),
    "rows without checkpoint": ("edgetl.train.loop:Trainer.save", 1),
    "half a checkpoint": ("edgetl.files:os.fsync", 4),
    "before the report": ("edgetl.train.finetune:write_run_report", 1),
}


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_like_an_uninterrupted_one(
    options: dict[str, Any], whole: dict[str, Any], tmp_path: Path, single: None
) -> None:
    out = tmp_path / "run"
    for moment, (where, count) in MOMENTS.items():
        killed(where, count, options | {"out": str(out), "resume": True})
        if moment != "before run.json":
            assert read_run(out).status == "running", moment
            with pytest.raises(RunError, match="is unfinished"):
                edgetl.export(out, target="cpu", out=tmp_path / "x.edgetl")
            with pytest.raises(RunError, match="holds an unfinished run"):
                edgetl.finetune(out=out, **options)
        if moment == "half a checkpoint":
            assert list(out.glob(".checkpoint.safetensors.*.tmp"))
    created = read_run(out).created_utc
    record = edgetl.finetune(out=out, resume=True, **options)
    assert record.created_utc == created
    assert outcome(out) == whole
    assert whole["files"] == RESULTS


def test_a_run_killed_before_it_was_one_starts_anew_without_being_asked(
    options: dict[str, Any], whole: dict[str, Any], tmp_path: Path, single: None
) -> None:
    killed("edgetl.runs.folder:write_run", 1, options | {"out": str(tmp_path / "run")})
    assert (tmp_path / "run" / "cache" / "photos.npy").exists()
    edgetl.finetune(out=tmp_path / "run", **options)
    assert outcome(tmp_path / "run") == whole


def test_resume_names_the_options_that_differ(
    options: dict[str, Any], tmp_path: Path, interrupted: Path
) -> None:
    with pytest.raises(RunError, match="was started with other options") as got:
        edgetl.finetune(out=interrupted, resume=True, **options | {"size": 56, "flip": False})
    assert "size: 48 before, 56 now" in got.value.message
    assert "flip: True before, False now" in got.value.message


@pytest.fixture
def interrupted(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, single: None
) -> Path:
    """A run that Ctrl-C ended in its second epoch."""
    from edgetl.train.loop import Trainer

    step = Trainer.train_step

    def interrupting(self: Trainer, *arguments: Any) -> float:
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupting)
        with pytest.raises(KeyboardInterrupt):
            edgetl.finetune(out=tmp_path / "run", **options)
    return tmp_path / "run"


def test_ctrl_c_can_be_resumed(
    options: dict[str, Any], whole: dict[str, Any], interrupted: Path
) -> None:
    assert not list(interrupted.glob(".*"))
    edgetl.finetune(out=interrupted, resume=True, **options)
    assert outcome(interrupted) == whole


def test_an_unfinished_run_can_be_overwritten(
    options: dict[str, Any], whole: dict[str, Any], interrupted: Path
) -> None:
    edgetl.finetune(out=interrupted, overwrite=True, **options)
    assert outcome(interrupted) == whole


def test_other_photos_or_weights_cannot_resume_a_run(
    options: dict[str, Any],
    *,
    shapes: Path,
    weights_file: MakeWeights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    single: None,
) -> None:
    data, weights = tmp_path / "photos", tmp_path / "w.safetensors"
    shutil.copytree(shapes, data)
    shutil.copy(weights_file(NET), weights)
    mine = options | {"data": data, "weights": weights, "out": tmp_path / "run"}
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "write_run_report", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            edgetl.finetune(**mine)
    shutil.copy(weights_file(NET, classes=5), weights)
    with pytest.raises(WeightsError, match="not those that the run was started with"):
        edgetl.finetune(**mine, resume=True)
    shutil.copy(weights_file(NET), weights)
    (data / "disc" / "00.png").unlink()
    with pytest.raises(DataError, match="not those that the run was started with"):
        edgetl.finetune(**mine, resume=True)
    shutil.copy(shapes / "disc" / "00.png", data / "disc" / "00.png")
    assert edgetl.finetune(**mine, resume=True).status == "finished"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_another_number_of_threads_is_said(
    options: dict[str, Any], interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from edgetl.train import finetune as verb

    said: list[str] = []
    # At the logger itself: what other libraries do to logging in this process is not the point.
    monkeypatch.setattr(verb.log, "warning", lambda text, *values: said.append(text % values))
    torch.set_num_threads(2)
    edgetl.finetune(out=interrupted, resume=True, **options)
    assert any("was started with 1 threads and goes on with 2" in text for text in said), said


def test_a_disk_that_fills_up_at_a_checkpoint(
    options: dict[str, Any], whole: dict[str, Any], tmp_path: Path, single: None
) -> None:
    out, limits = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"Cannot write .*checkpoint\.safetensors"):
            edgetl.finetune(out=out, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(out.glob("*checkpoint*"))
    assert not list(out.glob(".*"))
    edgetl.finetune(out=out, resume=True, **options)
    assert outcome(out) == whole


def test_two_processes_do_not_share_a_folder(options: dict[str, Any], tmp_path: Path) -> None:
    from edgetl.runs.folder import locked

    with locked(tmp_path / "run"), pytest.raises(RunError, match="Another process is training"):
        edgetl.finetune(out=tmp_path / "run", **options)


# --- real photos ------------------------------------------------------------------------------


def test_a_probe_on_real_photos(shared: Path, tmp_path: Path) -> None:
    """A quarter of three classes that look alike; a head on random features would guess."""
    for split, count in (("train", 20), ("validation", 8), ("test", 8)):
        for label in ("dress", "pants", "shoes"):
            source = sorted((shared / "data" / "clothing" / split / label).iterdir())
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            for photo in source[:count]:
                (tmp_path / "photos" / split / label / photo.name).symlink_to(photo)
    record = edgetl.finetune(tmp_path / "photos", out=tmp_path / "run", strategy="probe", size=128)
    assert "installed package efficientnet_lite0" in record.weights_origin.source
    assert record.validation is not None
    assert record.validation.metrics["accuracy"] >= 0.85
    assert record.input.shape == (128, 128, 3)
