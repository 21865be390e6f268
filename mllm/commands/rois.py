"""`mllm rois`: how many of a SparseFormer's sampling points lie on objects."""

from __future__ import annotations

import argparse
import sys
from typing import cast

from data.limits import MAX_SAMPLES, check_range

HELP = "The share of sampling points inside the objects of held-out scenes: before training, after it, and by area."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="DIR", help="directory that `mllm bootstrap` wrote")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"), help="default: %(default)s")
    parser.add_argument("--count", type=int, default=500, metavar="N", help="scenes (default %(default)s)")


def run(args: argparse.Namespace) -> None:
    check_range("--count", args.count, 1, MAX_SAMPLES)

    from encoder import SparseFormerConfig, SparseFormerVisionModel
    from mllm.commands.visualize import load_encoder
    from mllm.lab.rois import points_on_objects
    from mllm.loading import quiet

    quiet()
    model, image_processor = load_encoder(args.model)
    untrained = SparseFormerVisionModel(
        cast(SparseFormerConfig, model.config)
    )  # its RoIs and points lie on their grids, whatever its weights
    before, area = points_on_objects(untrained, image_processor, args.split, args.count)
    after, _ = points_on_objects(model, image_processor, args.split, args.count)
    write = sys.stdout.write
    write(f"{args.count} scenes of {args.split}: objects cover {area:.1%} of the area\n")
    for reading, (grid, learned) in enumerate(zip(before, after, strict=True), start=1):
        write(f"reading {reading}: points on objects before {grid:.1%}, after {learned:.1%}\n")
