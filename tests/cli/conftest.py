"""Fixtures of the command line's exports."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetl.exporter import export as exporting
from edgetl.exporter.search import search as searching
from tests.exporter import small


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of pictures; do not write into them."""
    return small.folder(tmp_path_factory.mktemp("export") / "photos", 24)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "given.onnx"
    path.write_bytes(small.given())
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty folder for what an export writes."""
    made = tmp_path / "out"
    made.mkdir()
    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Measure for an instant, and know of no earlier trials."""
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(exporting, "MEASURE_SECONDS", 0.05)
    monkeypatch.setattr(searching, "TURNS", 2)
    monkeypatch.setattr(searching, "RUNS", 2)
