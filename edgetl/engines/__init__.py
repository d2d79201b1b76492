"""Inference engines, one module each; importing this package imports none of them."""

from __future__ import annotations

from edgetl.engines import base
from edgetl.engines.base import (
    Builder,
    Description,
    Engine,
    Images,
    Missing,
    Options,
    Outputs,
    Session,
)
from edgetl.errors import EngineMissingError
from edgetl.registry import Registry

__all__ = [
    "ENGINES",
    "Builder",
    "Description",
    "Engine",
    "Images",
    "Missing",
    "Options",
    "Outputs",
    "Session",
    "check_settings",
    "find_engine",
    "missing",
    "ready_engine",
]

ENGINES: Registry[Engine] = Registry(
    "engine",
    "edgetl.engines",
    {
        "onnxruntime": "edgetl.engines.onnxruntime",
        "openvino": "edgetl.engines.openvino",
        "tensorrt": "edgetl.engines.tensorrt",
    },
    Engine,
)


def find_engine(name: str) -> Engine:
    """The engine's module; UnknownNameError when there is none of that name."""
    return ENGINES.find(name)


def check_settings(name: str, session: dict[str, str]) -> None:
    """EngineError for a session option that a candidate of this engine may not set.

    An engine that is not known here runs nothing, and is asked nothing.
    """
    if name in ENGINES:
        base.check_settings(name, find_engine(name).SETTABLE, session)


def ready_engine(name: str, session: dict[str, str] | None = None) -> Engine:
    """The engine, ready for these session options; EngineMissingError says why it is not.

    Raises EngineError for options that a candidate may not set, whether the engine is here or not.
    """
    check_settings(name, session or {})
    if absent := missing(name, session):
        raise EngineMissingError(absent.message, fix=absent.fix)
    return find_engine(name)


def missing(name: str, session: dict[str, str] | None = None) -> Missing | None:
    """Why an engine, or a candidate with these session options, cannot run here, or None."""
    if name not in ENGINES:
        known = ", ".join(ENGINES.names())
        return Missing(f"There is no engine '{name}', only {known}.", "install what adds it")
    return find_engine(name).missing(session)
