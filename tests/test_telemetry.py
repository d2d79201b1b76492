"""Exporting opens no connection and leaves no trace in the home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

# Telemetry is sent from a forked process, so attempts are recorded in a file, and the patch is
# made by sitecustomize, which Python imports at the start of every process.
BLOCK = """
import os, socket
def refuse(*arguments, **_):
    with open(os.environ["ATTEMPTS"], "a") as stream:
        stream.write(repr(arguments) + "\\n")
    raise OSError("blocked by the test")
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
socket.getaddrinfo = socket.gethostbyname = refuse
"""

PROGRAM = """
import sys
import numpy as np
from edgetl.exporter.quantize import nncf as nncf_int8
from edgetl.spec import Recipe
if "talk" in sys.argv:
    nncf_int8.silence = lambda: None
if "late" in sys.argv:
    import openvino_telemetry
recipe = Recipe(
    name="r", title="", engine="openvino", precision="int8", form="nncf"
)
images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
xml, weights = nncf_int8.nncf_int8(open(sys.argv[1], "rb").read(), images, recipe)
assert b"FakeQuantize" in xml
"""

SESSION = """
import sys
import numpy as np
from edgetl.engines import Options, find_engine
options = Options(precision="fp32", session={"INFERENCE_PRECISION_HINT": "f32"})
session = find_engine("openvino").open((open(sys.argv[1], "rb").read(),), options)
assert session.run(np.zeros((1, 16, 16, 3), np.uint8))['logits'].shape == (1, 4)
assert session.describe().engine == "openvino"
session.close()
"""


@pytest.fixture
def canonical(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {"w": (8, 3, 3, 3), "v": (4, 8)}
    nodes = [
        helper.make_node("Cast", ["images"], ["a"], "preprocess/cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["a"], ["b"], "preprocess/transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["b", "w"], ["c"], "Conv_1"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "Pool_1"),
        helper.make_node("Flatten", ["d"], ["e"], "Flatten_1"),
        helper.make_node("Gemm", ["e", "v"], ["logits"], "Gemm_1", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 16, 16, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        initializer=[
            numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n)
            for n, s in weights.items()
        ],
    )
    path = tmp_path / "tiny.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def quantize_blocked(
    tmp_path: Path, canonical: Path, *words: str, program: str = PROGRAM
) -> tuple[str, list[Path]]:
    """Run a program without network, in an empty home; return attempts and the home's files."""
    home, site, attempts = tmp_path / "home", tmp_path / "site", tmp_path / "attempts"
    home.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(BLOCK)
    root = Path(__file__).parents[2]
    kept = {k: v for k, v in os.environ.items() if k not in ("CI", "NNCF_CI", "NNCF_DEV")}
    path = os.pathsep.join([str(site), str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program, str(canonical), *words],
        env=kept | {"HOME": str(home), "PYTHONPATH": path, "ATTEMPTS": str(attempts)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "") or "talk" in words
    return attempts.read_text() if attempts.exists() else "", sorted(home.rglob("*"))


def test_quantizing_is_silent(tmp_path: Path, canonical: Path) -> None:
    """No attempt to connect or resolve, no file under HOME, nothing printed."""
    assert quantize_blocked(tmp_path, canonical) == ("", [])


def test_running_openvino_is_silent(tmp_path: Path, canonical: Path) -> None:
    """The same for what a device does: a session of the engine."""
    assert quantize_blocked(tmp_path, canonical, program=SESSION) == ("", [])


def test_silence_comes_in_time_after_the_import(tmp_path: Path, canonical: Path) -> None:
    """Even if the package was imported before, its classes do nothing from then on."""
    assert quantize_blocked(tmp_path, canonical, "late") == ("", [])


def test_the_recorder_sees_unsilenced_telemetry(tmp_path: Path, canonical: Path) -> None:
    """Without silence() the same program tries to report: the two tests above can fail."""
    attempts, files = quantize_blocked(tmp_path, canonical, "talk")
    assert "google-analytics" in attempts
    assert files


def test_quantizers_import_without_torch() -> None:
    """Of the exporter, only trace, reference and qat import torch."""
    modules = (
        "gate, plan, onnx.checks, onnx.fold, onnx.fp16, quantize.nncf, quantize.ort, "
        "quantize.calibration, search.search, tensorrt.qdq"
    )
    imports = "".join(f"import edgetl.exporter.{name}\n" for name in modules.split(", "))
    program = f"import sys\n{imports}assert 'torch' not in sys.modules"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=60)
