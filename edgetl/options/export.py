"""Options of `edgetl export`."""

from __future__ import annotations

from typing import Annotated, Literal

from edgetl.errors import UsageError
from edgetl.options.base import Colours, Option, Options, colours, one_framing, seconds, sides
from edgetl.options.runtime import Engine, Precision
from edgetl.spec import LARGEST_SIDE, Fit, Interpolation, Order, Size

When = Literal["auto", "always", "never"]


class OnnxOptions(Options, frozen=True, kw_only=True):
    """How somebody's ONNX file reads images; a run knows this by itself. None: not given."""

    calib: Annotated[
        str | None,
        Option("Photos for an ONNX file: class folders, or loose ones.", metavar="<path>"),
    ] = None
    class_names: Annotated[
        str | None,
        Option(
            "An ONNX file's classes: a file with one a line.",
            flags=("--class-names", "--labels"),
            metavar="<path>",
        ),
    ] = None
    output: Annotated[
        str | None, Option("Which of an ONNX file's outputs are the classes.", metavar="<name>")
    ] = None
    size: Annotated[
        Size | None,
        Option(
            "Pixels a side that an ONNX file reads, or HEIGHTxWIDTH.",
            metavar="<size>",
            parse=sides,
            low=1,
            high=LARGEST_SIDE,
        ),
    ] = None
    fit: Annotated[
        Fit | None, Option("How a photo fits what an ONNX file reads.", default="crop")
    ] = None
    crop_pct: Annotated[
        float | None,
        Option(
            "Share of a photo's largest central box that fit crop keeps; timm's crop_pct.",
            default="0.875",
            low=0.05,
            high=1,
        ),
    ] = None
    interpolation: Annotated[
        Interpolation | None, Option("How photos were resized for it.", default="bilinear")
    ] = None
    order: Annotated[
        Order | None, Option("Colours of an ONNX file's input; bgr: OpenCV's.", default="rgb")
    ] = None
    mean: Annotated[
        Colours | None,
        Option(
            "Mean of each colour that its input was normalised by.", metavar="R,G,B", parse=colours
        ),
    ] = None
    std: Annotated[
        Colours | None, Option("Its standard deviation.", metavar="R,G,B", parse=colours)
    ] = None
    range_: Annotated[
        Literal[1, 255] | None,
        Option("Whether pixels were 0…1 or 0…255 before that.", flags=("--range",), default="1"),
    ] = None
    layout: Annotated[
        Literal["auto", "nchw", "nhwc"] | None,
        Option("Axes of an ONNX file's input.", default="auto"),
    ] = None


class ExportOptions(OnnxOptions, frozen=True, kw_only=True):
    """Options of `edgetl export`."""

    target: Annotated[
        str, Option("Devices, as cpu,jetson: see `edgetl devices`; cpu is this machine.")
    ]
    engine: Engine = "auto"
    precision: Precision = "auto"
    max_drop: Annotated[
        float,
        Option("Accuracy and macro-F1 that a candidate may lose, as a fraction.", low=0, high=0.99),
    ] = 0.01
    recipes: Annotated[
        tuple[str, ...],
        Option(
            "Try this recipe (TOML) too; may be repeated.", flags=("--recipe",), metavar="<path>"
        ),
    ] = ()
    qat: Annotated[
        When,
        Option(
            "Quantization-aware training; auto: when an INT8 candidate is further from FP32 than "
            "the gate allows."
        ),
    ] = "auto"
    search: Annotated[
        When,
        Option(
            "Search which layers to leave in float; auto: when INT8 is not both the fastest and "
            "within the gate."
        ),
    ] = "auto"
    budget_s: Annotated[
        float | None,
        Option(
            "Longest time for the search: 90s, 10m, 1h.",
            flags=("--budget",),
            default="10m",
            metavar="<time>",
            parse=seconds,
        ),
    ] = None
    dla: Annotated[bool, Option("Try a Jetson's deep learning accelerator too.")] = False
    data: Annotated[
        str | None,
        Option("Where a run's photos are now, if they were moved.", metavar="<path>"),
    ] = None

    def check(self) -> None:
        one_framing(self.fit, cropped=self.crop_pct is not None)
        if self.budget_s is not None and self.search == "never":
            raise UsageError(
                "--budget bounds a search, and --search never makes none.",
                fix="leave one of them away.",
            )
        if self.budget_s is not None and not self.budget_s > 0:
            raise UsageError(
                f"--budget {self.budget_s:g} s leaves no time.", fix="give more, or --search never."
            )
