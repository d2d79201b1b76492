"""`edgetl devices` and `edgetl doctor`."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from edgetl.cli.common import Answer, Debug, Json, table, verb
from edgetl.machine import this_machine
from edgetl.recipes import all_devices, find_device
from edgetl.runtime.doctor import examine


@verb
def devices(
    name: Annotated[str | None, typer.Argument(help="One profile in full.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> Answer:
    """List the targets of `export`, or show one."""
    if name is not None:
        device = find_device(name)
        rows = [
            [key, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]
            for key, value in msgspec.to_builtins(device).items()
            if value is False or value not in ("", 0, [], (), None)
        ]
        return device, [table(device.title, ["field", "value"], rows)]
    found = list(all_devices().values())
    rows = [
        [
            d.name,
            d.title,
            "yes" if d.runtime else "no: raw ONNX by unpack",
            ", ".join(d.members or d.recipes),
        ]
        for d in found
    ]
    listed = table("", ["target", "device", "runtime", "recipes or members"], rows)
    return found, [listed, f"cpu is this machine: {this_machine().fingerprint}"]


@verb
def doctor(json: Json = False, debug: Debug = False) -> Answer:
    """Say what is here, what is missing, and the exact fix."""
    machine, parts = this_machine(), examine()
    about = (
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB, {machine.arch}, "
        f"{machine.system}; {', '.join(machine.features) or 'no known features'}"
    )
    rows = [[p.name, p.version or "missing", p.purpose, p.fix] for p in parts]
    listed = table("", ["part", "version", "for", "fix"], rows)
    return {"machine": machine, "parts": parts}, [about, listed]
