"""Gradient training of a whole network: LP-FT and from scratch, with exact resume."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import nn

from edgetl.files import write_bytes
from edgetl.inputs.base import Pixels
from edgetl.progress import Bar
from edgetl.runs.record import EpochRow
from edgetl.spec import Normalize, Strict
from edgetl.tasks.base import Outputs, Task
from edgetl.train.augment import Batches, jitter
from edgetl.train.backbones import Network
from edgetl.train.fold import channels_last, with_fixed_norms
from edgetl.train.infer import NotFiniteError, forward_rows
from edgetl.train.precision import quickest
from edgetl.train.tasks.base import TrainTask
from edgetl.train.weights.state_dicts import read_safetensors


class Hyperparameters(Strict, frozen=True, kw_only=True):
    """How to train; the rates are AdamW's, at the top of the backbone and at the head."""

    stage: Literal["finetune", "scratch"]
    epochs: int
    batch: int
    train_size: tuple[int, int]  # width, height
    head_rate: float
    body_rate: float
    bottom_rate: float  # the first layer's rate as a fraction of body_rate
    freeze: float  # share of the first layers that stays as pretrained
    weight_decay: float
    smoothing: float
    warmup: float  # share of all steps
    patience: int  # epochs in a row that are worse on validation
    train_norm: bool  # whether batch normalisation learns statistics
    flip: bool
    seed: int


class Validation:
    """Held-out samples that choose the checkpoint."""

    def __init__(self, pixels: Pixels, rows: npt.NDArray[np.int64], targets: Any, task: Task):
        """`rows` are those of `pixels (N, H, W, 3)` that are held out."""
        self.pixels, self.rows, self.targets, self.task = pixels, rows, targets, task
        self.last: Outputs = {}  # that were scored
        self.known: dict[nn.Module, Outputs] = {}  # of networks that may ship

    def score(
        self, model: nn.Module, normalize: Normalize, device: Literal["cpu", "cuda"]
    ) -> tuple[dict[str, float], float]:
        """The task's metrics and loss, in float32; NotFiniteError with rows of `pixels`."""
        self.last = forward_rows(model, self.pixels, self.rows, normalize, device=device)
        found = self.task.evaluate(self.last, self.targets)
        return found.metrics, self.task.loss(self.last, self.targets)

    def outputs(
        self, model: nn.Module, normalize: Normalize, device: Literal["cpu", "cuda"]
    ) -> Outputs:
        """A network's outputs, computed anew only where they are not known yet."""
        known = self.known.get(model)
        return known or forward_rows(model, self.pixels, self.rows, normalize, device=device)


class Trainer:
    """State of one training: network, its running average, optimiser, and what is kept."""

    def __init__(
        self,
        model: Network,
        twin: TrainTask,
        settings: Hyperparameters,
        normalize: Normalize,
        *,
        device: Any,
        steps: int,
    ) -> None:
        """`steps` is how many an epoch has."""
        self.settings, self.normalize, self.device = settings, normalize, device
        self.twin = twin
        self.model: Network = channels_last(model.to(device))
        self.total = max(1, steps * settings.epochs)
        if settings.train_norm:
            quicken_norms(self.model)
        self.groups = parameter_groups(self.model, settings)
        self.optimizer = torch.optim.AdamW(self.groups, lr=0.0, fused=True)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.kept = copy.deepcopy(self.average)
        self.best_score: tuple[float, float] = (-math.inf, -math.inf)
        self.step = self.epoch = self.stale = 0
        self.history: list[EpochRow] = []
        self.set_mode()
        self.quick = self.model if settings.train_norm else with_fixed_norms(self.model)

    def run_epoch(self, batches: Batches, advance: Callable[[int], None]) -> tuple[float, float]:
        """Train one epoch; returns (mean loss, photos per second).

        NotFiniteError, before the weights are touched, where a step's numbers are not finite.
        """
        self.set_mode()
        loss_sum, seen, start = 0.0, 0, time.perf_counter()
        for index, (images, truth) in enumerate(batches.epoch(self.epoch)):
            try:
                loss = self.train_step(images.to(self.device), truth.to(self.device))
            except NotFiniteError as error:
                rows = batches.parts(self.epoch)[index][error.rows]
                what = f"{error.what} in epoch {self.epoch + 1}"
                raise NotFiniteError(what, rows, "train") from None
            loss_sum += loss * len(truth)
            seen += len(truth)
            advance(len(truth))
        return loss_sum / seen, seen / (time.perf_counter() - start)

    def set_mode(self) -> None:
        """Training mode; batch normalisation keeps its statistics where it is not trained."""
        self.model.train()
        if not self.settings.train_norm:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def train_step(self, images: torch.Tensor, truth: torch.Tensor) -> float:
        """One step on uint8 `(B, H, W, 3)` and the task's targets of them; returns the loss.

        NotFiniteError with places in the batch instead of a step that would spoil the weights.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._rate()
        # Dropout and colour draw from the step's own seed, so that a resumed run draws the same.
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)
        generator = torch.Generator().manual_seed(self.settings.seed * 7_368_787 + self.step)
        inputs = self._inputs(jitter(images, generator))
        with quickest(self.device):
            found = self.quick(inputs)
        outputs = {name: tensor.float() for name, tensor in found.items()}
        loss = self.twin.loss(outputs, truth, smoothing=self.settings.smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_([p for g in self.groups for p in g["params"]], 1.0)
        if not math.isfinite(float(loss.detach() + norm)):
            flags = [t.detach().flatten(1).isfinite().all(dim=1) for t in outputs.values()]
            good = torch.stack(flags).all(dim=0).cpu().numpy()
            what = "The gradient" if good.all() else "The loss"
            raise NotFiniteError(what, np.flatnonzero(good == good.all()))
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return float(loss.detach())

    def _inputs(self, images: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor(self.normalize.mean, device=images.device) * 255
        std = torch.tensor(self.normalize.std, device=images.device) * 255
        return ((images - mean) / std).permute(0, 3, 1, 2)

    def _rate(self) -> float:
        """Warm-up, then cosine, as a share of the peak rate."""
        warm = max(1.0, self.settings.warmup * self.total)
        if self.step < warm:
            return (self.step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (self.step - warm) / max(1.0, self.total - warm)))

    def _update_average(self) -> None:
        """Exponential moving average over about a tenth of the steps; quick at first."""
        decay = min(1 - 1 / max(10.0, 0.1 * self.total), (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            mine, other = self.average.state_dict(), self.model.state_dict()
            floats = [k for k, v in mine.items() if v.is_floating_point()]
            torch._foreach_lerp_([mine[k] for k in floats], [other[k] for k in floats], 1 - decay)
            for key in mine.keys() - set(floats):
                mine[key].copy_(other[key])

    def finish_epoch(self, row: EpochRow, samples: int) -> None:
        """Keep the latest average that is within a standard error of the best on validation."""
        self.history.append(row)
        score = self.twin.task.rank(row.metrics, row.validation_loss)
        best, _ = self.best_score = max(self.best_score, score)
        if score[0] >= best - self.twin.task.metrics[0].standard_error(best, samples):
            self.stale = 0
            self.kept.load_state_dict(self.average.state_dict())
        else:
            self.stale += 1
        self.epoch += 1

    @property
    def done(self) -> bool:
        """Whether all epochs are over, or the last ones, more than `patience`, were not kept."""
        return self.epoch >= self.settings.epochs or self.stale > self.settings.patience

    def save(self, path: Path) -> None:
        """Write the whole state to one safetensors file, atomically."""
        tensors: dict[str, torch.Tensor] = {}
        for prefix, module in self._modules().items():
            tensors |= {f"{prefix}.{k}": v for k, v in module.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        clean = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        metadata = {
            "stage": self.settings.stage,
            "epoch": str(self.epoch),
            "step": str(self.step),
            "stale": str(self.stale),
            "best": repr(self.best_score),
        }
        write_bytes(path, safetensors.torch.save(clean, metadata=metadata))

    def load(self, path: Path, history: list[EpochRow]) -> None:
        """Continue from what `save` wrote; `history` is cut to its epochs."""
        tensors, metadata = read_safetensors(path)
        for prefix, module in self._modules().items():
            start = f"{prefix}."
            module.load_state_dict(
                {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}
            )
        saved = self.optimizer.state_dict()
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                saved["state"].setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(saved)
        self._align_moments()
        self.epoch, self.step = int(metadata["epoch"]), int(metadata["step"])
        self.stale = int(metadata["stale"])
        accuracy, loss = metadata["best"].strip("()").split(",")
        self.best_score = (float(accuracy), float(loss))
        self.history = [row for row in history if row.stage == self.settings.stage][: self.epoch]

    def _align_moments(self) -> None:
        """Lay the optimiser's moments out as their parameters, as it would have made them.

        A file holds them contiguous, parameters are channels-last, and the fused step walks both
        in memory order: it would pair moments with the wrong weights.
        """
        for parameter, state in self.optimizer.state.items():
            for name, value in state.items():
                if value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter).copy_(value)

    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "average": self.average, "kept": self.kept}


def quicken_norms(model: nn.Module) -> None:
    """Let running statistics follow within tens of steps.

    MobileNetV3 and MNASNet are published with momenta of 0.01 and 0.0003, which suit a million
    steps and leave a short training with statistics of the random start.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.1


def parameter_groups(model: Network, settings: Hyperparameters) -> list[dict[str, Any]]:
    """Optimiser groups: rates rise with depth, first layers rest, norms do not decay."""
    body = list(model.body.parameters())
    rates: list[tuple[nn.Parameter, float]] = []
    for index, parameter in enumerate(body):
        depth = index / max(1, len(body) - 1)
        if depth < settings.freeze:
            parameter.requires_grad_(False)
            continue
        band = math.floor(depth * 8) / 8  # a few groups, not one a tensor
        rates.append((parameter, settings.body_rate * settings.bottom_rate ** (1 - band)))
    rates += [(parameter, settings.head_rate) for parameter in model.head.parameters()]
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for parameter, rate in rates:
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        new = {"params": [], "peak": rate, "weight_decay": decay}
        groups.setdefault((rate, decay), new)["params"].append(parameter)
    return list(groups.values())


def train(
    trainer: Trainer,
    batches: Batches,
    validation: Validation,
    *,
    checkpoint: Callable[[Trainer], None],
    bar: Bar,
) -> None:
    """Train until done; `checkpoint` is called after every epoch with everything settled."""
    settings = trainer.settings
    while not trainer.done:
        start = time.perf_counter()
        title = f"{settings.stage}, epoch {trainer.epoch + 1} of {settings.epochs}"
        with bar(title, len(batches.targets)) as advance:
            loss, rate = trainer.run_epoch(batches, advance)
        metrics, validation_loss = validation.score(
            trainer.average, trainer.normalize, trainer.device
        )
        trainer.finish_epoch(
            EpochRow(
                stage=settings.stage,
                epoch=trainer.epoch + 1,
                loss=loss,
                learning_rate=settings.body_rate * trainer._rate(),
                metrics=metrics,
                validation_loss=validation_loss,
                images_per_s=rate,
                seconds=time.perf_counter() - start,
            ),
            len(validation.rows),
        )
        if not trainer.stale:
            validation.known[trainer.kept] = validation.last
        checkpoint(trainer)
