"""Every data type that is stored or passed between floors, a file for each concern."""

from edgetl.spec.base import (
    LARGEST_SIDE,
    Calibrator,
    Fit,
    Interpolation,
    Order,
    Precision,
    Record,
    Size,
    Split,
    Strategy,
    Strict,
    TorchDevice,
)
from edgetl.spec.data import DataSummary, Normalize, Photo, SkippedFile, WeightsOrigin
from edgetl.spec.device import Device, Recipe
from edgetl.spec.measurement import Measurement

__all__ = [
    "LARGEST_SIDE",
    "Calibrator",
    "DataSummary",
    "Device",
    "Fit",
    "Interpolation",
    "Measurement",
    "Normalize",
    "Order",
    "Photo",
    "Precision",
    "Recipe",
    "Record",
    "Size",
    "SkippedFile",
    "Split",
    "Strategy",
    "Strict",
    "TorchDevice",
    "WeightsOrigin",
]
