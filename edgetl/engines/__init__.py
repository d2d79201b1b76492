"""Inference engines, one module each; importing this package imports none of them."""

from __future__ import annotations

import importlib
from typing import cast, get_args

from edgetl.engines.base import Description, Engine, Images, Logits, Options, Session
from edgetl.errors import EngineMissingError
from edgetl.spec import EngineName

__all__ = [
    "NAMES",
    "Description",
    "Engine",
    "Images",
    "Logits",
    "Options",
    "Session",
    "find_engine",
    "ready_engine",
]

NAMES: tuple[EngineName, ...] = get_args(EngineName)


def find_engine(name: EngineName) -> Engine:
    """The engine's module."""
    return cast(Engine, importlib.import_module(f"edgetl.engines.{name}"))


def ready_engine(name: EngineName, session: dict[str, str] | None = None) -> Engine:
    """The engine, ready for these session options; EngineMissingError says why it is not."""
    engine = find_engine(name)
    reason = engine.missing(session)
    if reason is not None:
        what, _, fix = reason.partition(" Fix: ")
        raise EngineMissingError(what, fix=fix)
    return engine
