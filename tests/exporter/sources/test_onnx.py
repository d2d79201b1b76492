"""A given ONNX file and a folder of photos, as what an export starts from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgetl.errors import DataError, TraceError, UsageError
from edgetl.exporter.onnx.checks import check_onnx
from edgetl.exporter.sources.onnx import LICENCE, OnnxSource
from edgetl.files import sha256_bytes
from edgetl.metrics import softmax
from edgetl.options import OnnxOptions
from edgetl.spec import Normalize

SIZE = 24
COLOURS = {"blue": 2, "green": 1, "red": 0}  # class folders, sorted, and their channel
PER_CLASS = 12

Make = Callable[..., OnnxSource]


def model(
    *, kind: int = TensorProto.FLOAT, probabilities: bool = False, order: str = "bgr"
) -> bytes:
    """The brightest channel wins; outputs in `order`."""
    weight = np.array([[float(c == "rgb"[i]) for i in range(3)] for c in order], np.float32)
    node, source = helper.make_node, "x"
    nodes = []
    if kind == TensorProto.UINT8:
        nodes = [node("Cast", ["x"], ["k"], to=TensorProto.FLOAT), node("Div", ["k", "d"], ["v"])]
        source = "v"
    nodes += [
        node("Conv", [source, "w"], ["c"]),
        node("GlobalAveragePool", ["c"], ["p"]),
        node("Flatten", ["p"], ["f" if probabilities else "y"]),
    ]
    if probabilities:
        nodes.append(node("Softmax", ["f"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("x", kind, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", len(order)])],
        [
            numpy_helper.from_array(weight[:, :, None, None], "w"),
            numpy_helper.from_array(np.float32(255), "d"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(made.SerializeToString())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in which one channel is brighter."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for label, channel in COLOURS.items():
        (root / label).mkdir()
        for number in range(PER_CLASS):
            image = rng.integers(0, 200, (SIZE, SIZE, 3), np.uint8)
            image[..., channel] += 50
            Image.fromarray(image).save(root / label / f"{number}.png")
    return root


@pytest.fixture
def make(photos: Path, tmp_path: Path) -> Make:
    """`make(data, mean=…)`; the rest as a user leaves it, but for mean and deviation."""

    def build(data: bytes | None = None, **changes: Any) -> OnnxSource:
        path = tmp_path / "colours.onnx"
        path.write_bytes(model() if data is None else data)
        options: dict[str, Any] = {
            "calib": photos,
            "fit": "squash",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
        }
        options |= changes
        rest = {k: options.pop(k) for k in options.keys() - set(OnnxOptions.__struct_fields__)}
        asked = OnnxOptions.of(None, options)
        calib = Path(str(asked.calib))
        return OnnxSource(path, calib, asked, **{"progress": lambda _: None} | rest)

    return build


@pytest.fixture
def loose(photos: Path, tmp_path: Path) -> Path:
    """The photos without their class folders."""
    home = tmp_path / "loose"
    home.mkdir()
    for path in photos.rglob("*.png"):
        (home / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    return home


def labels_file(home: Path, text: str) -> Path:
    path = home / "labels.txt"
    path.write_text(text, "utf-8")
    return path


def run(data: bytes, feed: dict[str, Any]) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def logits(source: OnnxSource, images: Any) -> Any:
    """What the source's reference says."""
    return source.reference(images)["logits"]


def fed(images: np.ndarray, mean: float, std: float) -> dict[str, Any]:
    """What the author of the file would feed."""
    block = (images.transpose(0, 3, 1, 2) / 255 - mean) / std
    return {"x": block.astype(np.float32)}


def test_class_folders(make: Make, photos: Path) -> None:
    """As many folders as outputs: they are the labels, and the photos' classes the truth."""
    said: list[str] = []
    source = make(progress=said.append)
    assert source.task.labels == ("blue", "green", "red")
    judges = source.validation()
    assert judges.split == "validation"
    assert judges.images.shape == (18, SIZE, SIZE, 3)
    assert np.bincount(judges.targets).tolist() == [6, 6, 6]
    assert (logits(source, judges.images).argmax(axis=1) == judges.targets).all()
    assert source.validation() is judges
    assert source.warnings == []
    assert source.input.size == (SIZE, SIZE)
    assert [text.split()[0] for text in said] == ["reading", "reading", "rewriting"]


def test_reference_is_the_given_file(make: Make) -> None:
    """The given bytes, fed as their author would, say what `reference` says; so does our own."""
    source = make()
    images = source.validation().images
    wanted = run(model(), fed(images, 0.5, 0.25))
    np.testing.assert_allclose(logits(source, images), wanted, atol=1e-5)
    check_onnx(source.canonical())
    np.testing.assert_allclose(run(source.canonical(), {"images": images}), wanted, atol=1e-5)


def test_probabilities(make: Make) -> None:
    """A Softmax at the end is left out of the reference too, so that both are logits."""
    data = model(probabilities=True)
    source = make(data)
    images = source.validation().images
    wanted = run(data, fed(images, 0.5, 0.25))
    np.testing.assert_allclose(softmax(logits(source, images)), wanted, atol=1e-5)
    assert np.abs(logits(source, images).sum(axis=1) - 1).min() > 1e-2
    assert "Softmax" in source.notes[0]


def test_photos_for_ranges(make: Make) -> None:
    """Calibration, held-out and judging photos are three sets; all colours are in each."""
    source = make()
    calibration, record = source.calibration(6)
    assert calibration.shape == (6, SIZE, SIZE, 3)
    assert record.n == 6
    assert record != source.calibration(9)[1]
    everything = [source.calibration(999)[0], source.held_out(999), source.validation().images]
    sizes = [len(images) for images in everything]
    assert sum(sizes) == 3 * PER_CLASS
    assert len(np.unique(np.concatenate(everything), axis=0)) == 3 * PER_CLASS
    assert sorted(logits(source, source.held_out(3)).argmax(axis=1)) == [0, 1, 2]


def test_provenance(make: Make) -> None:
    """What is known of a given model is said, and nothing more."""
    source = make()
    found = source.provenance({"onnx": "1"}, 0.02)
    assert found.weights.source == "colours.onnx"
    assert found.weights.sha256 == sha256_bytes(model())
    assert found.weights.licence == LICENCE
    assert (found.config, found.strategy, found.max_drop) == (None, "given", 0.02)
    assert found.data_sha256 == source.folder.sha256
    assert found.versions == {"onnx": "1"}


def test_range_255(make: Make) -> None:
    """The same normalisation in other units is the same; none feeds pixels as they are."""
    wide = make(range_=255, mean=(127.5,) * 3, std=(63.75,) * 3)
    assert wide.canonical() == make().canonical()
    plain = make(range_=255, mean=None, std=None)
    images = plain.validation().images
    np.testing.assert_allclose(logits(plain, images), images.mean(axis=(1, 2))[:, ::-1], rtol=1e-5)
    np.testing.assert_allclose(
        run(plain.canonical(), {"images": images}), logits(plain, images), rtol=1e-5
    )


def test_normalisation_that_was_not_stated(make: Make) -> None:
    """ImageNet's is assumed and said."""
    source = make(mean=None, std=None)
    assert source.normalize == Normalize()
    assert "fed with ImageNet's mean" in source.warnings[0]


def test_uint8_file(make: Make) -> None:
    """Such a file gets pixels as they are; mean and deviation would contradict that."""
    data = model(kind=TensorProto.UINT8)
    for mean, std in ((None, None), ((0, 0, 0), (1, 1, 1))):
        source = make(data, mean=mean, std=std)
        images = source.validation().images
        wanted = run(data, {"x": images.transpose(0, 3, 1, 2)})
        np.testing.assert_allclose(logits(source, images), wanted, atol=1e-6)
        np.testing.assert_allclose(run(source.canonical(), {"images": images}), wanted, atol=1e-5)
    with pytest.raises(UsageError, match="reads uint8"):
        make(data)


def test_labels_file(make: Make, tmp_path: Path) -> None:
    """Labels in output order; class folders may be fewer and in any order."""
    text = "\ufeffred\r\n green \r\nblue\r\nyellow\r\n\r\n"
    source = make(model(order="rgbg"), class_names=labels_file(tmp_path, text))
    assert source.task.labels == ("red", "green", "blue", "yellow")
    judges = source.validation()
    assert judges.split == "validation"
    answers = logits(source, judges.images).argmax(axis=1)
    assert (answers == judges.targets).mean() >= 0.9  # "green" and "yellow" are equal: argmax 1
    assert source.warnings == []


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("blue\ngreen", UsageError, r"names 2 classes, but colours\.onnx has 3 outputs"),
        ("blue\ngreen\nred\nblack", UsageError, "names 4 classes"),
        ("", UsageError, "names 0 classes"),
        ("blue\n\nred", DataError, "line 2 is empty"),
        ("blue\nred\nblue", DataError, "class blue in lines 1 and 3"),
        ("blue\ngreen\nrose", DataError, r"1 of 3 class folders .*the 3 labels: red\."),
    ],
)
def test_refuses_labels(
    make: Make, tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    """A wrong number, gaps, repeats, and labels that the class folders contradict."""
    with pytest.raises(error, match=message):
        make(class_names=labels_file(tmp_path, text))


def test_refuses_a_labels_file_that_is_not_there(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read class names"):
        make(class_names=tmp_path / "absent.txt")


def test_loose_photos_are_judged_by_agreement(make: Make, loose: Path, tmp_path: Path) -> None:
    """Without classes nothing is known of them, and the split says so."""
    source = make(calib=loose)
    judges = source.validation()
    assert judges.split == "agreement"
    assert judges.targets is None
    assert source.task.labels == ("class 0", "class 1", "class 2")
    assert "labels are numbers, and agreement" in source.warnings[0]
    named = make(calib=loose, class_names=labels_file(tmp_path, "blue\ngreen\nred"))
    assert named.task.labels == ("blue", "green", "red")
    assert named.validation().split == "agreement"
    assert named.warnings == []


def test_numbers_as_class_folders_are_in_the_order_of_text(
    make: Make, photos: Path, tmp_path: Path
) -> None:
    """The given model may have another order, so it is said."""
    for name, number in (("blue", "1"), ("green", "10"), ("red", "9")):
        shutil.copytree(photos / name, tmp_path / "numbers" / number)
    source = make(calib=tmp_path / "numbers")
    assert source.task.labels == ("1", "10", "9")
    assert "in the order of text, 1, 10, 9" in source.warnings[0]
    assert "--class-names FILE states another order" in source.warnings[0]
    accented = labels_file(tmp_path, "1\n10\nne\u0301\n")
    (tmp_path / "numbers/9").rename(tmp_path / "numbers/n\u00e9")
    assert make(calib=tmp_path / "numbers", class_names=accented).labelled


def test_class_folders_that_are_not_the_outputs(make: Make) -> None:
    """Three folders, four outputs: nobody can say which is which."""
    source = make(model(order="rgbg"))
    assert source.task.labels == ("class 0", "class 1", "class 2", "class 3")
    assert source.validation().split == "agreement"
    assert "has 4 outputs and" in source.warnings[0]
    assert "3 class folders" in source.warnings[0]


def test_doubts_labels_in_the_wrong_order(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A model that is never right has other labels or another normalisation."""
    source = make(model(order="grb"))
    assert source.validation().split == "validation"
    assert "is right on 0.0% of the photos" in source.warnings[0]
    assert "Check --mean, --std, --range, --order and the order of the labels." in caplog.text


def test_mean_and_deviation_are_by_colour_in_any_order(make: Make) -> None:
    changes = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 1.0, 2.0)}
    source = make(model(order="rgb"), order="bgr", **changes)
    assert source.normalize == Normalize(**changes)
    image = np.full((1, SIZE, SIZE, 3), (30, 60, 90), np.uint8)  # blue, green, red
    expected = (np.array([30, 60, 90]) / 255 - [0.3, 0.2, 0.1]) / [2.0, 1.0, 0.5]
    for logits in (
        source.reference(image)["logits"],
        run(source.canonical(), {"images": image}),
    ):
        np.testing.assert_allclose(logits[0], expected, atol=1e-5)


def test_a_network_that_reads_blue_first(make: Make) -> None:
    """Both agree with the given file on what they feed it; photos tell which of them is right."""
    shares = []
    for order in ("rgb", "bgr"):
        source = make(model(order="rgb"), order=order)
        judges = source.validation()
        found = source.task.evaluate(source.reference(judges.images), judges.targets)
        shares.append(found.primary)
    assert shares[0] < 0.5
    assert shares[1] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": None}, "--std stands alone"),
        ({"std": None}, "--mean stands alone"),
        ({"std": (0, 1, 1)}, "--mean 0.5,0.5,0.5 --std 0,1,1 cannot normalise"),
        ({"std": (float("inf"), 1, 1)}, "cannot normalise"),
        ({"mean": (123.7, 116.3, 103.5)}, r"not in units of 0…1.*--range 255"),
        ({"range_": 255}, r"not in units of 0…255.*leave --range away"),
        ({"size": 48}, "--size 48 contradicts"),
        ({"layout": "nhwc"}, "--layout nhwc contradicts"),
    ],
)
def test_refuses_options(make: Make, changes: dict[str, Any], message: str) -> None:
    """Each says what contradicts what, and how to mend it."""
    with pytest.raises(UsageError, match=message) as caught:
        make(**changes)
    assert caught.value.fix


def test_refuses_what_is_no_model_and_no_photos(make: Make, tmp_path: Path) -> None:
    """Errors of the file and of the folder come through as they are."""
    with pytest.raises(TraceError, match=r"colours\.onnx is not an ONNX file"):
        make(b"nothing")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="No photos in"):
        make(calib=tmp_path / "none")


def test_needs_no_torch() -> None:
    """Somebody else's model is exported without torch."""
    code = "import sys; import edgetl.exporter.sources.onnx; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
