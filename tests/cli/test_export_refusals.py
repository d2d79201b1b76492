"""`edgetl export` of photos and models that cannot be."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgetl.bundle import open_bundle
from tests.cli.typed import COLOURS, ORT, Change, Typed, changed
from tests.exporter import small

# --- photos that cannot be --------------------------------------------------------------------


def test_photos_that_are_not_there(model: Path, home: Path, tmp_path: Path) -> None:
    for folder, message in ((tmp_path / "gone", "No data folder at"), (home, "No photos in")):
        done = Typed(model, "--calib", folder, *ORT, "--out", tmp_path / "x.edgetl")
        assert message in done.error()
        assert str(folder) in done.error()


def test_photos_of_one_class(model: Path, photos: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "disc").symlink_to(photos / "disc")
    done = Typed(model, "--calib", tmp_path / "one", *ORT, "--out", home / "x.edgetl")
    assert "Only one class, disc" in done.error()


def test_photos_that_are_too_few_or_all_the_same(
    model: Path, photos: Path, home: Path, tmp_path: Path
) -> None:
    for label in small.LABELS:
        (tmp_path / "few" / label).mkdir(parents=True)
        data = (photos / label / "00.png").read_bytes()
        for number in range(6):
            (tmp_path / "few" / label / f"{number}.png").write_bytes(data)
    done = Typed(model, "--calib", tmp_path / "few", *ORT, "--out", home / "x.edgetl")
    assert "holds 3 different photos that can be read (of 18 files" in done.error()


def spoiled(photos: Path, root: Path, every: int) -> Path:
    """The photos, every so many of them cut off."""
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        copy = root / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes()[: 100 if number % every == 0 else None])
    return root


def test_corrupt_photos(
    *,
    model: Path,
    photos: Path,
    home: Path,
    tmp_path: Path,
    quick: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Most of them: refused. A few: named, and the rest is used."""
    most = spoiled(photos, tmp_path / "most", 1)
    done = Typed(model, "--calib", most, *ORT, "--out", home / "x.edgetl")
    assert "72 of 72 photos in" in done.error()
    assert not list(home.iterdir())
    few = spoiled(photos, tmp_path / "few", 10)
    precision = ("--precision", "fp32")
    done = Typed(model, "--calib", few, *COLOURS, *ORT, *precision, "--out", home / "x.edgetl")
    assert done.code == 0, done.err
    assert "skipped 8 of 72 photos" in caplog.text
    assert (home / "x.edgetl").is_file()


def test_class_folders_that_are_no_labels(
    model: Path, photos: Path, home: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("disc\nframe\nlines\n")
    given = (model, "--calib", photos, "--labels", labels)
    done = Typed(*given, *ORT, "--out", home / "x.edgetl")
    assert "1 of 3 class folders" in done.error()
    assert "stripes" in done.error()


# --- models that cannot be --------------------------------------------------------------------


def unknown_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].output[0] = "before"
    node = helper.make_node("Mystery", ["before"], ["logits"], "riddle", domain="com.example")
    proto.graph.node.append(node)
    proto.opset_import.append(helper.make_opsetid("com.example", 1))


def control_flow(proto: onnx.ModelProto) -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", ["before"], ["y"])], "b", [], [value])
    proto.graph.node[-1].output[0] = "before"
    node = helper.make_node(
        "If", ["yes"], ["logits"], "choice", then_branch=branch, else_branch=branch
    )
    largest = helper.make_node("ReduceMax", ["before"], ["largest"], keepdims=0)
    proto.graph.node.extend([largest, helper.make_node("Cast", ["largest"], ["yes"], to=9), node])


def open_size(proto: onnx.ModelProto) -> None:
    for axis, name in ((2, "H"), (3, "W")):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name


def two_inputs(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, 3]))


def no_colours(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unknown_operator, "given.onnx: Mystery 'riddle' is of the operator domain 'com.example'"),
        (control_flow, "If 'choice' is control flow"),
        (open_size, "given.onnx leaves the image size open"),
        (two_inputs, "given.onnx has 2 inputs (pixels, more), not one"),
        (no_colours, "no axis holds three colours"),
    ],
)
def test_models_that_cannot_be(
    change: Change, message: str, model: Path, photos: Path, home: Path
) -> None:
    changed(model, change)
    done = Typed(model, "--calib", photos, *ORT, "--out", home / "x.edgetl")
    assert message in done.error()
    assert not list(home.iterdir())


def test_an_open_size_can_be_given(model: Path, photos: Path, home: Path, quick: None) -> None:
    changed(model, open_size)
    options = ("--size", small.SIZE, "--precision", "fp32")
    done = Typed(
        model, "--calib", photos, *COLOURS, *ORT, *map(str, options), "--out", home / "x.edgetl"
    )
    assert done.code == 0, done.err


def test_external_data_that_is_missing(model: Path, photos: Path, home: Path) -> None:
    proto = onnx.load(model)
    onnx.save(proto, model, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (model.parent / "weights.bin").unlink()
    done = Typed(model, "--calib", photos, *ORT, "--out", home / "x.edgetl")
    assert "keeps weights in the file 'weights.bin', which is not beside it" in done.error()


@pytest.mark.parametrize("data", [b"", b"not a model\n", b"\x89PNG\r\n", b"\x08\x07" * 9])
def test_what_is_no_onnx_file(data: bytes, model: Path, photos: Path, home: Path) -> None:
    model.write_bytes(data)
    done = Typed(model, "--calib", photos, *ORT, "--out", home / "x.edgetl")
    assert "given.onnx is not an ONNX file" in done.error()


def test_a_model_that_is_not_there(photos: Path, home: Path, tmp_path: Path) -> None:
    for name in ("gone.onnx", "folder.onnx"):
        (tmp_path / "folder.onnx").mkdir(exist_ok=True)
        done = Typed(tmp_path / name, "--calib", photos, *ORT, "--out", home / "x.edgetl")
        assert f"Cannot read {tmp_path / name}" in done.error()


def test_a_cut_off_model(model: Path, photos: Path, home: Path) -> None:
    model.write_bytes(small.given()[:-500])
    done = Typed(model, "--calib", photos, *ORT, "--out", home / "x.edgetl")
    assert "given.onnx" in done.error()


def test_training_that_does_not_know_an_operator(
    model: Path, photos: Path, home: Path, quick: None
) -> None:
    """A network that runs everywhere, but that --qat cannot run."""

    def soft(proto: onnx.ModelProto) -> None:
        proto.graph.node[-1].output[0] = "before"
        proto.graph.node.append(helper.make_node("Softsign", ["before"], ["logits"], "soft"))

    changed(model, soft)
    given = (model, "--calib", photos, *COLOURS, *ORT, "--out", home / "x.edgetl")
    done = Typed(*given, "--qat", "always", "--max-drop", "0.5")
    assert done.code == 0, done.err
    assert "QAT: Softsign 'Softsign_1' is an operator, which training" in done.err
    assert "export with --qat never" in done.err
    with open_bundle(home / "x.edgetl") as opened:
        assert not [c for c in opened.manifest.candidates if "-qat" in c.name]
