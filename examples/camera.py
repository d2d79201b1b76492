"""Classify what a camera sees, always the newest frame: a slow model drops frames, and never lags.

    python examples/camera.py model.edgetl              # the first camera
    python examples/camera.py model.edgetl --source 1   # another one
    python examples/camera.py model.edgetl --source film.mp4

Needs OpenCV besides edgetl's runtime: pip install opencv-python-headless.
"""
# ruff: noqa: T201  (a script talks to who runs it)

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import sys
import threading
import time
from typing import Any, NamedTuple

import edgetl
from edgetl.errors import EdgetlError


class Frame(NamedTuple):
    """One picture, as OpenCV gives it: uint8 (H, W, 3), blue first."""

    number: int  # from 1, counting those that nobody looked at
    bgr: Any


class Newest(contextlib.AbstractContextManager["Newest"]):
    """A thread that reads frames as they come and keeps the newest one only.

    Without it, frames queue up in the driver while the model runs, and the answers fall behind
    what is in front of the camera, further with every frame.
    """

    def __init__(self, capture: Any, *, seconds: float) -> None:
        """`seconds` lie between two frames of a film; 0 for a camera, which keeps time itself."""
        self._capture, self._seconds = capture, seconds
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        number, due = 0, time.monotonic()
        while not self._ended:
            good, picture = self._capture.read()
            number += 1
            with self._changed:
                self._ended = self._ended or not good
                if good:
                    self._frame = Frame(number, picture)
                self._changed.notify()
            due += self._seconds
            time.sleep(max(0.0, due - time.monotonic()))

    def take(self) -> Frame | None:
        """The newest frame that was not taken yet, as soon as there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame or self._ended)
            frame, self._frame = self._frame, None
            return frame

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()
        self._capture.release()


def opencv() -> Any:
    """OpenCV's module; says which package it is in where it is missing."""
    try:
        return importlib.import_module("cv2")
    except ImportError:
        sys.exit("error: OpenCV is not installed. Fix: pip install opencv-python-headless")


def watch(bundle: str, source: str, frames: int, threads: int) -> None:
    """Print a line for each frame that was looked at."""
    cv2 = opencv()
    live = source.isdigit()
    capture = cv2.VideoCapture(int(source) if live else source)
    if not capture.isOpened():
        sys.exit(f"error: OpenCV cannot open {source}. Fix: check the number or path.")
    per_second = 0.0 if live else capture.get(cv2.CAP_PROP_FPS) or 25.0
    seconds = 1 / per_second if per_second else 0.0
    seen = 0
    with edgetl.load(bundle, threads=threads) as model, Newest(capture, seconds=seconds) as newest:
        while (frame := newest.take()) and (not frames or seen < frames):
            start = time.perf_counter()
            # Models read RGB. Blue and red swapped raise no error; the answers are only worse.
            rgb = cv2.cvtColor(frame.bgr, cv2.COLOR_BGR2RGB)
            best = model.predict(rgb, top=1)[0].predictions[0]
            seen += 1
            print(
                f"frame {frame.number}: {best.label} ({best.probability:.1%}), "
                f"{1e3 * (time.perf_counter() - start):.1f} ms, {frame.number - seen} dropped",
                flush=True,
            )


def main() -> None:
    """Read the command line and watch until the film ends or Ctrl-C."""
    parser = argparse.ArgumentParser(description="Classify what a camera sees.")
    parser.add_argument("bundle", help="what `edgetl export` wrote")
    parser.add_argument("--source", default="0", help="number of a camera, or a film (default: 0)")
    parser.add_argument("--frames", type=int, default=0, help="stop after so many; 0: never")
    parser.add_argument("--threads", type=int, default=0, help="0: every core")
    asked = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        watch(asked.bundle, asked.source, asked.frames, asked.threads)


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        main()
    except EdgetlError as error:  # what went wrong, and the fix
        sys.exit(f"error: {error}")
