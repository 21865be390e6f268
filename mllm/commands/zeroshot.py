"""`mllm zeroshot`: zero-shot classification with open_clip's models and ours, side by side."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mllm.commands.comparison import add_comparison_options, check_comparison, compare

if TYPE_CHECKING:
    from encoder.evaluation.clip_models import ClipModel
    from encoder.evaluation.embedding import EmbeddedImages, Runtime

HELP = "Score CLIPs, open_clip's and ours, on zero-shot classification: top-1 and top-5 beside what an image costs."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        metavar="IMAGES",
        help="a folder with a folder per class, webdataset:GLOB with a .cls beside each image, "
        "datasets:NAME_OR_PATH[:SPLIT[:COLUMN[:LABEL]]], or another source of labeled images",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE|imagenet",
        help="one class a line, named as the folders are; KEY, tab, words (also .csv and JSON) with the folders' names "
        "as keys; or in the order of folders that are numbers or codes, or of the source's labels; "
        "imagenet: open_clip's names and templates; default: the source's own names",
    )
    parser.add_argument(
        "--templates",
        metavar="FILE|imagenet",
        help='one template a line, with {} for the class; default: what suits the images, or "a photo of a {}."',
    )
    add_comparison_options(parser)


def run(args: argparse.Namespace) -> None:
    check_comparison(args)

    from data.bad_samples import BadSamples
    from data.classes import match_classes
    from data.sources import open_labeled
    from encoder.evaluation.ranking import fraction_within
    from encoder.evaluation.zeroshot import read_classes, read_templates, zero_shot_ranks

    bad = BadSamples()
    given = read_classes(args.classes)
    labeled = open_labeled(args.images, bad)
    templates = read_templates(args.templates, args.classes, labeled.templates)
    classes = match_classes(given, labeled.class_names, labeled.numbered)

    def score(model: ClipModel, runtime: Runtime) -> tuple[dict[str, float], EmbeddedImages]:
        ranks, images = zero_shot_ranks(
            model.clip,
            model.tokenizer,
            model.prepare,
            labeled.dataset,
            classes.words,
            templates,
            runtime,
            classes.of,
            args.images,
        )
        return {f"top_{k}": fraction_within(ranks, k) for k in (1, 5)}, images

    facts = {"source": args.images, "classes": len(classes.words), "templates": len(templates)}
    title = f"{args.images}, {len(classes.words)} classes, chance {1 / len(classes.words):.1%}"
    compare(args, facts, {"top-1 %": ("top_1",), "top-5 %": ("top_5",)}, score, bad, title)
