"""What README.md, docs/ and the other guides show can be typed as it stands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from edgetl.cli.app import app
from edgetl.data.samples import find_sample, is_sample
from tests.conftest import CLASSES, draw

ROOT = Path(__file__).resolve().parents[1]
GUIDES = (
    "README.md", "docs/export.md", "docs/data.md", "docs/extending.md", "docs/weights.md",
    "export/README.md", "examples/README.md",
)  # fmt: skip
BUNDLE, PHOTO = "parts.edgetl", "camera.jpg"  # as README calls them
PLUGIN = {"blobs"}  # tasks that a plug-in of the tests adds
ABSENT = re.compile(
    r"No data folder|No run at|does not exist|[Nn]o such file|cannot be reached|no weights.json"
)
QUICK = {"bench": ("--duration", "0.05")}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
FITTING = {"build": "Nothing to build"}  # what else may end a verb with the tests' bundle


def commands(text: str) -> list[str]:
    """Lines `edgetl …` of indented and fenced blocks that are no Python, without comments."""
    fenced = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```$", text, re.S | re.M)
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M).splitlines()
    lines = [line for line in plain if line.startswith("    ")] + "\n".join(fenced).splitlines()
    words = [line.split(" #")[0].strip() for line in lines]
    return [line for line in words if line.startswith("edgetl ")]


def snippets(text: str) -> list[str]:
    """Blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)


def documented() -> Iterator[Any]:
    for guide in GUIDES:
        for line in commands((ROOT / guide).read_text("utf-8")):
            yield pytest.param(line, id=f"{guide}: {line}")


@pytest.fixture
def desk(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the bundle and the photo that README has, and nothing else."""
    (tmp_path / BUNDLE).write_bytes(tiny_bundle.read_bytes())
    draw("disc", 0).save(tmp_path / PHOTO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # nothing is downloaded
    return tmp_path


def complaint(line: str) -> str:
    """What is wrong with a command, or "".

    It may succeed, or stop at a path that it names and that is not here; all that comes before,
    options and what contradicts itself in them, is right then.
    """
    verb, *words = shlex.split(line)[1:]
    for sample in (word for word in words if is_sample(word)):
        find_sample(sample)  # it is there, but training on it takes minutes
        words[words.index(sample)] = "photos/"
    done = CliRunner().invoke(app, [verb, *words, *QUICK.get(verb, ())])
    if done.exit_code == 0:
        return ""
    last = done.output.strip().splitlines()[-1] if done.output.strip() else repr(done.exception)
    missing = [word.rstrip("/") for word in words if not Path(word).exists()]
    stopped = ABSENT.search(last) and any(word in last for word in missing)
    if done.exit_code == 1 and (stopped or last.find(FITTING.get(verb, "\0")) >= 0):
        return ""
    return f"exit code {done.exit_code}: {last}"


@pytest.mark.parametrize("line", list(documented()))
def test_commands_are_read(line: str, desk: Path) -> None:
    for task in PLUGIN:
        line = line.replace(f"--task {task} ", "")
    assert not complaint(line)


@pytest.mark.parametrize(
    "line",
    [
        "edgetl export runs/parts --target cpu --quantise yes --out parts.edgetl",
        "edgetl export runs/parts --target cpu --qat perhaps --out parts.edgetl",
        "edgetl export model.onnx --calib photos/ --crop-pct 3 --target cpu --out model.edgetl",
        "edgetl export runs/parts --target toaster --out parts.edgetl",
        "edgetl finetune photos/ --size 7 --out runs/parts",
        "edgetl finetune photos/ --task multilabels --labels a.csv --out runs/parts",
        "edgetl finetune photos/",
        "edgetl predict parts.edgetl camera.jpg --top none",
        "edgetl compare parts.edgetl --images photos/",
        "edgetl guess parts.edgetl camera.jpg",
    ],
)
def test_a_wrong_command_is_noticed(line: str, desk: Path) -> None:
    assert complaint(line)


def options() -> set[str]:
    """Of all verbs."""
    verbs = typer.main.get_group(app).commands.values()
    return {name for verb in verbs for option in verb.params for name in option.opts} | {"--help"}


def strangers(text: str) -> set[str]:
    """Options in code within a line that no verb has."""
    named = {name for code in re.findall(r"`([^`\n]+)`", text) for name in OPTION.findall(code)}
    return named - options()


@pytest.mark.parametrize("guide", GUIDES)
def test_options_exist(guide: str) -> None:
    assert not strangers((ROOT / guide).read_text("utf-8")) - {"--version"}
    assert strangers("`--quantise` and `edgetl export --qatt auto`") == {"--quantise", "--qatt"}


def test_commands_are_found() -> None:
    text = "Text.\n\n    edgetl doctor   # what\n    make\n\n```sh\nedgetl devices\n```\n"
    assert commands(text) == ["edgetl doctor", "edgetl devices"]
    assert len(commands((ROOT / "README.md").read_text("utf-8"))) >= 9


@pytest.mark.parametrize("code", snippets((ROOT / "README.md").read_text("utf-8")))
def test_python_runs(code: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "README.md", "exec"), {})
    image, label, probability = capsys.readouterr().out.split()
    assert image == PHOTO
    assert label in CLASSES
    assert 0 < float(probability) <= 1


def test_there_is_python() -> None:
    assert snippets((ROOT / "README.md").read_text("utf-8"))


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))]
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    home = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = home / path if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text("utf-8")), f"{page}: {target}"


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
