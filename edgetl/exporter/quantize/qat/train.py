"""Quantization-aware training: the canonical ONNX's own weights, tuned so that integers serve them.

The canonical ONNX is run in PyTorch with every tensor that targets quantize rounded to 8 bits, and
its weights learn to give the unrounded network's answers and last features again
(self-distillation: no labels are needed). Features matter: a network is sure of the photos that it
was trained with, so that their logits alone say little (as in FitNets, Romero et al., 2015); photos
cut together from two make it less sure. Rounding passes gradients straight through (Bengio et al.,
2013); weights are rounded per output channel by their own range, activations by ranges seen on
calibration photos, as in Jacob et al. (CVPR 2018). What comes out is a canonical ONNX of the same
graph, and ranges for its Q/DQ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from onnx import numpy_helper
from torch import nn

from edgetl.errors import TraceError
from edgetl.exporter.candidates import mean_distance
from edgetl.exporter.context import BuildContext
from edgetl.exporter.onnx.checks import parse_onnx, takes_one
from edgetl.exporter.quantize.calibration import Ranges, Rounding
from edgetl.exporter.quantize.qat.module import OnnxModule
from edgetl.inputs.base import Pixels
from edgetl.machine import this_machine
from edgetl.tasks.base import Outputs, join
from edgetl.train.infer import keep_to_cores, memory_kept
from edgetl.train.tasks.base import TrainTask, twin_of

BATCH = 32
RATE = 0.02  # of Adam, in rounding steps of a weight's channel; falls to 0 as a cosine
BIAS_RATE = 1e-3  # the same in deviations of the layer's outputs
TEMPERATURE = 3.0  # of the answers that are compared: a network is sure of its own photos
MIXED = 0.5  # share of the batches whose photos are cut together from two
PASSES = 1.5  # over the photos
LEAST_STEPS, MOST_STEPS = 60, 160
CALIBRATING = 128  # photos that set the ranges of activations
PHOTOS = 4096  # at most so many are trained with


class Trained(NamedTuple):
    """A canonical ONNX with other weights, the ranges of its activations, and what was gained."""

    canonical: bytes
    ranges: Ranges
    note: str


@memory_kept()
def train_integers(
    context: BuildContext, *, rounding: Rounding, progress: Callable[[str], None]
) -> Trained:
    """Train the context's canonical for INT8 on its own photos; its graph is not changed.

    `rounding` is that of activations. Raises TraceError for an operator that is not known here.
    """
    if takes_one(parse_onnx(context.canonical)):
        raise TraceError("The network takes one image a run; training needs several at once.")
    keep_to_cores()
    photos = context.photos(PHOTOS)
    teacher = OnnxModule(context.canonical)
    student = OnnxModule(context.canonical, rounding)
    task = context.source.task
    held, _ = context.held_out()
    goal = _outputs(teacher, held)
    _observe(student, photos[:CALIBRATING])
    before = mean_distance(task, goal, _outputs(student, held))
    steps = max(LEAST_STEPS, min(MOST_STEPS, math.ceil(PASSES * len(photos) / BATCH)))
    _fit(student, teacher, twin_of(task), photos, steps=steps, progress=progress)
    _observe(student, photos[:CALIBRATING])  # the ranges of the weights as they are now
    after = mean_distance(task, goal, _outputs(student, held))
    note = f"QAT: {steps} steps brought the divergence from FP32 from {before:.4f} to {after:.4f}"
    if not after < before:
        return Trained(context.canonical, {}, f"{note}; the weights stay as they were")
    return Trained(_written(context.canonical, student), dict(student.ranges), note)


@torch.no_grad()
def _observe(student: OnnxModule, images: Pixels) -> None:
    """Observe the ranges of activations afresh, from the second time on with rounded weights."""
    student.ranges.clear()
    student.observe = True
    for block in _blocks(images):
        student(block)
    student.observe = False


def _fit(
    student: OnnxModule,
    teacher: OnnxModule,
    twin: TrainTask,
    photos: Pixels,
    *,
    steps: int,
    progress: Callable[[str], None],
) -> None:
    """Bring the student's answers and last features to the teacher's."""
    optimizer = torch.optim.Adam(_groups(student), fused=True)
    falling = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    order = np.random.default_rng(0)
    bf16 = this_machine().bf16
    start, queue = time.monotonic(), np.empty(0, np.int64)
    for step in range(steps):
        if len(queue) < min(BATCH, len(photos)):
            queue = order.permutation(len(photos))
        chosen, queue = np.sort(queue[:BATCH]), queue[BATCH:]
        images = torch.from_numpy(_varied(photos[chosen], order))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            with torch.no_grad():
                wanted, goal = teacher.answer(images)
            found, features = student.answer(images)
        loss = twin.distil(wanted, found, TEMPERATURE)
        if goal is not None and features is not None:
            loss = loss + _distance(goal, features)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        falling.step()
        if step % 10 == 9 or step == steps - 1:
            took = time.monotonic() - start
            progress(f"QAT: step {step + 1} of {steps}, {took:.0f} s")


def _groups(student: OnnxModule) -> list[dict[str, Any]]:
    """Weights, and every bias with a rate of its own: Adam's steps are as long as the rate says.

    One rate for all would be too short for the biases, which undo what rounding shifts.
    """
    weights, biases = list[nn.Parameter](), list[dict[str, Any]]()
    for tensor, name in student.trained.items():
        parameter = student.get_parameter(name)
        if tensor in student.spreads:
            biases.append({"params": [parameter], "lr": BIAS_RATE * student.spreads[tensor]})
        else:
            weights.append(parameter)
    return [{"params": weights, "lr": RATE}, *biases]


def _varied(block: Pixels, order: np.random.Generator) -> Pixels:
    """The photos, half of the time mirrored, half of the time with a part of another one each."""
    if order.random() < 0.5:
        block = block[:, :, ::-1]
    if order.random() < MIXED:
        axis = int(order.integers(1, 3))
        cut = int(block.shape[axis] * order.uniform(0.3, 0.7))
        inside = np.arange(block.shape[axis]) < cut
        mask = inside[None, :, None, None] if axis == 1 else inside[None, None, :, None]
        block = np.where(mask, np.roll(block, 1, axis=0), block)
    return np.ascontiguousarray(block)


def _distance(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Squared distance relative to the wanted length."""
    return (found - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)


def _blocks(images: Pixels) -> list[torch.Tensor]:
    return [torch.from_numpy(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]


@torch.no_grad()
def _outputs(network: OnnxModule, images: Pixels) -> Outputs:
    """Outputs `(N, …)` of all images."""
    parts = [network(block) for block in _blocks(images)]
    return join([{name: tensor.numpy() for name, tensor in part.items()} for part in parts])


@torch.no_grad()
def _written(canonical: bytes, student: OnnxModule) -> bytes:
    """The canonical ONNX with the student's weights, rounded as it ran them.

    Unrounded ones lie where rounding makes them right, and are wrong where a layer stays in float.
    """
    model = parse_onnx(canonical)
    learned = student.learned()
    for stored in model.graph.initializer:
        if stored.name in learned:
            array = np.ascontiguousarray(learned[stored.name].numpy())
            stored.CopyFrom(numpy_helper.from_array(array, stored.name))
    return bytes(model.SerializeToString(deterministic=True))
