"""Write the generated parts of the documentation, or check that they are up to date.

    python -m benchmarks.docs [--check]

docs/cli.md comes from the commands' own help; what stands between `<!-- generated: NAME -->` and
`<!-- end -->` in README.md and docs/*.md comes from benchmarks/results, is code of tests/plugin, or
in docs/bundle.md says what the structs are (bundle_docs.py). The plot is figure.py's. No figure is
typed by hand.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import backbone_docs, bundle_docs, figure
from benchmarks.common import ROOT, machine_line, read_rows, table
from edgetl import options

VERBS = (
    "finetune", "export", "evaluate", "predict", "bench", "build", "compare", "inspect", "unpack",
    "devices", "backbones", "weights list", "weights fetch", "weights verify", "samples", "demo",
    "doctor",
)  # fmt: skip
GATE_LIMIT = 0.003  # nats at the default --max-drop
PLUGIN = ROOT / "tests" / "plugin"
PARTS = (("task", "Blobs", "decode"), ("engine", "open", ""))
BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)


def command_reference() -> str:
    """docs/cli.md."""
    parts = [
        "# Command line\n",
        "Generated from the commands' own help; do not edit. `python -m edgetl` is the same as "
        "`edgetl`.\n",
        "Exit codes: 0; 1 for an error that you can mend (one line on stderr: what, where, fix); "
        "2 for what the parser refuses; 130 on Ctrl-C.\nWith `--json`, stdout holds one JSON "
        "document and nothing else.\n",
    ]
    for verb in VERBS:
        done = subprocess.run(
            [sys.executable, "-m", "edgetl", *verb.split(), "--help"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"COLUMNS": "96", "TERM": "dumb", "NO_COLOR": "1"},
        )
        text = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
        parts.append(f"## {verb}\n\n```text\n{text}\n```\n")
        kind = getattr(options, f"{verb.capitalize()}Options", None)
        if kind is not None:
            keys = ", ".join(f"`{field.keys[0]}`" for field in options.fields(kind))
            parts.append(f"Keys of a `--config` file: {keys}.\n")
    return "\n".join(parts)


def training() -> str:
    """Accuracy and time of each strategy."""
    rows = [row for row in read_rows("main_job") if row["row"] == "finetune"]
    if not rows:
        return "Not measured yet.\n"
    body = [
        [
            f"`--strategy {row['strategy']}`",
            f"{row['test_accuracy']:.4f}",
            f"{row['test_macro_f1']:.4f}",
            f"{row['n']}",
            f"{row['wall_s']:.0f} s",
        ]
        for row in rows
    ]
    header = ["", "test accuracy", "test macro-F1", "photos", "wall time"]
    return table(header, body) + machine_line(rows)


def cell(value: float | None, digits: int) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def candidates() -> str:
    """Every candidate of the fine-tuned run, the refused ones too."""
    rows = [row for row in read_rows("export_search") if row["part"] == "clothing"]
    return _candidates([row for row in rows if row["row"] == "candidate"])


def cells() -> str:
    """INT8 candidates of the networks with squeeze-and-excitation."""
    rows = [row for row in read_rows("export_search") if row["part"] == "cells"]
    shown = [row for row in rows if row["row"] == "candidate" and row["precision"] == "int8"]
    return _candidates(shown, run=True)


def _candidates(rows: list[dict[str, Any]], *, run: bool = False) -> str:
    if not rows:
        return "Not measured yet.\n"
    body = [
        [
            *([row["run"].removeprefix("cells-")] if run else []),
            f"**{row['recipe']}**" if row["chosen"] else row["recipe"],
            cell(row["accuracy"], 4),
            cell(row["agreement"], 4),
            cell(row["divergence"], 4),
            cell(row.get("test_drop"), 4),
            *([] if run else [cell(row["p50_ms"], 2)]),
            f"refused: {row['rejected']}" if row["rejected"] else "passed",
        ]
        for row in rows
    ]
    header = [
        *(["network"] if run else []),
        "candidate", "validation accuracy", "agreement", "divergence", "test drop",
        *([] if run else ["p50 ms"]), "gate",
    ]  # fmt: skip
    return table(header, body) + machine_line(rows)


def latency() -> str:
    """What edgetl chose against plain builds of the same ONNX, in interleaved rounds."""
    rows = [row for row in read_rows("export_search") if row["row"] == "latency"]
    if not rows:
        return "Not measured yet.\n"
    names = sorted({r["candidate"] for r in rows if r["candidate"].startswith("plain-")})
    body = []
    for backbone in dict.fromkeys(row["backbone"] for row in rows):
        mine = {row["candidate"]: row for row in rows if row["backbone"] == backbone}
        chosen = next(row for row in mine.values() if row["chosen"])
        kept = ", ".join(chosen["kept_float"]) or "–"
        body.append(
            [
                backbone,
                *(cell(mine[name]["p50_ms"], 2) for name in names),
                f"**{chosen['p50_ms']:.2f}** {chosen['candidate']}",
                f"**{chosen['ratio_to_best_plain']:.3f}**",
                kept,
            ]
        )
    header = ["p50, ms", *names, "edgetl", "× best plain", "kept in float"]
    return table(header, body) + machine_line(rows)


def export_time() -> str:
    """How long exports took."""
    rows = [row for row in read_rows("export_search") if row["row"] == "export"]
    if not rows:
        return "Not measured yet.\n"
    body = [[row["how"], f"{row['wall_s']:.0f} s"] for row in rows]
    return table(["export of the fine-tuned MobileNetV2", "wall time"], body) + machine_line(rows)


def default_export() -> str:
    """What the default export chose for fine-tuned networks, on photos that decided nothing."""
    rows = read_rows("default_export")
    if not rows:
        return "Not measured yet.\n"
    body = [
        [
            str(seed),
            f"{row['reference_accuracy']:.4f}",
            row["chosen"],
            f"{row['wall_s']:.0f} s",
            f"{row['divergence']:.4f}",
            f"{row['rise']:.4f} ({row['rise_interval'][0]:.4f}…{row['rise_interval'][1]:.4f})",
            f"{row['drop']:.4f}",
            *([f"{row['ratio']:.3f} × {row['against']}"] if "ratio" in row else ["–"]),
        ]
        for seed, row in enumerate(rows)
    ]
    header = ["seed", "FP32 accuracy", "chosen", "export", "divergence", "rise of log-loss (95 %)"]
    return table([*header, "drop", "time against the choice before"], body) + machine_line(rows)


def gate_study() -> str:
    """What candidates within the gate's limit lost on large test sets, by data set."""
    rows = [row for row in read_rows("gate") if row["divergence_validation"] <= GATE_LIMIT]
    if not rows:
        return "Not measured yet.\n"
    body = []
    for data in sorted({row["data"] for row in rows}):
        of = [row for row in rows if row["data"] == data]
        worst = max(of, key=lambda row: row["drop_test"])
        body.append(
            [
                data,
                str(of[0]["n_test"]),
                str(len(of)),
                f"{worst['drop_test']:.4f}",
                f"{worst['run'].split('-')[2]}, {worst['recipe']}",
                f"{max(row['rise_test'] for row in of):.4f}",
            ]
        )
    header = ["data", "test photos", "candidates within the limit", "largest drop", "of"]
    return table([*header, "largest rise of log-loss"], body) + machine_line(rows)


def pinning() -> str:
    """Times of OpenVINO with its threads pinned to cores and not."""
    rows = read_rows("pinning")
    if not rows:
        return "Not measured yet.\n"
    body = [
        [
            row["candidate"],
            str(row["threads"]),
            str(row["processes"]),
            "yes" if row["pinned"] else "no",
            f"{row['p50_ms']:.2f}",
        ]
        for row in rows
    ]
    return table(["candidate", "threads", "processes", "pinned", "p50 ms"], body) + machine_line(
        rows
    )


def versions(results: str = "versions") -> str:
    """The chosen candidate of this version against an earlier one's."""
    rows = read_rows(results)
    if not rows:
        return "Not measured yet.\n"
    body = [[row["name"], row["old"], row["new"], f"{row['ratio']:.3f}"] for row in rows]
    header = ["network", "chosen before", "chosen now", "time, now / before"]
    return table(header, body) + machine_line(rows)


def tensorrt_api() -> str:
    """What of TensorRT's Python API was found in real packages."""
    rows = read_rows("tensorrt_api")
    if not rows:
        return "Not checked yet.\n"
    body = [
        [
            row["tensorrt"],
            str(len(row["checked"])),
            str(len(row["calls"])),
            ", ".join([*row["missing"], *row["misfit"]]) or "none",
            ", ".join(row["absent_and_asked_for_first"]) or "none",
        ]
        for row in rows
    ]
    header = ["package", "names", "calls", "missing or misfitting", "absent, and asked for first"]
    return table(header, body)


def step() -> str:
    """Training step rates."""
    rows = read_rows("training_step")
    if not rows:
        return "Not measured yet.\n"
    body = [[row["loop"], f"{row['images_per_s']:.1f}", f"{row['ratio']:.2f}"] for row in rows]
    return table(["training loop", "photos/s", "× plain"], body) + machine_line(rows)


def end_to_end() -> str:
    """File to top-k."""
    rows = {row["row"]: row for row in read_rows("end_to_end")}
    if not rows:
        return "Not measured yet.\n"
    file, large = rows["file to top-k"], rows["12 megapixels"]
    body = [
        [
            "JPEG file → top-k, p50",
            f"{file['p50_ms']:.2f} ms",
            f"{file['ratio']:.2f} × decode + resize + bare engine ({file['bare_p50_ms']:.2f} ms)",
        ],
        [
            "12-megapixel JPEG → top-k, p50",
            f"{large['p50_ms']:.2f} ms",
            f"accuracy {large['accuracy_12mp']:.4f}, originals {large['accuracy']:.4f} "
            f"({large['n']} photos)",
        ],
    ]
    return table([f"runtime, {file['candidate']}", "", ""], body) + machine_line(
        list(rows.values())
    )


def multilabel() -> str:
    """Every candidate of the multi-label run."""
    rows = [row for row in read_rows("multilabel") if row["row"] == "candidate"]
    if not rows:
        return "Not measured yet.\n"
    body = [
        [
            f"**{row['name']}**" if row["chosen"] else row["name"],
            cell(row["map"], 4),
            cell(row.get("test_map"), 4),
            cell(row.get("test_macro_f1"), 4),
            f"refused: {row['rejected']}" if row["rejected"] else "passed",
        ]
        for row in rows
    ]
    header = ["candidate", "validation mAP", "test mAP", "test macro-F1", "gate"]
    return table(header, body) + machine_line(rows)


def work_once() -> str:
    """Counts of scans, decodes and forward passes, and memory, before and after."""
    rows = read_rows("work_once")
    if not rows:
        return "Not measured yet.\n"
    body = []
    for row in rows:
        counts = row["counts"]
        views = [f"{v['decodes'] / v['photos']:.2f} (≤ {v['most']})" for v in row["views"].values()]
        passes = [counts.get(kind, 0) for kind in ("trained", "scored", "engine_runs")]
        numbers = [f"{n:,}" for n in (counts.get("scans", 0), *passes, row["peak_rss_mib"])]
        body.append([row["verb"], row["version"], numbers[0], " · ".join(views), *numbers[1:]])
    header = [
        *("verb", "version", "scans", "decodes a photo that is read, by view (most)"),
        *("photos trained", "photos scored by PyTorch", "engine runs", "peak RSS, MiB"),
    ]
    return f"{rows[0]['photos']:,} photos.\n\n" + table(header, body) + machine_line(rows)


def points() -> str:
    """The plug-in's entry points."""
    text = (PLUGIN / "pyproject.toml").read_text("utf-8")
    kept = text[text.index('[project.entry-points."') : text.index("[tool.setuptools]")]
    return f"```toml\n{kept.strip()}\n```\n".replace("\n\n", "\n")


def code() -> str:
    """What a task, an input, an engine and a backend of the plug-in do, without docstrings."""
    shown = []
    for module, name, part in PARTS:
        text = (PLUGIN / "edgetl_blobs" / f"{module}.py").read_text("utf-8")
        top = _defined(ast.parse(text), name)
        head = [text.splitlines()[top.lineno - 1]] if part else []
        body = _source(text, _defined(top, part) if part else top)
        shown.append("\n".join([f"# {module}.py", *head, body]))
    return "```python\n{}\n```\n".format("\n\n\n".join(shown))


def _defined(tree: Any, name: str) -> Any:
    return next(node for node in tree.body if getattr(node, "name", "") == name)


def _source(text: str, node: Any) -> str:
    """Its lines but for the docstring, which is there."""
    said, lines = node.body[0], text.splitlines()
    return "\n".join(
        lines[node.lineno - 1 : said.lineno - 1] + lines[said.end_lineno : node.end_lineno]
    )


GENERATED: dict[str, Callable[[], str]] = {
    "training": training,
    "candidates": candidates,
    "cells": cells,
    "export-latency": latency,
    "export-time": export_time,
    "default-export": default_export,
    "gate-study": gate_study,
    "pinning": pinning,
    "versions": versions,
    "versions-foundation": lambda: versions("versions_foundation"),
    "tensorrt-api": tensorrt_api,
    "training-step": step,
    "end-to-end": end_to_end,
    "multilabel": multilabel,
    "work-once": work_once,
    "plugin-points": points,
    "plugin-code": code,
    **backbone_docs.GENERATED,
    **bundle_docs.GENERATED,
}


def filled(text: str) -> str:
    """A document with its generated blocks written anew."""
    return BLOCK.sub(lambda m: f"{m[1]}{GENERATED[m[2]]()}{m[3]}", text)


def main() -> None:
    """Write, or check and exit 1 when something is out of date."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--check", action="store_true")
    check = given.parse_args().check
    wanted = {ROOT / "docs" / "cli.md": command_reference()}
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if BLOCK.search(text):
            wanted[path] = filled(text)
    stale = [p for p, t in wanted.items() if not p.is_file() or p.read_text("utf-8") != t]
    if not figure.is_current():
        stale.append(figure.PATH)
    if check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: run `make docs`", file=sys.stderr)
        sys.exit(bool(stale))
    for path in stale:
        if path == figure.PATH:
            figure.draw()
        else:
            path.write_text(wanted[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
