"""Inference engines, one module each; importing this package imports none of them."""

from __future__ import annotations

import importlib
from typing import cast, get_args

from edgetl.engines import base
from edgetl.engines.base import Description, Engine, Images, Options, Outputs, Session
from edgetl.errors import EngineMissingError
from edgetl.spec import EngineName

__all__ = [
    "NAMES",
    "Description",
    "Engine",
    "Images",
    "Options",
    "Outputs",
    "Session",
    "check_settings",
    "find_engine",
    "ready_engine",
]

NAMES: tuple[EngineName, ...] = get_args(EngineName)


def find_engine(name: EngineName) -> Engine:
    """The engine's module."""
    return cast(Engine, importlib.import_module(f"edgetl.engines.{name}"))


def check_settings(name: EngineName, session: dict[str, str]) -> None:
    """EngineError for a session option that a candidate of this engine may not set."""
    base.check_settings(name, find_engine(name).SETTABLE, session)


def ready_engine(name: EngineName, session: dict[str, str] | None = None) -> Engine:
    """The engine, ready for these session options; EngineMissingError says why it is not.

    Raises EngineError for options that a candidate may not set, whether the engine is here or not.
    """
    engine = find_engine(name)
    base.check_settings(name, engine.SETTABLE, session or {})
    reason = engine.missing(session)
    if reason is not None:
        what, _, fix = reason.partition(" Fix: ")
        raise EngineMissingError(what, fix=fix)
    return engine
