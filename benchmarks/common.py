"""What every benchmark shares: where the data is, and rows of results."""

from __future__ import annotations

import argparse
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from edgetl.machine import this_machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def parser(text: str | None) -> argparse.ArgumentParser:
    """Arguments that say where photos and weights are; none of them is part of the repository."""
    made = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = ROOT.parent / "shared"
    made.add_argument("--data", type=Path, default=shared / "data" / "clothing")
    made.add_argument(
        "--weights",
        type=Path,
        default=shared / "weights" / "mobilenet_v2-imagenet1k.safetensors",
    )
    made.add_argument("--work", type=Path, default=Path("runs"), help="where runs are written")
    return made


def commit() -> str:
    """The commit that was measured, with "+" where the tree differed from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=10"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def write_rows(name: str, rows: list[dict[str, Any]], keep: int = 0) -> Path:
    """Replace results/NAME.jsonl; machine, commit and time are added but to the first `keep`."""
    stamp = {
        "machine": this_machine().fingerprint,
        "commit": commit(),
        "utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.jsonl"
    stamped = rows[:keep] + [row | stamp for row in rows[keep:]]
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in stamped))
    return path


def read_rows(name: str) -> list[dict[str, Any]]:
    """Rows of results/NAME.jsonl, or none."""
    path = RESULTS / f"{name}.jsonl"
    if not path.is_file():
        return []
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machine_line(rows: list[dict[str, Any]]) -> str:
    """Where and when rows were measured."""
    first = rows[0]
    cpu = first["machine"].split(" #")[0]
    commits = list(dict.fromkeys(row["commit"] for row in rows))
    named = f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}"
    return f"\nMeasured on {cpu}, {named}, {first['utc'][:10]}.\n"
