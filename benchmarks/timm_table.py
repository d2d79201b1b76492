"""Write edgetl/train/backbones/timm.csv: what timm does not say of its compact networks.

    python -m benchmarks.timm_table

Parameters and multiply-adds are counted on networks without weights, at the size of each one's
configuration. ImageNet top-1 is timm's own, of its results/results-imagenet.csv
(https://github.com/huggingface/pytorch-image-models, commit 0173a139), as kept in
benchmarks/timm_top1.csv; rows that this version does not have stay empty.
"""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from edgetl.files import write_bytes
from edgetl.train.backbones import timm as source
from edgetl.train.backbones.base import MAX_PARAMETERS

HOME = Path(__file__).parent
TOP1 = HOME / "timm_top1.csv"
TABLE = Path(source.__file__).with_name("timm.csv")


def counted(name: str, size: int) -> tuple[int, float | None]:
    """Parameters, and billions of multiply-adds of one image."""
    with torch.device("meta"):
        model = source.library().create_model(name, exportable=True).eval().requires_grad_(False)
        parameters = sum(each.numel() for each in model.parameters())
        if parameters >= MAX_PARAMETERS:
            return parameters, None
        counter = FlopCounterMode(display=False)
        try:
            with counter:
                model(torch.zeros(1, 3, size, size))
        except (RuntimeError, NotImplementedError):  # an operator without a meta form
            return parameters, None
    return parameters, counter.get_total_flops() / 2e9


def main() -> None:
    """Count every network of timm with weights for ImageNet-1k."""
    warnings.simplefilter("ignore")
    top1 = {row["name"]: float(row["top1"]) for row in csv.DictReader(TOP1.open())}
    timm = source.library()
    rows, known = [], dict[tuple[str, int], tuple[int, float | None]]()
    for name in timm.list_models(pretrained=True):
        stated = timm.models.get_pretrained_cfg(name)
        if stated.num_classes != 1000 or stated.input_size[0] != 3 or name.startswith("test_"):
            continue
        key = name.partition(".")[0], stated.input_size[1]
        if key not in known:
            known[key] = counted(*key)
        parameters, gflops = known[key]
        if parameters < MAX_PARAMETERS:
            share = f"{top1[name] / 100:.5f}" if name in top1 else ""
            rows.append([name, parameters, "" if gflops is None else f"{gflops:.3f}", share])
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["name", "parameters", "gflops", "imagenet_top1"])
    writer.writerows(rows)
    write_bytes(TABLE, stream.getvalue().encode())
    print(f"{len(rows)} of timm {timm.__version__} written to {TABLE}")


if __name__ == "__main__":
    main()
