"""ONNX Runtime: what it is told by itself, on processors with and without exact integer sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from edgetl.engines import Options, find_engine, onnxruntime
from edgetl.exporter.candidates import Built
from edgetl.machine import this_machine

Tiny = Callable[[str], Built]
CAREFUL = "session.x64quantprecision"

pytestmark = pytest.mark.skipif(
    find_engine("onnxruntime").missing() is not None, reason="ONNX Runtime is not here"
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make this processor another one."""

    def be(arch: str, *features: str) -> None:
        other = msgspec.structs.replace(this_machine(), arch=arch, features=features)
        monkeypatch.setattr(onnxruntime, "this_machine", lambda: other)

    return be


def opened(tiny: Tiny, recipe: str) -> Any:
    precision = tiny(recipe).recipe.precision
    return onnxruntime.open(tuple(tiny(recipe).files.values()), Options(precision=precision))


def entry(session: Any, key: str) -> str | None:
    """A configuration entry of ONNX Runtime's session, as it has it; None where it has none."""
    try:
        return str(session._session.get_session_options().get_session_config_entry(key))
    except RuntimeError:
        return None


@pytest.mark.parametrize(
    ("arch", "features", "recipe", "careful"),
    [
        ("x86_64", ("avx2",), "ort-int8", True),
        ("x86_64", ("avx2", "avx512f"), "ort-int8", True),
        ("x86_64", (), "ort-int8", True),  # unknown, as outside Linux: right before fast
        ("x86_64", ("avx2", "avx_vnni"), "ort-int8", False),
        ("x86_64", ("avx512f", "avx512_vnni"), "ort-int8", False),
        ("x86_64", ("avx2",), "ort-fp32", False),
        ("aarch64", ("asimd",), "ort-int8", False),
    ],
)
def test_integers_do_not_overflow_where_the_processor_adds_in_pairs(
    arch: str, features: tuple[str, ...], recipe: str, careful: bool, *, request: Any
) -> None:
    tiny, images = request.getfixturevalue("tiny"), request.getfixturevalue("tiny_images")
    here = opened(tiny, recipe)
    expected, right = here.run(images[:8])["logits"], "VNNI" not in here.describe().provider
    request.getfixturevalue("machine")(arch, *features)
    session = opened(tiny, recipe)
    assert entry(session, CAREFUL) == ("1" if careful else None)
    assert ("without VNNI" in session.describe().provider) is careful
    if careful or right:  # else they do overflow on the processor that runs this
        assert np.abs(session.run(images[:8])["logits"] - expected).max() <= 0.02 * np.ptp(expected)


def test_the_format_is_never_guessed(tiny: Tiny) -> None:
    """ONNX Runtime's own format is not looked through for names of other files."""
    assert entry(opened(tiny, "ort-fp32"), "session.load_model_format") == "ONNX"


def test_quantizers_are_computed_as_they_stand_for_others(tiny: Tiny, tiny_images: Any) -> None:
    """As ONNX Runtime does where it may rewrite nothing."""
    import onnxruntime as vendor

    (data,) = tiny("trt-int8-weak").files.values()
    options = Options(precision="int8")
    asked = Options(precision="int8", session={"qdq": "unfused"})
    unfused = onnxruntime.open((data,), asked)
    assert entry(unfused, "session.disable_quant_qdq") == "1"
    assert entry(onnxruntime.open((data,), options), "session.disable_quant_qdq") is None
    config = vendor.SessionOptions()
    config.graph_optimization_level = vendor.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = vendor.InferenceSession(data, config, providers=["CPUExecutionProvider"])
    (expected,) = plain.run(None, {"images": tiny_images[:4]})
    np.testing.assert_allclose(unfused.run(tiny_images[:4])["logits"], expected, atol=1e-4)
