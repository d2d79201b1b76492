"""Device profiles: devices/NAME.toml."""

from __future__ import annotations

import functools

from edgetl.errors import UnknownNameError
from edgetl.recipes import packaged, parse_toml
from edgetl.spec import Device


@functools.lru_cache(maxsize=1)
def all_devices() -> dict[str, Device]:
    """Every device profile by name."""
    found = {
        stem: parse_toml(data, Device, where=f"devices/{stem}.toml")
        for stem, data in packaged("devices")
    }
    return dict(sorted(found.items()))


def find_device(name: str) -> Device:
    """Look a target up; UnknownNameError suggests the nearest names."""
    devices = all_devices()
    if name not in devices:
        raise UnknownNameError("target", name, devices, listing="edgetl devices")
    return devices[name]
