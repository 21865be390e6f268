"""`mllm rois`: how many of a SparseFormer's sampling points lie on objects, and do answers depend on these."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from data.files import check_output, write_json
from data.limits import MAX_SAMPLES, check_range
from mllm.commands.options import add_count, add_json

HELP = (
    "The fraction of sampling points on objects of held-out generated images: before training, after it, and by area. "
    "With --answers also how much of what an answer depends on is inside the object that it is about."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="DIR", help="that `mllm bootstrap` wrote, or a whole model")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"), help="default: %(default)s")
    parser.add_argument("--count", type=int, default=500, metavar="N", help="images (default %(default)s)")
    parser.add_argument(
        "--scale",
        default="1",
        metavar="N|N-N",
        help="of objects, such as 0.3 or 0.3-1; default: %(default)s",
    )
    parser.add_argument(
        "--images",
        metavar="SOURCE",
        help="other generated images, such as drawings:artist:300:objects=3, instead of --split, --count and --scale",
    )
    add_count(parser, "--answers", "also ask so many questions about one object each, of a whole model", 0, least=0)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    from data.synthetic.scene import parse_scale

    check_range("--count", args.count, 1, MAX_SAMPLES)
    check_range("--answers", args.answers, 0, MAX_SAMPLES)
    check_output("--json", args.json)
    scale = parse_scale(args.scale, "--scale")

    from encoder import SparseFormerConfig, SparseFormerVisionModel
    from mllm.commands.visualize import load_encoder
    from mllm.lab.looking import weights_on_objects
    from mllm.lab.rois import points_on_objects
    from mllm.loading import load_model, quiet

    quiet()
    model, image_processor = load_encoder(args.model)
    whole = load_model(args.model, "cpu", "float32") if args.answers else None
    # Its RoIs and points lie on their grids, whatever its weights.
    untrained = SparseFormerVisionModel(cast(SparseFormerConfig, model.config))
    source = args.images or f"synthetic:{args.split}:{args.count}:scale={args.scale}"
    before, area = points_on_objects(untrained, image_processor, source)
    after, _ = points_on_objects(model, image_processor, source)
    steps = [{"before": grid, "after": learned} for grid, learned in zip(before, after, strict=True)]
    found: dict[str, Any] = {"images": source, "area": area, "steps": steps}
    write = sys.stdout.write
    write(f"{source}: objects cover {area:.1%} of the area\n")
    for number, step in enumerate(steps, start=1):
        write(f"sampling step {number}: points on objects before {step['before']:.1%}, after {step['after']:.1%}\n")
    if whole is not None:
        found["answers"] = weights_on_objects(*whole, args.split, args.answers, scale)
        print_answers(found["answers"])
    if args.json:
        write_json(Path(args.json), found)


def print_answers(answers: dict[str, Any]) -> None:
    """Prints a column for each group of questions, and two rows for each way to weigh tokens."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Column, Table

    def row(name: str, figures: Iterable[float]) -> None:
        table.add_row(name, *(f"{figure:.0%}" for figure in figures))

    ways = [name for name, value in answers["all"].items() if isinstance(value, dict)]
    title = "the one thing that an answer is about"
    table = Table(Column(no_wrap=True), *answers, box=SIMPLE, padding=(0, 1, 0, 0), title=title)
    table.add_row("questions", *(str(group["questions"]) for group in answers.values()))
    row("area", (group["area"] for group in answers.values()))
    for part, title in (("inside", "weights inside"), ("hits", "heaviest pixel")):
        table.add_section()
        table.add_row(title)
        for name in ways:
            row(f"  {name}", (group[name][part] for group in answers.values()))
    Console().print(table)
