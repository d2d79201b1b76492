"""Fixtures of many tests: drawn photos, weights made on the fly, a trained run, small bundles."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageDraw

from edgetl.bundle import open_bundle, write_bundle
from edgetl.bundle.manifest import (
    BUNDLE_VERSION,
    Artifact,
    Calibration,
    Candidate,
    Manifest,
    Provenance,
)
from edgetl.engines import Options, find_engine
from edgetl.exporter.candidates import Built, build
from edgetl.exporter.context import BuildContext
from edgetl.exporter.golden import golden_members
from edgetl.exporter.onnx.checks import NORMALIZED
from edgetl.exporter.sources.base import ValidationSet
from edgetl.files import sha256_bytes
from edgetl.inputs.image import sized
from edgetl.options import FinetuneConfig
from edgetl.recipes import find_recipe
from edgetl.spec import Normalize, WeightsOrigin
from edgetl.tasks.base import Score, join
from edgetl.tasks.classification import Classification

SHARED = Path(__file__).resolve().parents[2] / "shared"
CLASSES = ("bars", "disc", "square")
PER_CLASS = 24
SIDE = 64
# Files that take minutes: they go first, so that no process waits at the end for one of them.
LONGEST = ("test_end_to_end", "test_demo", "test_plugins", "test_export", "test_export_whole")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def draw(label: str, seed: int) -> Image.Image:
    """A `SIDE` px photo: one bright shape of its class, anywhere, in any colour, on noise."""
    rng = np.random.default_rng([seed, CLASSES.index(label)])
    noise = rng.integers(0, 110, (SIDE // 4, SIDE // 4, 3), np.uint8)
    image = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pen, colour = ImageDraw.Draw(image), tuple(int(v) for v in rng.integers(150, 256, 3))
    radius = int(rng.integers(14, 20))
    x, y = (int(v) for v in rng.integers(radius + 6, SIDE - radius - 6, 2))
    if label == "disc":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif label == "square":
        pen.rectangle((x - radius, y - radius, x + radius, y + radius), outline=colour, width=5)
    else:
        for left in range(x - radius, x + radius, 8):
            pen.rectangle((left, y - radius, left + 3, y + radius), fill=colour)
    return image


def draw_folder(root: Path, counts: dict[str, int], *, seed: int = 0) -> Path:
    """Class folders of drawn photos: `counts` photos of each class."""
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for index in range(count):
            draw(label, seed + index).save(root / label / f"{index:02d}.png")
    return root


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files of other processes; nothing may be left in it."""
    made = tmp_path / "tmp"
    made.mkdir()
    yield made
    assert not list(made.glob("edgetl*"))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal, here and in what is started, also where SIGINT was ignored before.

    Programs that a script starts in the background, as some CI runners do, start so.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn photos in plain class folders, three classes of 24; do not write into it."""
    root = tmp_path_factory.mktemp("shapes")
    return draw_folder(root, dict.fromkeys(CLASSES, PER_CLASS))


@pytest.fixture(scope="session")
def drawn() -> Callable[..., Path]:
    """`draw_folder`, for tests that need a data set of their own."""
    return draw_folder


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a random torchvision state dict: `weights_file("mobilenet_v2", ".pth", classes=10)`."""
    import safetensors.torch
    import torch
    import torchvision

    home = tmp_path_factory.mktemp("weights")
    made: dict[Any, Path] = {}

    def make(backbone: str, suffix: str = ".safetensors", *, classes: int = 1000) -> Path:
        key = (backbone, suffix, classes)
        if key not in made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                model = torchvision.models.get_model(backbone, num_classes=classes)
            made[key] = home / f"{backbone}-random-{classes}{suffix}"
            if suffix == ".pth":
                torch.save(model.state_dict(), made[key])
            else:
                safetensors.torch.save_file(model.state_dict(), made[key])
        return made[key]

    return make


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: faster for tiny networks, and the same on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def single() -> Iterator[None]:
    """`one_thread` for a whole test."""
    with one_thread():
        yield


@pytest.fixture(scope="session")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the drawn photos, trained from scratch; do not write into it."""
    import edgetl

    out = tmp_path_factory.mktemp("runs") / "shapes"
    with one_thread():
        edgetl.finetune(
            shapes, out=out, backbone="squeezenet1_1", strategy="scratch", epochs=16, size=48
        )
    return out


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photos and weights beside the checkout; tests that need them are skipped without."""
    if not (SHARED / "data" / "clothing").is_dir():
        pytest.skip(f"no real photos at {SHARED}")
    return SHARED


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep measurements of tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGETL_CACHE", str(tmp_path_factory.getbasetemp() / "edgetl-cache"))
        yield


# --- a small untrained model, in every form that a bundle carries ------------------------------

CPU_RECIPES = ("ort-fp32", "ort-int8", "ov-fp32", "ov-bf16", "ov-int8")


def tiny_onnx() -> bytes:
    """A network of two convolutions: uint8 `(N, 32, 32, 3)` to logits of three classes."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    normalize, spread = Normalize(), (1, 3, 1, 1)
    weights = {
        "preprocess/mean": 255 * np.reshape(normalize.mean, spread),
        "preprocess/scale": 1 / (255 * np.reshape(normalize.std, spread)),
        "w1": 0.3 * rng.normal(size=(16, 3, 3, 3)),
        "b1": 0.1 * rng.normal(size=16),
        "w2": 0.15 * rng.normal(size=(32, 16, 3, 3)),
        "b2": 0.1 * rng.normal(size=32),
        "w3": rng.normal(size=(len(CLASSES), 32)),
        "b3": 0.1 * rng.normal(size=len(CLASSES)),
    }
    kernel = {"pads": [1, 1, 1, 1]}
    node = helper.make_node
    nodes = [
        node("Cast", ["images"], ["x0"], "preprocess/cast", to=TensorProto.FLOAT),
        node("Transpose", ["x0"], ["x1"], "preprocess/transpose", perm=[0, 3, 1, 2]),
        node("Sub", ["x1", "preprocess/mean"], ["x2"], "preprocess/subtract"),
        node("Mul", ["x2", "preprocess/scale"], [NORMALIZED], "preprocess/multiply"),
        node("Conv", [NORMALIZED, "w1", "b1"], ["x4"], "conv1", strides=[2, 2], **kernel),
        node("Relu", ["x4"], ["x5"], "relu1"),
        node("Conv", ["x5", "w2", "b2"], ["x6"], "conv2", **kernel),
        node("Relu", ["x6"], ["x7"], "relu2"),
        node("GlobalAveragePool", ["x7"], ["x8"], "pool"),
        node("Flatten", ["x8"], ["x9"], "flatten"),
        node("Gemm", ["x9", "w3", "b3"], ["logits"], "head", transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("images", TensorProto.UINT8, ["N", 32, 32, 3])],
        [value("logits", TensorProto.FLOAT, ["N", len(CLASSES)])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def tiny_images() -> Any:
    """Drawn photos as the tiny model reads them, uint8 `(16, 32, 32, 3)`."""
    labels = [CLASSES[i % 3] for i in range(16)]
    return np.stack([np.asarray(draw(k, i).resize((32, 32))) for i, k in enumerate(labels)])


class TinySource:
    """The tiny model as a source of exports: 12 photos calibrate, 4 are held out, all judge."""

    task = Classification(labels=CLASSES)
    input, normalize = sized(32, "squash"), Normalize()

    def __init__(self, images: Any) -> None:
        self.images = images

    def validation(self) -> ValidationSet:
        return ValidationSet(self.images, np.arange(len(self.images)) % len(CLASSES), "validation")

    def calibration(self, count: int) -> tuple[Any, Calibration]:
        chosen = self.images[:12][:count]
        return chosen, Calibration(n=len(chosen), sha256=sha256_bytes(chosen.tobytes()))

    def held_out(self, count: int) -> Any:
        return self.images[12:][:count]

    def reference(self, images: Any) -> Any:
        import onnxruntime

        session = onnxruntime.InferenceSession(self.canonical(), providers=["CPUExecutionProvider"])
        return {"logits": session.run(["logits"], {"images": images})[0]}

    def canonical(self) -> bytes:
        return tiny_onnx()

    def provenance(self, versions: dict[str, str], max_drop: float) -> Provenance:
        return msgspec.structs.replace(PROVENANCE, versions=versions, max_drop=max_drop)


@pytest.fixture(scope="session")
def tiny_source(tiny_images: Any) -> TinySource:
    """The tiny model, its photos and its FP32 logits."""
    return TinySource(tiny_images)


@pytest.fixture(scope="session")
def tiny(
    tiny_source: TinySource, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Built]:
    """The tiny model's files by recipe: `tiny("ov-int8")`."""
    context = BuildContext(tiny_source, tiny_source.canonical())
    made: dict[str, Built] = {}

    def make(recipe: str) -> Built:
        if recipe not in made:
            made[recipe] = build(find_recipe(recipe), context)
        return made[recipe]

    return make


@pytest.fixture(scope="session")
def tiny_logits(tiny: Callable[[str], Built], tiny_images: Any) -> Callable[[str], Any]:
    """Logits of the first four `tiny_images` by recipe; zeros where its engine is not here."""

    def make(recipe: str) -> Any:
        stated = tiny(recipe).recipe
        engine = find_engine(stated.engine)
        if engine.missing(stated.session):
            return np.zeros((4, len(CLASSES)), np.float32)
        options = Options(precision=stated.precision, session=stated.session)
        session = engine.open(tuple(tiny(recipe).files.values()), options)
        rows = [session.run(tiny_images[i : i + 1]) for i in range(4)]
        session.close()
        return join(rows)["logits"]

    return make


def as_stored(changes: dict[str, Any]) -> dict[str, Any]:
    """Changes of a candidate, with what the task fits and scores by its own names."""
    more = dict(changes)
    fitted = {k: more.pop(k) for k in ("temperature", "calibrated") if k in more}
    more["settings"] = Classification.Settings(**fitted)
    if "accuracy" in more:
        score = more.pop("accuracy")
        more["scores"] = {"accuracy": Score(value=score, reference=score, drop=0.0)}
    return more


@pytest.fixture(scope="session")
def write_tiny(
    tiny: Callable[[str], Built], tiny_logits: Callable[[str], Any], tiny_images: Any
) -> Callable[..., Path]:
    """Write a bundle: `write_tiny(path, ("ort-fp32",), {"ort-fp32": {"p50_ms": 1.0}}, {...})`.

    The third argument changes candidates, the fourth members; `order=…` and the like the manifest.
    """

    def make(
        path: Path,
        recipes: tuple[str, ...] = CPU_RECIPES,
        candidates: dict[str, dict[str, Any]] | None = None,
        members: dict[str, bytes] | None = None,
        **changes: Any,
    ) -> Path:
        spec, listed = sized(32, "squash"), []
        files: dict[str, bytes] = {}
        for name in recipes:
            recipe, more = tiny(name).recipe, (candidates or {}).get(name, {})
            held = {} if more.get("rejected") else tiny(name).files
            files |= held
            stated = {"session": recipe.session, "artifacts": tuple(held), "provisional": True}
            kind = {
                "name": name,
                "recipe": name,
                "engine": recipe.engine,
                "precision": recipe.precision,
            }
            kind |= {"arch": recipe.arch}
            listed.append(Candidate(**kind | stated | as_stored(more)))
        passed = {c.name: {"logits": tiny_logits(c.recipe)} for c in listed if c.rejected is None}
        golden, extra = golden_members(tiny_images[:4], passed, spec)
        manifest: dict[str, Any] = {
            "edgetl_bundle": BUNDLE_VERSION,
            "name": path.stem,
            "task": Classification(labels=CLASSES),
            "input": spec,
            "outputs": Classification(labels=CLASSES).outputs(),
            "normalize": Normalize(),
            "targets": ("cpu",),
            "order": recipes,
            "artifacts": tuple(
                Artifact(path=k, size=len(d), sha256=sha256_bytes(d)) for k, d in files.items()
            ),
            "candidates": tuple(listed),
            "chosen": next(iter(passed)),
            "provisional": True,
            "golden": golden,
            "provenance": PROVENANCE,
        }
        held = files | extra | (members or {})
        if "labels" in changes:
            changes["task"] = Classification(labels=changes.pop("labels"))
        write_bundle(path, Manifest(**manifest | changes), held)
        return path

    return make


PROVENANCE = Provenance(
    edgetl="0.1.0",
    created_utc="2025-01-01T00:00:00+00:00",
    data_sha256="0" * 64,
    weights=WeightsOrigin(source="random initialisation"),
    config=FinetuneConfig(
        data="shapes",
        backbone="tiny",
        weights="none",
        strategy="scratch",
        epochs=1,
        size=32,
        fit="squash",
        flip=True,
        seed=0,
        device="cpu",
    ),
    versions={},
    strategy="scratch",
    max_drop=0.01,
)


@pytest.fixture(scope="session")
def tiny_bundle(write_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with every CPU candidate that can run here; do not write to it."""
    here = [r for r in CPU_RECIPES if _runs(r)]
    return write_tiny(tmp_path_factory.mktemp("bundles") / "tiny.edgetl", tuple(here))


@pytest.fixture(scope="session")
def nan_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose one network answers NaN to dark images; do not write to it."""
    import onnx
    from onnx import helper, numpy_helper

    with open_bundle(tiny_bundle) as opened:
        manifest = opened.manifest
        members = {name: opened.read(name) for name in manifest.members}
    kept = manifest.candidates[0]
    model = onnx.load_model_from_string(members[kept.artifacts[0]])
    model.graph.node[-1].output[0] = "right"
    model.graph.initializer.append(numpy_helper.from_array(np.float32([20.0]), "dark"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([0.0]), "zero"))
    for kind, given, made in (
        ("ReduceMean", ["x0"], "mean"),  # of all images, 0…255
        ("Sub", ["mean", "dark"], "light"),
        ("Sqrt", ["light"], "root"),
        ("Mul", ["root", "zero"], "nothing"),
    ):
        more = {"keepdims": 0} if kind == "ReduceMean" else {}
        model.graph.node.append(helper.make_node(kind, given, [made], **more))
    model.graph.node.append(helper.make_node("Add", ["right", "nothing"], ["logits"]))
    data = bytes(model.SerializeToString())
    artifact = Artifact(path=kept.artifacts[0], size=len(data), sha256=sha256_bytes(data))
    gone = {a.path for a in manifest.artifacts}
    members = {k: v for k, v in members.items() if k not in gone} | {artifact.path: data}
    path = tmp_path_factory.mktemp("bundles") / "nan.edgetl"
    changes: dict[str, Any] = {"candidates": (kept,), "artifacts": (artifact,)}
    changes |= {"chosen": kept.name, "order": (kept.name,)}
    write_bundle(path, msgspec.structs.replace(manifest, **changes), members)
    return path


@pytest.fixture(scope="session")
def jetson_bundle(
    write_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle as for a Jetson: two TensorRT candidates and the baseline; do not write to it."""
    recipes = ("trt-fp16-weak", "trt-fp16-strong", "ort-fp32")
    path = tmp_path_factory.mktemp("bundles") / "jetson.edgetl"
    return write_tiny(path, recipes, targets=("jetson-orin-nano",))


def _runs(name: str) -> bool:
    recipe = find_recipe(name)
    return find_engine(recipe.engine).missing(recipe.session) is None


class Forks:
    """Commands as forks of a process that has imported everything: see forkserver.py."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, "-P", Path(__file__).with_name("forkserver.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, words: list[str], cwd: Path, timeout: float) -> subprocess.CompletedProcess[str]:
        """One command in a fork; TimeoutExpired where it takes longer than `timeout` seconds."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder) / name for name in ("stdout", "stderr")}
            for file in files.values():
                file.touch()
            request = {"words": words, "folder": str(cwd), "environment": dict(os.environ)}
            request |= {name: str(file) for name, file in files.items()}
            print(json.dumps(request), file=self.server.stdin, flush=True)
            limit = threading.Timer(timeout, os.kill, (int(self.server.stdout.readline()), 9))
            limit.start()
            code = int(self.server.stdout.readline())
            limit.cancel()
            said = {
                name: file.read_text("utf-8", "surrogateescape") for name, file in files.items()
            }
        if limit.finished.is_set() and code == -signal.SIGKILL:
            raise subprocess.TimeoutExpired(words, timeout)
        return subprocess.CompletedProcess(words, code, **said)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    made = Forks()
    yield made
    assert made.server.stdin is not None
    assert made.server.stdout is not None
    made.server.stdin.close()
    made.server.stdout.close()
    made.server.wait()


@pytest.fixture
def cli(tmp_path: Path, forks: Forks) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own: `cli("predict", bundle, photo)`.

    It is a fork of one that has imported torch and the engines already, but where a test says how
    to run it: then it is a new one.
    """

    def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        words = [os.fspath(a) for a in arguments]
        if not set(options) - {"cwd", "timeout"}:
            return forks.run(words, **{"cwd": tmp_path, "timeout": 120} | options)
        command = [sys.executable, "-m", "edgetl", *words]
        settings = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120}
        return subprocess.run(command, check=False, **settings | options)

    return run
