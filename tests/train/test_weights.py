"""Starting weights: files, EDGETL_WEIGHTS, torchvision's enum over HTTP, and what is refused."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.server
import json
import os
import pickle
import shlex
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from edgetl.errors import WeightsError
from edgetl.spec import WeightsOrigin
from edgetl.train import weights as starting
from edgetl.train.backbones import BackboneInfo, Network, all_backbones, find_backbone
from edgetl.train.weights import find_weights, restore_network, save_network
from edgetl.train.weights.fetch import fetch
from edgetl.train.weights.state_dicts import read_tensors
from tests.helpers import build_classifier

NET = "squeezenet1_1"
MakeWeights = Callable[..., Path]


def load_weights(model: Network, backbone: str | BackboneInfo, weights: str) -> WeightsOrigin:
    info = find_backbone(backbone) if isinstance(backbone, str) else backbone
    return starting.load_weights(model, info, find_weights(info, weights))


@pytest.fixture
def model() -> Network:
    return build_classifier(NET, 3, seed=0)


def body_equals(model: Network, path: Path) -> bool:
    given, _ = read_tensors(path)
    return all(torch.equal(given[k], v) for k, v in model.body.state_dict().items())


def test_none_leaves_the_network_alone(model: Network) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert load_weights(model, NET, "none").source == "random initialisation"
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("classes", [1000, 7])
def test_a_file_fills_the_body(
    model: Network, weights_file: MakeWeights, suffix: str, classes: int
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
    model: Network, weights_file: MakeWeights, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    tensors, _ = read_tensors(weights_file(NET))
    safetensors.torch.save_file(tensors, path, metadata={"license": "CC0-1.0"})
    assert load_weights(model, NET, str(path)).licence == "CC0-1.0"


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize("bad", [NAN, INFINITY, -INFINITY])
def test_values_that_are_no_numbers_are_named_with_their_count(
    model: Network, weights_file: MakeWeights, tmp_path: Path, bad: float
) -> None:
    path, before = tmp_path / "w.safetensors", model.body.state_dict()["features.0.bias"].clone()
    tensors, _ = read_tensors(weights_file(NET))
    tensors["features.0.weight"][:2, 0, 0, 0] = bad
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(WeightsError, match="NaN or infinity in 1 of 50 tensors") as got:
        load_weights(model, NET, str(path))
    assert "features.0.weight (2 of its values)" in got.value.message
    assert torch.equal(model.body.state_dict()["features.0.bias"], before)


def test_infinity_in_a_head_that_is_not_used_does_not_matter(
    model: Network, weights_file: MakeWeights, tmp_path: Path
) -> None:
    tensors, _ = read_tensors(weights_file(NET))
    tensors["classifier.1.weight"][0] = INFINITY
    safetensors.torch.save_file(tensors, tmp_path / "w.safetensors")
    load_weights(model, NET, str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_become_float32_and_a_note_says_so(
    model: Network, weights_file: MakeWeights, tmp_path: Path, kind: torch.dtype
) -> None:
    tensors, _ = read_tensors(weights_file(NET))
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({k: v.to(kind) for k, v in tensors.items()}, path)
    notes = load_weights(model, NET, str(path)).notes
    name = str(kind).removeprefix("torch.")
    assert notes == (f"w.safetensors: 50 tensors of {name} were converted to float32",)
    mine = model.body.state_dict()["features.0.weight"]
    assert mine.dtype == torch.float32
    assert torch.equal(mine, tensors["features.0.weight"].to(kind).float())


def test_integers_are_not_taken_for_weights(
    model: Network, weights_file: MakeWeights, tmp_path: Path
) -> None:
    tensors, _ = read_tensors(weights_file(NET))
    tensors["features.0.weight"] = tensors["features.0.weight"].to(torch.int8)
    safetensors.torch.save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"holds torch\.int8, wanted floating point"):
        load_weights(model, NET, str(tmp_path / "w.safetensors"))


# --- what the head of a file was --------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "classes"),
    [
        ({"classifier.1.weight": (7, 512, 1, 1), "classifier.1.bias": (7,)}, 7),
        ({"classifier.weight": (5, 512), "classifier.bias": (5,)}, 5),  # net.classifier = Linear()
        ({"classifier.1.0.weight": (64, 512), "classifier.1.3.weight": (4, 64)}, 4),
    ],
)
def test_another_head_is_left_out_with_a_note(
    model: Network, *, weights_file: MakeWeights, tmp_path: Path, head: dict[str, Any],
    classes: int,
) -> None:  # fmt: skip
    path = tmp_path / "mine.pth"
    tensors, _ = read_tensors(weights_file(NET))
    body = {k: v for k, v in tensors.items() if not k.startswith("classifier")}
    torch.save(body | {k: torch.zeros(shape) for k, shape in head.items()}, path)
    (note,) = load_weights(model, NET, str(path)).notes
    assert (
        note == f"mine.pth: its own head, of {classes} classes, is not used: a new one is trained"
    )
    assert body_equals(model, weights_file(NET))


def test_the_head_of_imagenet_is_no_news(model: Network, weights_file: MakeWeights) -> None:
    assert load_weights(model, NET, str(weights_file(NET))).notes == ()


# --- files of other training programs ---------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        ("state_dict",), ("model",), ("net",), ("ema",), ("model_ema",), ("model", "state_dict"),
        ("checkpoint", "net"), ("generator",),
    ],
)  # fmt: skip
def test_a_wrapped_state_dict_is_unwrapped(
    model: Network, weights_file: MakeWeights, tmp_path: Path, path: tuple[str, ...]
) -> None:
    held: Any = read_tensors(weights_file(NET))[0]
    for key in reversed(path):
        held = {key: held, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}
    torch.save(held, tmp_path / "w.pth")
    load_weights(model, NET, str(tmp_path / "w.pth"))
    assert body_equals(model, weights_file(NET))


def test_running_averages_are_preferred_and_it_is_said(
    model: Network, weights_file: MakeWeights, tmp_path: Path
) -> None:
    mine, _ = read_tensors(weights_file(NET))
    other = {key: torch.zeros_like(value) for key, value in mine.items()}
    averaged = {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in mine.items()}
    torch.save({"model": other, "model_ema": averaged, "epoch": 1}, tmp_path / "w.pth")
    notes = load_weights(model, NET, str(tmp_path / "w.pth")).notes
    assert body_equals(model, weights_file(NET))
    assert notes == (
        "w.pth: the weights under 'model_ema' are used (also there: 'model')",
        "w.pth: the prefix 'module.' was taken off 52 names; not used: n_averaged",
    )


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "backbone.", "_orig_mod.", "module._orig_mod.", "net.0.model."]
)
def test_a_prefix_of_all_names_is_taken_off_and_said_once(
    model: Network, weights_file: MakeWeights, tmp_path: Path, prefix: str
) -> None:
    tensors, _ = read_tensors(weights_file(NET))
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({f"{prefix}{k}": v for k, v in tensors.items()}, path)
    notes = load_weights(model, NET, str(path)).notes
    assert body_equals(model, weights_file(NET))
    said = prefix.replace("_orig_mod.", "")
    assert [f"'{said}'" in note for note in notes] == ([True] if said else [])


def test_what_stands_beside_the_prefixed_network_is_named(
    model: Network, weights_file: MakeWeights, tmp_path: Path
) -> None:
    tensors, _ = read_tensors(weights_file(NET))
    held = {f"backbone.{k}": v for k, v in tensors.items() if not k.startswith("classifier")}
    held |= {"head.weight": torch.zeros(4, 512), "loss.weight": torch.zeros(4)}
    torch.save({"state_dict": held, "pytorch-lightning_version": "2.5"}, tmp_path / "last.ckpt")
    (note,) = load_weights(model, NET, str(tmp_path / "last.ckpt")).notes
    assert note == "last.ckpt: the prefix 'backbone.' was taken off 50 names; " + (
        "not used: head.weight, loss.weight"
    )
    held["backbone.surplus"] = torch.zeros(1)
    torch.save({"state_dict": held}, tmp_path / "last.ckpt")
    with pytest.raises(WeightsError, match="surplus is not part of the network"):
        load_weights(model, NET, str(tmp_path / "last.ckpt"))


@pytest.mark.parametrize("name", ["w.ckpt", "w.bin", "w.pth.tar", "weights"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_a_file_is_decides_not_its_name(
    model: Network, *, weights_file: MakeWeights, tmp_path: Path, suffix: str, name: str
) -> None:
    (tmp_path / name).write_bytes(weights_file(NET, suffix).read_bytes())
    load_weights(model, NET, str(tmp_path / name))
    assert body_equals(model, weights_file(NET))


class Holder:
    """Stands for a program's own class, which only that program can unpickle."""

    def __init__(self, model: Any) -> None:
        self.model = model


def pickled(kind: str, tensors: dict[str, Any]) -> tuple[Any, str]:
    """A checkpoint with an object in it, and what the error must call that."""
    if kind == "options":
        return {"model": tensors, "args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"
    if kind == "numpy scalar":
        return {"state_dict": tensors, "best": np.float64(0.9)}, "multiarray.scalar"
    network = torchvision.models.get_model(NET)
    network.load_state_dict(tensors)
    found = "torchvision.models.squeezenet.SqueezeNet"
    return (network, found) if kind == "network" else ({"model": network, "ema": None}, found)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["options", "numpy scalar", "network", "network in a checkpoint"])
def test_pickled_objects_are_named_with_a_command_that_makes_safetensors(
    model: Network, *, weights_file: MakeWeights, tmp_path: Path, kind: str, zipped: bool
) -> None:
    path = tmp_path / "it's mine.pth"
    value, name = pickled(kind, read_tensors(weights_file(NET))[0])
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=f"holds pickled objects, .*{name} for one") as got:
        load_weights(model, NET, str(path))
    assert "\x1b" not in str(got.value)
    assert "if you trust where it comes from" in got.value.fix
    if not zipped:
        return
    code, *paths = shlex.split(got.value.fix[got.value.fix.index("python -c ") :])[2:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["-c", *paths])
        exec(code, {})  # as `python -c` would, without waiting for torch again
    load_weights(model, NET, str(tmp_path / "it's mine.safetensors"))
    assert body_equals(model, weights_file(NET))


def test_a_class_of_another_program_is_named(model: Network, tmp_path: Path) -> None:
    torch.save({"model": Holder(torch.nn.Linear(2, 2))}, tmp_path / "best.pt")
    with pytest.raises(WeightsError, match=r"test_weights\.Holder for one"):
        load_weights(model, NET, str(tmp_path / "best.pt"))


def test_torchscript_is_named_with_the_way_out(model: Network, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/constants.pkl", b"")
    with pytest.raises(WeightsError, match="is a TorchScript program") as got:
        load_weights(model, NET, str(tmp_path / "w.pt"))
    assert "torch.jit.load" in got.value.fix


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_runs_nothing(
    model: Network, tmp_path: Path, how: str
) -> None:
    path, victim = tmp_path / "w.pth", tmp_path / "victim"
    if how == "torch":
        torch.save({"w": Malicious(victim)}, path)
    else:
        path.write_bytes(pickle.dumps({"w": Malicious(victim)}))
    with pytest.raises(WeightsError, match="Cannot read weights"):
        load_weights(model, NET, str(path))
    assert not victim.exists()


def test_mismatches_are_listed(model: Network, weights_file: MakeWeights, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    tensors, _ = read_tensors(weights_file(NET))
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


def test_another_backbone_is_refused_in_one_line(model: Network, weights_file: MakeWeights) -> None:
    with pytest.raises(WeightsError, match=r"do not fit the backbone: .*; and \d+ more") as got:
        load_weights(model, NET, str(weights_file("shufflenet_v2_x0_5")))
    assert "\n" not in str(got.value)
    assert "--backbone" in got.value.fix


def test_refused_files(model: Network, weights_file: MakeWeights, tmp_path: Path) -> None:
    whole = weights_file(NET).read_bytes()
    names = ("c.safetensors", "c.pth", "l.pth", "p.pth", "page.pth", "pointer.pth", "several.pth")
    cut, cut_pth, list_pth, plain, page, pointer, several = (tmp_path / name for name in names)
    cut.write_bytes(whole[: len(whole) // 2])
    cut_pth.write_bytes(weights_file(NET, ".pth").read_bytes()[:5000])
    torch.save([1, 2], list_pth)
    plain.write_bytes(pickle.dumps({"w": 1.0}, protocol=4))
    page.write_bytes(b"<!DOCTYPE html><title>Not found</title>")
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    torch.save({k: {"w": torch.zeros(1)} for k in ("student", "teacher")}, several)
    for path, message in (
        (cut, "Cannot read weights"),
        (cut_pth, "is cut off or damaged"),
        (list_pth, "holds no state dict of tensors"),
        (plain, "is damaged, or a pickle not of torch.save"),
        (page, "is a web page"),
        (pointer, "is a pointer of Git LFS"),
        (several, "holds several state dicts: student, teacher"),
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
    model: Network, weights_file: MakeWeights, folder: Path
) -> None:
    path = folder / f"{NET}-mine.safetensors"
    path.write_bytes(weights_file(NET).read_bytes())
    (folder / "squeezenet1_0.safetensors").write_bytes(b"another backbone's")
    origin = load_weights(model, NET, "imagenet")
    assert body_equals(model, path)
    assert "EDGETL_WEIGHTS" in origin.source
    assert "ask whoever made it" in origin.licence


def test_files_there_of_another_backbone_and_dates_in_names_are_told_apart(
    model: Network, weights_file: MakeWeights, folder: Path
) -> None:
    """timm's names begin with torchvision's, and eight digits may be a day."""
    data = weights_file(NET).read_bytes()
    other = f"{NET}.a1_in1k.safetensors"
    (folder / other).write_bytes(b"timm's")
    row = {
        "backbone": f"timm/{NET}.a1_in1k", "file": other, "sha256": "", "bytes": 6, "source": "",
        "licence": "",
    }  # fmt: skip
    (folder / "weights.json").write_text(json.dumps([row]))
    (folder / f"{NET}-20240131.safetensors").write_bytes(data)
    assert "20240131" in load_weights(model, NET, "imagenet").source


def test_a_hash_in_the_name_is_checked(
    model: Network, weights_file: MakeWeights, folder: Path
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
    model: Network, weights_file: MakeWeights, folder: Path
) -> None:
    for name in (f"{NET}-a.safetensors", f"{NET}.pth"):
        (folder / name).write_bytes(b"")
    with pytest.raises(WeightsError, match=rf"several weights.*{NET}-a.safetensors, {NET}.pth"):
        load_weights(model, NET, "imagenet")


def test_a_folder_that_is_none_is_refused(
    model: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        self.how = ""
        self.done = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/")
                outer.asked.append(name)
                data = outer.files.get(name)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                part = data or b""
                if outer.how in ("cut", "silent"):
                    part = part[:1000]
                self.wfile.write(part)
                if outer.how == "silent":
                    outer.done.wait(10)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def close(self) -> None:
        self.done.set()
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


def published(server: Server, data: bytes, stated: str = "") -> BackboneInfo:
    """The backbone as if its weights were `data`, on the server, with a hash in their name."""
    name = f"{NET}-{stated or hashlib.sha256(data).hexdigest()[:8]}.pth"
    server.files[name] = data
    return msgspec.structs.replace(find_backbone(NET), url=f"{server.url}/{name}")


def test_imagenet_is_fetched_once_and_checked(
    model: Network, weights_file: MakeWeights, server: Server, tmp_path: Path
) -> None:
    path = weights_file(NET, ".pth")
    info, said = published(server, path.read_bytes()), []
    for _ in range(2):
        origin = load_weights(model, info, "imagenet")
        assert body_equals(model, path)
        assert origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        said.append(origin.source)
    what = "torchvision SqueezeNet1_1_Weights.IMAGENET1K_V1"
    assert said == [f"{what}, fetched", f"{what}, found in torch's cache"]
    name = Path(info.url).name
    assert server.asked == [name]
    cached = tmp_path / "torch" / "hub" / "checkpoints" / name
    cached.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="is damaged: its SHA-256 does not begin with"):
        load_weights(model, info, "imagenet")


def test_a_malicious_download_runs_nothing(model: Network, server: Server, tmp_path: Path) -> None:
    source, victim = tmp_path / "w.pth", tmp_path / "victim"
    torch.save({"w": Malicious(victim)}, source)
    with pytest.raises(WeightsError, match="holds pickled objects"):
        load_weights(model, published(server, source.read_bytes()), "imagenet")
    assert not victim.exists()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("absent", "answers 404"),
        ("down", "cannot be reached: Connection refused"),
        ("another", "has the SHA-256 .*, which does not begin with deadbeef"),
        ("page", "answers with a web page"),
        ("cut", r"broke off after \d+ of \d+ bytes"),
        ("silent", "nothing came for 0.2 s"),
    ],
)
def test_what_is_not_the_file_is_refused_and_not_kept(
    weights_file: MakeWeights, server: Server, tmp_path: Path, how: str, why: str
) -> None:
    """It says what to fetch, where to put it, and which backbones need no network."""
    data = weights_file(NET, ".pth").read_bytes()
    page = b"<!DOCTYPE html><title>Log in</title>"
    info = published(
        server, page if how == "page" else data, "deadbeef" if how == "another" else ""
    )
    server.how = how
    if how == "absent":
        server.files.clear()
    elif how == "down":
        info = msgspec.structs.replace(info, url=f"http://127.0.0.1:1/{Path(info.url).name}")
    start = time.monotonic()
    with pytest.raises(
        WeightsError, match=f"Cannot fetch the ImageNet weights of {NET}.*{why}"
    ) as got:
        find_weights(info, "imagenet", stall_s=0.2)
    assert time.monotonic() - start < 5
    home = tmp_path / "torch" / "hub" / "checkpoints"
    for part in (Path(info.url).name, str(home), "EDGETL_WEIGHTS", "here are efficientnet_lite0"):
        assert part in got.value.fix
    assert not home.exists() or not list(home.iterdir())


def test_a_host_that_takes_no_connection_is_given_up_soon(tmp_path: Path) -> None:
    """A socket whose queue is full answers nothing, as a network does that drops packets."""
    with socket.socket() as deaf, contextlib.ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        start = time.monotonic()
        with pytest.raises(WeightsError, match=r"cannot be reached: (no connection|timed out)"):
            fetch(f"http://127.0.0.1:{deaf.getsockname()[1]}/w.pth", tmp_path / "w.pth")
        assert time.monotonic() - start < 4


# --- a run's own weights ----------------------------------------------------------------------


def test_a_classifier_comes_back_as_it_was_saved(model: Network, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_network(model, path, {"backbone": NET})
    other = build_classifier(NET, 3, seed=9)
    restore_network(other, path)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(WeightsError, match="does not hold the head of its task"):
        restore_network(build_classifier(NET, 4, seed=0), path)
