"""The doctor lists what is here and how to get what is not."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from edgetl.engines import ENGINES, find_engine
from edgetl.runtime import doctor
from edgetl.runtime.doctor import PACKAGES, examine


def test_everything_is_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {part.name: part for part in examine()}
    added = {"tasks", "inputs", "plug-ins"}
    assert parts.keys() == {"python", *PACKAGES, *ENGINES.own, *added, "EDGETL_WEIGHTS", "cache"}
    assert parts["tasks"].version == "classification, multilabel"
    assert parts["plug-ins"].version == "none"
    for part in parts.values():
        assert part.purpose
        assert bool(part.fix) == (part.version is None)
    assert parts["numpy"].version == importlib.metadata.version("numpy")
    for name in ENGINES.own:
        assert (parts[name].version is None) == (find_engine(name).missing() is not None)


def test_what_is_missing_comes_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", absent)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    parts = {part.name: part for part in examine()}
    assert parts["torch"].fix == "pip install 'edgetl[train]'"
    assert parts["nncf"].fix == "pip install 'edgetl[export]'"
    assert parts["numpy"].fix == "pip install edgetl"
    assert "pip install 'edgetl[onnxruntime]'" in parts["onnxruntime"].fix
    assert "JetPack" in parts["tensorrt"].fix
    assert all(parts[name].version is None for name in (*PACKAGES, *ENGINES.own))


def test_an_engine_under_another_package_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_engine("onnxruntime").missing():
        pytest.skip("onnxruntime is not installed")
    monkeypatch.setattr(doctor, "_version", lambda _: None)
    parts = {part.name: part for part in examine()}
    assert parts["onnxruntime"].version == find_engine("onnxruntime").version()


def test_folders_of_the_environment_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGETL_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "new" / "cache"))
    parts = {part.name: part for part in examine()}
    assert parts["EDGETL_WEIGHTS"].version == str(tmp_path)
    assert str(parts["cache"].version).startswith(str(tmp_path / "new" / "cache"))
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("EDGETL_WEIGHTS", str(tmp_path / "no"))
    parts = {part.name: part for part in examine()}
    assert parts["EDGETL_WEIGHTS"].version is None
    assert "correct or unset EDGETL_WEIGHTS" in parts["EDGETL_WEIGHTS"].fix
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGETL_CACHE", str(tmp_path / "file" / "cache"))
    assert "set EDGETL_CACHE" in {p.name: p for p in examine()}["cache"].fix


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("EDGETL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", classmethod(unknown))
    monkeypatch.setenv("EDGETL_WEIGHTS", "~nobody-of-this-name/weights")
    parts = {part.name: part for part in examine()}
    assert parts["cache"].version is parts["EDGETL_WEIGHTS"].version is None
    assert "EDGETL_CACHE" in parts["cache"].fix
    assert "HOME" in parts["EDGETL_WEIGHTS"].fix
