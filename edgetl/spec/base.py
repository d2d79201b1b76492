"""Bases of every data type that is stored or passed between floors, and the words they share.

All are frozen and keyword-only. What users write (`Device`, `Recipe`, options) refuses unknown
fields; what programs write (`Manifest`, `RunRecord` and their parts) ignores fields that a later
minor version may add. Fractions are 0…1, times carry their unit in the name.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Fit = Literal["crop", "pad", "squash"]
Interpolation = Literal["bilinear", "bicubic"]
Order = Literal["rgb", "bgr"]  # of colours
Size = int | tuple[int, int]  # of a square, or (height, width); pixels
LARGEST_SIDE = 8192  # pixels of an input
Strategy = Literal["auto", "probe", "finetune", "scratch"]
TorchDevice = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Split = Literal["train", "validation", "test"]
Calibrator = Literal["minmax", "percentile", "entropy"]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what users write: unknown fields are refused."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what programs write: unknown fields are ignored."""
