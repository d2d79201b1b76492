"""TensorRT: what can be checked without a GPU, and one real build where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgetl.engines import Options, cuda, find_engine, ready_engine, tensorrt
from edgetl.errors import EngineError, EngineMissingError
from edgetl.exporter.build import Built


def test_missing_says_the_reason_and_the_fix() -> None:
    reason = tensorrt.missing()
    if reason is None:
        pytest.skip("TensorRT runs here")
    what, _, fix = reason.partition(" Fix: ")
    assert what.endswith(("installed.", "here."))
    assert fix
    with pytest.raises(EngineMissingError) as error:
        ready_engine("tensorrt", {"typing": "weak"})
    assert (error.value.message, error.value.fix) == (what, fix)


@pytest.mark.parametrize(
    ("version", "weak", "strong"),
    [
        ("8.5.2.2", True, False),
        ("8.6.1", True, False),
        ("10.3.0", True, False),
        ("10.11.0.33", True, False),
        ("10.12.0", False, True),
        ("10.13.3.9", False, True),
        ("11.0.0", False, True),
    ],
)
def test_typing_follows_the_version(
    version: str, weak: bool, strong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "version", lambda: version)
    assert (tensorrt.mistyped("weak") is None) == weak
    assert (tensorrt.mistyped("strong") is None) == strong
    assert tensorrt.mistyped("") is None
    said = f"{tensorrt.mistyped('weak')}{tensorrt.mistyped('strong')}"
    assert version in said
    assert "Fix: use the" in said


def test_without_cuda_calls_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "runtime", lambda: None)
    assert cuda.device_count() == 0
    with pytest.raises(EngineError, match="libcudart was not found") as error:
        cuda.compute_capability()
    assert error.value.fix


@pytest.mark.gpu
def test_an_engine_is_built_once(
    tiny: Callable[[str], Built], tiny_images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := tensorrt.missing():
        pytest.skip(reason)
    recipe = "trt-fp16-weak" if tensorrt.mistyped("weak") is None else "trt-fp16-strong"
    stated, files = tiny(recipe).recipe, tuple(tiny(recipe).files.values())
    options = Options(precision="fp16", session=stated.session)
    session = find_engine("tensorrt").open(files, options)
    first = session.run(tiny_images[:2])
    session.close()
    monkeypatch.setattr(tensorrt, "build", lambda *_: pytest.fail("built twice"))
    again = find_engine("tensorrt").open(files, options)
    np.testing.assert_array_equal(again.run(tiny_images[:2]), first)
    again.close()
