"""Samples: made once, whole, and taken wherever a data folder is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetl.data.found import data_folder
from edgetl.data.samples import SAMPLES, Sample, find_sample, sample_folder, write_sample
from edgetl.data.scan import scan
from edgetl.errors import StorageError, UnknownNameError, UsageError

Cli = Callable[..., subprocess.CompletedProcess[str]]
# As a network that lets nothing out: every socket but those of this machine's processes fails.
BLOCKED = """
import socket, sys
class Blocked(socket.socket):
    def connect(self, where):
        raise OSError("blocked")
socket.socket = Blocked
socket.create_connection = socket.getaddrinfo = lambda *_, **__: (_ for _ in ()).throw(
    OSError("blocked"))
sys.argv[0] = "edgetl"
from edgetl.cli import main
main()
"""


@pytest.mark.parametrize(
    "name",
    [n if n == "digits" else pytest.param(n, marks=pytest.mark.slow) for n in SAMPLES],
)
def test_it_holds_what_it_says(name: str) -> None:
    folder = sample_folder(f"sample:{name}")
    found = scan(folder)
    labels = {photo.label for photo in found.photos}
    assert (len(found.photos), len(labels)) == (SAMPLES[name].photos, SAMPLES[name].classes)
    assert not found.skipped
    assert data_folder(f"sample:{name}") == folder.resolve()
    before = folder.stat().st_mtime_ns
    assert sample_folder(f"sample:{name}").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_second_camera_sees_other_colours_and_darker_corners() -> None:
    means = []
    for name in ("sample:parts", "sample:parts-camera2"):
        files = sorted(sample_folder(name).glob("*/00[0-2]0.jpg"))
        photos = np.stack([np.asarray(Image.open(path), np.float64) for path in files])
        assert photos.shape[1:] == (224, 224, 3)
        corner = photos[:, :30, :30].mean() / photos[:, 97:127, 97:127].mean()
        means.append((photos[..., 2].mean() / photos[..., 0].mean(), corner))
    (blue, corner), (bluer, darker) = means
    assert bluer > 1.15 * blue
    assert darker < corner


def test_it_is_drawn_the_same_again(tmp_path: Path) -> None:
    small = Sample("", 0, 0, SAMPLES["digits"].draw)
    for name in ("one", "two"):
        write_sample(small, tmp_path / name)
    one, two = (sorted((tmp_path / n).rglob("*.png")) for n in ("one", "two"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "a").mkdir()
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        write_sample(Sample("", 0, 0, broken), tmp_path / "new")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="is there already"):
        write_sample(SAMPLES["digits"], tmp_path)


def test_an_unknown_one_gets_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown sample 'part': did you mean parts"):
        find_sample("sample:part")


def test_they_are_listed_and_written(cli: Cli, tmp_path: Path) -> None:
    listed = json.loads(cli("samples", "--json").stdout)
    assert [row["name"] for row in listed] == [f"sample:{name}" for name in SAMPLES]
    done = cli("samples", "digits", "--out", str(tmp_path / "photos"))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "photos").glob("*/*.png"))) == 1797
    assert cli("samples", "digits").returncode == 1


@pytest.mark.slow
def test_a_network_is_not_needed(tmp_path: Path) -> None:
    """From installed weights and drawn photos to a run, with every socket blocked."""
    words = ["finetune", "sample:parts", "--out", str(tmp_path / "run"), "--strategy", "probe"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *words, "--size", "64", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["backbone"] == "efficientnet_lite0"
    assert "installed package" in document["weights_origin"]["source"]
    assert document["metrics"]["test"]["accuracy"] > 0.9
