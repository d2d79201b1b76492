"""The command line: one file a verb, each parses, calls and prints."""

from __future__ import annotations


def main() -> None:
    """Entry point of `edgetl`."""
    from edgetl.cli.app import app

    app(prog_name="edgetl")
