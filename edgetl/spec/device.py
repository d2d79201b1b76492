"""Device profiles and export recipes."""

from __future__ import annotations

from typing import Literal

from edgetl.spec.base import Calibrator, Precision, Strict


class Device(Strict, frozen=True, kw_only=True):
    """A device profile: devices/NAME.toml (fields explained in devices/README.md)."""

    name: str
    title: str
    kind: Literal["cpu", "x86", "arm", "jetson"]
    recipes: tuple[str, ...]
    dla_recipes: tuple[str, ...] = ()  # tried as well with `export --dla`
    runtime: bool = True
    members: tuple[str, ...] = ()
    arch: str = ""
    cpu: str = ""
    cores: int = 0
    features: tuple[str, ...] = ()
    gpu: str = ""
    compute_capability: str = ""
    memory_gib: float = 0
    bandwidth_gbs: float = 0
    dla_cores: int = 0
    tops_int8_dense: float = 0
    tflops_fp16_dense: float = 0
    power_modes: tuple[str, ...] = ()
    jetpack: tuple[str, ...] = ()
    tensorrt: tuple[str, ...] = ()
    python: str = ""
    notes: str = ""
    sources: tuple[str, ...] = ()


class Recipe(Strict, frozen=True, kw_only=True):
    """An export recipe: export/NAME.toml (fields explained in export/README.md)."""

    name: str
    title: str
    engine: str
    precision: Precision
    form: str  # of those that the engine's backend knows
    arch: tuple[str, ...] = ()
    min_engine: str = ""
    max_opset: int = 17
    activation: Literal["", "quint8", "qint8"] = ""
    per_channel: bool = False
    calibration: tuple[Calibrator, ...] = ()  # tried in turn; the nearest to FP32 is kept
    calibration_images: int = 0
    exclude: tuple[str, ...] = ()  # operator types that stay in floating point
    fold_normalisation: bool = False  # into the first convolution; exporter/onnx/fold.py
    preset: Literal["", "performance", "mixed"] = ""
    fast_bias_correction: bool = True
    session: dict[str, str] = {}
    notes: str = ""
