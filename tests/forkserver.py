"""Runs edgetl's command line in forks of one process that has imported its libraries already.

Importing torch takes longer than what most commands do. Each request, a line of JSON on standard
input, is one fork with the request's folder and files for its output; the answers, a line each on
standard output, are its process and then its exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback

LIBRARIES = ("edgetl.cli.app", "edgetl.evaluation", "edgetl.exporter.export", "edgetl.report.page",
             "edgetl.train.finetune", "onnxruntime", "openvino")  # fmt: skip


def become(
    words: list[str], folder: str, environment: dict[str, str], stdout: str, stderr: str
) -> int:
    """Be the command, in a fork; its exit code."""
    from edgetl.cli import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, stdout, os.O_WRONLY),
        (2, stderr, os.O_WRONLY),
    ):
        os.dup2(os.open(path, flags), number)
    sys.argv = ["edgetl", *words]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def say(number: int) -> None:
    """One line on standard output."""
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def serve() -> None:
    """Answer requests until standard input ends."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                code = become(**json.loads(line))
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        say(child)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    serve()
