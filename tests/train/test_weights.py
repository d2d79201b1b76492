"""Starting weights: files, EDGETL_WEIGHTS, torchvision's enum over HTTP, and what is refused."""

from __future__ import annotations

import hashlib
import http.server
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision

from edgetl.errors import WeightsError
from edgetl.train.backbones import Classifier, all_backbones, build_classifier
from edgetl.train.weights import load_weights, read_tensors, restore_classifier, save_classifier

NET = "squeezenet1_1"
MakeWeights = Callable[..., Path]


@pytest.fixture
def model() -> Classifier:
    return build_classifier(NET, 3, seed=0)


def body_equals(model: Classifier, path: Path) -> bool:
    given = read_tensors(path)
    return all(torch.equal(given[k], v) for k, v in model.body.state_dict().items())


def test_none_leaves_the_network_alone(model: Classifier) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert load_weights(model, NET, "none").source == "random initialisation"
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("classes", [1000, 7])
def test_a_file_fills_the_body(
    model: Classifier, weights_file: MakeWeights, suffix: str, classes: int
) -> None:
    path = weights_file(NET, suffix, classes=classes)
    head = model.head.weight.clone()
    origin = load_weights(model, NET, str(path))
    assert body_equals(model, path)
    assert torch.equal(model.head.weight, head)
    assert origin.source == path.name
    assert origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "not stated" in origin.licence


def test_a_licence_in_the_file_is_reported(
    model: Classifier, weights_file: MakeWeights, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    tensors = read_tensors(weights_file(NET))
    safetensors.torch.save_file(tensors, path, metadata={"license": "CC0-1.0"})
    assert load_weights(model, NET, str(path)).licence == "CC0-1.0"


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_wrapped_state_dict_is_unwrapped(
    model: Classifier, weights_file: MakeWeights, tmp_path: Path, key: str
) -> None:
    path = tmp_path / "w.pth"
    torch.save({key: read_tensors(weights_file(NET)), "epoch": 3}, path)
    load_weights(model, NET, str(path))
    assert body_equals(model, weights_file(NET))


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_runs_nothing(
    model: Classifier, tmp_path: Path, how: str
) -> None:
    path, victim = tmp_path / "w.pth", tmp_path / "victim"
    if how == "torch":
        torch.save({"w": Malicious(victim)}, path)
    else:
        path.write_bytes(pickle.dumps({"w": Malicious(victim)}))
    with pytest.raises(WeightsError, match="Cannot read weights"):
        load_weights(model, NET, str(path))
    assert not victim.exists()


def test_mismatches_are_listed(
    model: Classifier, weights_file: MakeWeights, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    tensors = read_tensors(weights_file(NET))
    tensors["surplus.weight"] = torch.zeros(1)
    del tensors["features.0.bias"]
    tensors["features.0.weight"] = torch.zeros(64, 3, 5, 5)
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(WeightsError) as got:
        load_weights(model, NET, str(path))
    for part in (
        "features.0.bias is missing",
        "surplus.weight is not part of the network",
        "features.0.weight is (64, 3, 5, 5), wanted (64, 3, 3, 3)",
    ):
        assert part in got.value.message


def test_another_backbone_is_refused_in_one_line(
    model: Classifier, weights_file: MakeWeights
) -> None:
    with pytest.raises(WeightsError, match=r"do not fit the backbone: .*; and \d+ more") as got:
        load_weights(model, NET, str(weights_file("shufflenet_v2_x0_5")))
    assert "\n" not in str(got.value)
    assert "--backbone" in got.value.fix


def test_refused_files(model: Classifier, weights_file: MakeWeights, tmp_path: Path) -> None:
    whole = weights_file(NET).read_bytes()
    cut, cut_pth, odd, list_pth = (
        tmp_path / n for n in ("c.safetensors", "c.pth", "w.ckpt", "l.pth")
    )
    cut.write_bytes(whole[: len(whole) // 2])
    cut_pth.write_bytes(weights_file(NET, ".pth").read_bytes()[:5000])
    odd.write_bytes(whole)
    torch.save([1, 2], list_pth)
    for path, message in (
        (cut, "Cannot read weights"),
        (cut_pth, "Cannot read weights"),
        (odd, "unknown suffix '.ckpt'"),
        (list_pth, "holds no state dict of tensors"),
        (tmp_path / "absent.pth", "No weights file at"),
        (tmp_path, "No weights file at"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_weights(model, NET, str(path))


# --- EDGETL_WEIGHTS ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "weights"
    home.mkdir()
    monkeypatch.setenv("EDGETL_WEIGHTS", str(home))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return home


def test_the_named_folder_is_searched_first(
    model: Classifier, weights_file: MakeWeights, folder: Path
) -> None:
    path = folder / f"{NET}-mine.safetensors"
    path.write_bytes(weights_file(NET).read_bytes())
    (folder / "squeezenet1_0.safetensors").write_bytes(b"another backbone's")
    origin = load_weights(model, NET, "imagenet")
    assert body_equals(model, path)
    assert "EDGETL_WEIGHTS" in origin.source
    assert "ImageNet" in origin.licence


def test_a_hash_in_the_name_is_checked(
    model: Classifier, weights_file: MakeWeights, folder: Path
) -> None:
    data = weights_file(NET, ".pth").read_bytes()
    official = Path(all_backbones()[NET].url).name
    for name in (official, f"{NET}-0123abcd.pth"):
        (folder / name).write_bytes(data)
        with pytest.raises(WeightsError, match=rf"{name} is damaged: its SHA-256"):
            load_weights(model, NET, "imagenet")
        (folder / name).unlink()
    good = f"{NET}-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    (folder / good).write_bytes(data)
    load_weights(model, NET, "imagenet")
    assert body_equals(model, folder / good)


def test_an_ambiguous_folder_is_refused(
    model: Classifier, weights_file: MakeWeights, folder: Path
) -> None:
    for name in (f"{NET}-a.safetensors", f"{NET}.pth"):
        (folder / name).write_bytes(b"")
    with pytest.raises(WeightsError, match=rf"several weights.*{NET}-a.safetensors, {NET}.pth"):
        load_weights(model, NET, "imagenet")


def test_a_folder_that_is_none_is_refused(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGETL_WEIGHTS", str(tmp_path / "gone"))
    with pytest.raises(WeightsError, match="which is no folder"):
        load_weights(model, NET, "imagenet")


# --- torchvision over HTTP --------------------------------------------------------------------


class Server:
    """Serves `files` by name on this machine, and counts what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/")
                outer.asked.append(name)
                data = outer.files.get(name)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("EDGETL_WEIGHTS", raising=False)
    running = Server()
    yield running
    running.close()


def publish(server: Server, monkeypatch: pytest.MonkeyPatch, data: bytes, stated: str = "") -> str:
    """Let torchvision's enum point to `data` on the server; returns the file's name."""
    name = f"{NET}-{stated or hashlib.sha256(data).hexdigest()[:8]}.pth"
    server.files[name] = data
    value = torchvision.models.get_model_weights(NET).DEFAULT.value
    monkeypatch.setattr(value, "url", f"{server.url}/{name}")
    return name


def test_imagenet_is_fetched_once_and_checked(
    model: Classifier,
    weights_file: MakeWeights,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    path = weights_file(NET, ".pth")
    name = publish(server, monkeypatch, path.read_bytes())
    for _ in range(2):
        origin = load_weights(model, NET, "imagenet")
        assert body_equals(model, path)
        assert origin.source == "torchvision SqueezeNet1_1_Weights.IMAGENET1K_V1"
        assert origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert server.asked == [name]
    cached = tmp_path / "torch" / "hub" / "checkpoints" / name
    cached.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="is damaged: its SHA-256 does not begin with"):
        load_weights(model, NET, "imagenet")


def test_a_wrong_hash_is_refused_and_not_kept(
    model: Classifier,
    weights_file: MakeWeights,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    publish(server, monkeypatch, weights_file(NET, ".pth").read_bytes(), stated="deadbeef")
    with pytest.raises(WeightsError, match="invalid hash value"):
        load_weights(model, NET, "imagenet")
    assert not list((tmp_path / "torch" / "hub" / "checkpoints").iterdir())


def test_a_malicious_download_runs_nothing(
    model: Classifier, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source, victim = tmp_path / "w.pth", tmp_path / "victim"
    torch.save({"w": Malicious(victim)}, source)
    publish(server, monkeypatch, source.read_bytes())
    with pytest.raises(WeightsError, match="Cannot fetch the ImageNet weights"):
        load_weights(model, NET, "imagenet")
    assert not victim.exists()


@pytest.mark.parametrize("how", ["absent", "down"])
def test_without_the_file_it_says_what_to_fetch_and_where_to_put_it(
    model: Classifier,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    how: str,
) -> None:
    name = publish(server, monkeypatch, b"")
    server.files.clear()
    if how == "down":
        value = torchvision.models.get_model_weights(NET).DEFAULT.value
        monkeypatch.setattr(value, "url", f"http://127.0.0.1:1/{name}")
    with pytest.raises(WeightsError, match=f"Cannot fetch the ImageNet weights of {NET}") as got:
        load_weights(model, NET, "imagenet")
    for part in (name, str(tmp_path / "torch" / "hub" / "checkpoints"), "EDGETL_WEIGHTS"):
        assert part in got.value.fix


# --- a run's own weights ----------------------------------------------------------------------


def test_a_classifier_comes_back_as_it_was_saved(model: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_classifier(model, path, {"backbone": NET})
    other = build_classifier(NET, 3, seed=9)
    restore_classifier(other, path)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(WeightsError, match="does not hold a head for 4 classes"):
        restore_classifier(build_classifier(NET, 4, seed=0), path)
