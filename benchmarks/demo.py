"""The main job end to end on a drawn sample: finetune → export → inspect → bench → predict.

    make demo

Needs no network and no pretrained weights: the sample is drawn and the network is trained from
scratch on it, which real use would not do.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.sample import draw_data

HOME = Path("demo-run")
RUN, BUNDLE, PHOTOS = HOME / "run", HOME / "parts.edgetl", HOME / "photos"


def edgetl(*arguments: str | Path) -> None:
    """Show a command and run it; stop at the first that fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ edgetl {' '.join(words)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "edgetl", *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Run the demo in ./demo-run."""
    start = time.perf_counter()
    shutil.rmtree(HOME, ignore_errors=True)
    print("Drawing a sample of 1,200 photos: five machine parts on a belt.", flush=True)
    draw_data(PHOTOS, each=240, size=128, seed=0)
    print(
        "Training from scratch, because no pretrained weights come with edgetl. On real photos use "
        "--weights imagenet\nor a file, which is faster and far better.",
        flush=True,
    )
    edgetl(
        "finetune", PHOTOS, "--out", RUN, "--backbone", "mobilenet_v3_small",
        "--strategy", "scratch", "--size", "64", "--epochs", "14",
    )  # fmt: skip
    edgetl("export", RUN, "--target", "cpu", "--out", BUNDLE, "--search", "never")
    edgetl("inspect", BUNDLE, "--verify")
    edgetl("bench", BUNDLE, "--duration", "1")
    samples = sorted(PHOTOS.glob("*/0000.jpg"))
    edgetl("predict", BUNDLE, *samples)
    print(
        f"\nDone in {time.perf_counter() - start:.0f} s. The report is {RUN / 'report.html'}, the "
        f"bundle {BUNDLE}."
    )


if __name__ == "__main__":
    main()
