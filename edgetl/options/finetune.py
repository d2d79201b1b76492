"""Options of `edgetl finetune`, and what becomes of them in a run."""

from __future__ import annotations

from typing import Annotated, Literal

from edgetl.errors import UsageError
from edgetl.options.base import Option, Options, one_framing, sides
from edgetl.spec import Fit, Size, Strategy, TorchDevice
from edgetl.tasks.base import DEFAULT_TASK, TASKS


class FinetuneOptions(Options, frozen=True, kw_only=True):
    """Options of `edgetl finetune`."""

    backbone: Annotated[str, Option("See `edgetl backbones`.")] = "efficientnet_lite0"
    weights: Annotated[
        str | None, Option("imagenet, none, or a file.", default="imagenet", metavar="<path>")
    ] = None
    strategy: Annotated[Strategy, Option("auto: the better of probe and finetune.")] = "auto"
    epochs: Annotated[
        int | None,
        Option("Passes over the photos.", default="by the number of photos", low=1),
    ] = None
    size: Annotated[
        Size | None,
        Option(
            "Pixels a side, or HEIGHTxWIDTH.",
            default="the backbone's",
            metavar="<size>",
            parse=sides,
            low=32,
            high=1024,
            step=4,
        ),
    ] = None
    fit: Annotated[Fit, Option("How a photo fits that size.")] = "crop"
    crop_pct: Annotated[
        float,
        Option("Share of its largest central box that fit crop keeps.", low=0.05, high=1),
    ] = 1.0
    flip: Annotated[bool, Option("Never mirror training photos.", flags=("--no-flip",))] = True
    seed: Annotated[int, Option("Of every random draw.", low=0, high=2**32 - 1)] = 0
    device: Annotated[TorchDevice, Option("torch's device.")] = "auto"
    labels: Annotated[
        str | None,
        Option("CSV: path, label or labels and, if you like, split and group.", metavar="<path>"),
    ] = None
    depth: Annotated[
        int,
        Option("Bits of grey samples in 16-bit and wider files.", low=8, high=16, unit=" bits"),
    ] = 16
    task: Annotated[str, Option("What is learnt.", known=TASKS)] = DEFAULT_TASK

    def check(self) -> None:
        one_framing(self.fit, cropped=self.crop_pct != 1)
        if self.epochs is not None and self.strategy == "probe":
            raise UsageError(
                "--strategy probe trains no epochs: it fits a head on fixed features.",
                fix="leave --epochs away, or choose --strategy finetune.",
            )
        if self.strategy == "scratch" and self.weights not in (None, "none"):
            raise UsageError(
                f"--strategy scratch does not use --weights {self.weights}.",
                fix="leave --weights out, or choose another strategy.",
            )
        if self.strategy in ("probe", "finetune") and self.weights == "none":
            raise UsageError(
                f"--strategy {self.strategy} needs pretrained weights.",
                fix="give --weights imagenet or a file, or choose --strategy scratch.",
            )


class FinetuneConfig(FinetuneOptions, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The options of a run, with nothing left open, and its photos: what a resumed run must share.

    It is stored in run.json and in bundles, where options that a later version adds are ignored.
    """

    data: str  # absolute; "" in a bundle
    size: Size  # pixels
    weights: str  # "imagenet", "none" or an absolute path
    device: Literal["cpu", "cuda"]  # that trained
