"""Inference engines, one module each; importing this package imports none of them."""

from __future__ import annotations

from edgetl.engines import base
from edgetl.engines.base import Description, Engine, Images, Missing, Options, Outputs, Session
from edgetl.errors import EngineMissingError
from edgetl.registry import Registry

__all__ = [
    "ENGINES",
    "Description",
    "Engine",
    "Images",
    "Missing",
    "Options",
    "Outputs",
    "Session",
    "check_settings",
    "find_engine",
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
)


def find_engine(name: str) -> Engine:
    """The engine's module; UnknownNameError when there is none of that name."""
    return ENGINES.find(name)


def check_settings(name: str, session: dict[str, str]) -> None:
    """EngineError for a session option that a candidate of this engine may not set."""
    base.check_settings(name, find_engine(name).SETTABLE, session)


def ready_engine(name: str, session: dict[str, str] | None = None) -> Engine:
    """The engine, ready for these session options; EngineMissingError says why it is not.

    Raises EngineError for options that a candidate may not set, whether the engine is here or not.
    """
    engine = find_engine(name)
    base.check_settings(name, engine.SETTABLE, session or {})
    if absent := engine.missing(session):
        raise EngineMissingError(absent.message, fix=absent.fix)
    return engine
