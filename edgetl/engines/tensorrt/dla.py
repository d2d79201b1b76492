"""The deep learning accelerator (DLA) of some Jetsons: whether it is here, and what runs on it.

Not executed on a DLA so far; the refusals are tested.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from edgetl.engines.base import Missing
from edgetl.engines.tensorrt.log import runtime_of
from edgetl.errors import EngineError
from edgetl.spec import Record

LOG = logging.getLogger("edgetl")
CONSTANT = "(CONSTANT)"  # weights, which TensorRT names among what it moves to the GPU


class Placed(Record, frozen=True, kw_only=True):
    """What was asked of a DLA core; `fallen` holds what it cannot run: kinds by layer name."""

    core: int
    layers: int
    fallen: dict[str, str]

    def report(self, switched: list[str]) -> str:
        """Log every layer that the GPU runs instead; a summary such as "DLA core 0, 51 of 53 …".

        `switched` are the builder's own warnings: it moves more layers than it foretells, such as
        when a network falls into too many pieces.
        """
        for name, kind in self.fallen.items():
            LOG.warning("DLA core %d: %s (%s) runs on the GPU instead", self.core, name, kind)
        known = [re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w.])") for name in self.fallen]
        words = [line for line in dict.fromkeys(switched) if CONSTANT not in line]
        more = [line for line in words if not any(name.search(line) for name in known)]
        for line in more:
            LOG.warning("DLA core %d: %s", self.core, line)
        left = max(0, self.layers - len(self.fallen) - len(more))
        return f"DLA core {self.core}, {left} of {self.layers} layers"


def dla_refusal(trt: Any, core: int) -> Missing | None:
    """Why a DLA core cannot be used here, or None."""
    fix = (
        "use a candidate without DLA; DLA needs a module that has one (Xavier, Orin NX, AGX "
        "Orin) and TensorRT up to 10.7 or from 11.4.1"
    )
    if not hasattr(trt.DeviceType, "DLA"):
        return Missing(f"TensorRT {trt.__version__} has no DLA.", fix)
    runtime = runtime_of(trt)
    cores = int(runtime.num_DLA_cores)
    if core < cores:
        return None
    if not cores:
        return Missing(f"TensorRT {trt.__version__} finds no DLA core here.", fix)
    return Missing(
        f"There is no DLA core {core} here, only 0 to {cores - 1}.", "choose one of these"
    )


def place_on_dla(trt: Any, network: Any, config: Any, core: int) -> Placed:
    """Ask for the DLA where a layer can run on it; EngineError when none can."""
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    layers = [layer for layer in layers if layer.type != trt.LayerType.CONSTANT]
    fallen = [layer for layer in layers if not config.can_run_on_DLA(layer)]
    if len(fallen) == len(layers):
        raise EngineError(
            "No layer of this model can run on the DLA.", fix="use a candidate without DLA."
        )
    kinds = {layer.name: str(layer.type).rpartition(".")[2] for layer in fallen}
    return Placed(core=core, layers=len(layers), fallen=kinds)
