"""The main job on real photos, from the command line: finetune → export → evaluate → predict."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgetl.runtime.choose import TIE

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
PHOTOS = SHARED / "data" / "clothing"
WEIGHTS = SHARED / "weights" / "mobilenet_v2-imagenet1k.safetensors"
EACH = {"train": 24, "validation": 12, "test": 12}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PHOTOS.is_dir() and WEIGHTS.is_file()),
        reason="../shared with real photos and ImageNet weights is not here",
    ),
]


def edgetl(*arguments: str | Path) -> Any:
    """The JSON document of a command that succeeds."""
    words = [sys.executable, "-m", "edgetl", *map(str, arguments), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A few photos of each class, probed and exported for this machine."""
    home = tmp_path_factory.mktemp("clothing")
    for split, count in EACH.items():
        for folder in sorted((PHOTOS / split).iterdir()):
            (home / "photos" / split / folder.name).mkdir(parents=True)
            for photo in sorted(folder.iterdir())[:count]:
                shutil.copy(photo, home / "photos" / split / folder.name)
    run, bundle = home / "run", home / "clothing.edgetl"
    trained = edgetl(
        "finetune",
        home / "photos",
        "--out",
        run,
        "--strategy",
        "probe",
        "--backbone",
        "mobilenet_v2",
        "--weights",
        WEIGHTS,
    )
    plain = ("--search", "never", "--qat", "never")
    exported = edgetl("export", run, "--target", "cpu", "--out", bundle, *plain)
    return {"home": home, "run": run, "bundle": bundle, "trained": trained, "exported": exported}


def test_probe_learns_from_few_real_photos(job: dict[str, Any]) -> None:
    """240 photos and ImageNet features are far above the 10 % of chance."""
    assert job["trained"]["metrics"]["test"]["accuracy"] > 0.70
    assert job["trained"]["strategy"] == "probe"
    assert job["trained"]["weights_origin"]["sha256"]


def test_every_candidate_is_reported(job: dict[str, Any]) -> None:
    """All recipes of this machine are in the table; the FP32 baseline agrees with eager PyTorch."""
    rows = {row["recipe"]: row for row in job["exported"]["candidates"]}
    assert {"ort-fp32", "ov-fp32", "ov-bf16", "ov-int8"} <= set(rows)
    for recipe in ("ort-fp32", "ov-fp32"):
        assert rows[recipe]["agreement"] >= 0.997
        assert rows[recipe]["rejected"] is None
    passed = [row for row in rows.values() if row["rejected"] is None]
    fastest = min(row["p50_ms"] for row in passed)
    equal = [row["recipe"] for row in passed if row["p50_ms"] <= TIE * fastest]
    assert job["exported"]["chosen"] in equal


def test_bundle_scores_as_the_run(job: dict[str, Any]) -> None:
    """The exported FP32 network has the accuracy of the trained one on the test split."""
    photos = job["home"] / "photos"
    trained = edgetl("evaluate", job["run"], photos)
    fp32 = edgetl(
        "evaluate", job["bundle"], photos, "--engine", "onnxruntime", "--precision", "fp32"
    )
    assert trained["n"] == fp32["n"] == sum(map(len, [list((photos / "test").glob("*/*"))]))
    assert abs(trained["accuracy"] - fp32["accuracy"]) <= 1 / trained["n"]
    assert trained["accuracy"] == pytest.approx(
        job["trained"]["metrics"]["test"]["accuracy"], abs=0.02
    )


def test_predict_and_verify(job: dict[str, Any]) -> None:
    """Predictions come with labels and probabilities; the self-test runs every shipped engine."""
    photo = next((job["home"] / "photos" / "test" / "hat").iterdir())
    (row,) = edgetl("predict", job["bundle"], photo)
    assert row["image"] == str(photo)
    assert len(row["predictions"]) == 3
    assert 0 < row["predictions"][0]["probability"] <= 1
    assert edgetl("inspect", job["bundle"], "--verify")["verified"] is True
