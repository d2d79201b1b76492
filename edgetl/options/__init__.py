"""The options of every verb: each is one field, and all that shows, reads or stores it follows.

A verb's options are a frozen struct. The command line, its `--config` file, the Python function,
docs/cli.md and, for finetune, the stored configuration are made from the struct's fields. To add an
option, add a field; `base` says how it is written.
"""

from edgetl.options.base import Option, Options, fields, takes
from edgetl.options.export import ExportOptions, OnnxOptions
from edgetl.options.finetune import FinetuneConfig, FinetuneOptions
from edgetl.options.runtime import (
    BenchOptions,
    BuildOptions,
    CompareOptions,
    EvaluateOptions,
    LoadOptions,
    PredictOptions,
)

__all__ = [
    "BenchOptions",
    "BuildOptions",
    "CompareOptions",
    "EvaluateOptions",
    "ExportOptions",
    "FinetuneConfig",
    "FinetuneOptions",
    "LoadOptions",
    "OnnxOptions",
    "Option",
    "Options",
    "PredictOptions",
    "fields",
    "takes",
]
