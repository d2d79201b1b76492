"""Keep the libraries behind export from talking: over the network, or on the terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

_PACKAGE = "openvino_telemetry"
_METHODS = (
    "__init__",
    "init",
    "send",
    "send_event",
    "send_error",
    "send_stack_trace",
    "send_opt_in_event",
    "start_session",
    "end_session",
    "force_shutdown",
)


def silence() -> None:
    """Switch telemetry off in this process; call it before OpenVINO or NNCF is imported.

    Both treat `openvino_telemetry` as optional: where its import fails they use stubs of their
    own. Setting its entry in `sys.modules` to None makes the import fail, before the package can
    read or write consent files or open a connection. If it was imported already, its methods are
    replaced by ones that do nothing. Environment and files of the user stay as they are.
    """
    loaded = sys.modules.get(_PACKAGE)
    if loaded is None:
        sys.modules[_PACKAGE] = None  # type: ignore[assignment]
        return
    sender = sys.modules.get(f"{_PACKAGE}.utils.sender")
    for kind in (getattr(loaded, "Telemetry", None), getattr(sender, "TelemetrySender", None)):
        for name in _METHODS:
            if kind is not None and hasattr(kind, name):
                setattr(kind, name, _nothing)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop prints, progress bars, log lines and warnings; restore all of them on leaving."""
    before, level = logging.root.manager.disable, logging.root.level
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        logging.root.setLevel(level)  # model conversion leaves it raised when it fails


def _nothing(*_: Any, **__: Any) -> None:
    """Stand in for every method of the telemetry classes."""
