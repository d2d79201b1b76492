"""`edgetl weights` and `edgetl backbones` as a user runs them."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from edgetl.errors import WeightsError
from edgetl.train.backbones import build_network, find_backbone
from edgetl.train.backbones.timm import find
from edgetl.train.weights import find_weights, load_weights, store

NAME = "efficientnet_lite0"
Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_weights_go_to_a_folder_and_are_checked_there(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stick = tmp_path / "stick"
    (row,) = json.loads(cli("weights", "fetch", NAME, "--to", str(stick), "--json").stdout)
    path = stick / row["file"]
    assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setenv("EDGETL_WEIGHTS", str(stick))
    assert {each.backbone: each.path for each in store.here()}[NAME] == str(path)
    assert [each.state for each in store.verified(stick)] == ["whole"]
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    done = cli("weights", "verify", str(stick))
    assert done.returncode == 1
    assert f"{path.name} is damaged" in done.stderr
    path.unlink()
    assert [each.state for each in store.verified(stick)] == ["missing"]
    store.collect(NAME, stick)
    assert [each.state for each in store.verified(stick)] == ["whole"]


@pytest.mark.parametrize("what", [b"{", b'[{"file": 3}]', b"\xff"])
def test_a_damaged_listing_is_refused(tmp_path: Path, what: bytes) -> None:
    (tmp_path / "weights.json").write_bytes(what)
    with pytest.raises(WeightsError, match=r"weights\.json is damaged"):
        store.verified(tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub of this machine, and caches of nobody's: files under the paths that timm's have."""
    home = tmp_path / "hub"
    home.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(home))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    yield home
    server.shutdown()
    thread.join()
    server.server_close()


def test_weights_of_timm_are_fetched_from_its_hub(cli: Cli, hub: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    find.cache_clear()  # it holds the address of another hub
    name = "timm/lcnet_050.ra2_in1k"
    at = hub / "timm" / "lcnet_050.ra2_in1k" / "resolve" / "main" / "model.safetensors"
    at.parent.mkdir(parents=True)
    state = build_network(name, 3, "logits", seed=3).body.state_dict()
    state |= {"classifier.weight": torch.zeros(1000, 1280), "classifier.bias": torch.zeros(1000)}
    safetensors.torch.save_file(state, at)
    done = cli("weights", "fetch", "timm/lcnet_050", "--to", str(tmp_path / "stick"), "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["backbone"], row["file"]) == (name, "lcnet_050.ra2_in1k.safetensors")
    assert row["licence"] == "apache-2.0"
    info, model = find_backbone(name), build_network(name, 3, "logits", seed=0)
    origin = load_weights(model, info, find_weights(info, "imagenet"))
    assert origin.source == "timm timm/lcnet_050.ra2_in1k, fetched"
    assert origin.licence == "apache-2.0"
    assert torch.equal(model.body.state_dict()["conv_stem.weight"], state["conv_stem.weight"])


def test_backbones_are_filtered(cli: Cli) -> None:
    words = ("backbones", "--source", "torchvision", "--max-params", "6", "--max-gflops", "0.4")
    few = {row["name"]: row for row in json.loads(cli(*words, "--json").stdout)}
    assert {"mobilenet_v2", "efficientnet_b0"} <= set(few)
    assert all(row["parameters"] <= 6e6 and row["gflops"] <= 0.4 for row in few.values())
    local = cli("backbones", "--local", "--source", "installed").stdout
    assert NAME in local
    assert "to fetch" not in local


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("backbones", "--source", "tensorflow"), "choose installed or torchvision or timm"),
        (("finetune", "sample:nope", "--out", "r"), "Unknown sample 'nope'"),
    ],
)
def test_what_is_not_there_is_refused(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli(*words)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
