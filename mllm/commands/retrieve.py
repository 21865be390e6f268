"""`mllm retrieve`: captions of images and images of captions, with open_clip's models and ours, side by side."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mllm.commands.comparison import add_comparison_options, check_comparison, compare

if TYPE_CHECKING:
    from encoder.evaluation.clip_models import ClipModel
    from encoder.evaluation.embedding import EmbeddedImages, Runtime

HELP = "Score CLIPs, open_clip's and ours, on retrieval: R@1, 5 and 10 both ways beside what an image costs."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "captions",
        metavar="CAPTIONS",
        help="a file of captions as COCO, Karpathy, LAVIS, LLaVA, Flickr, open_clip or Hugging Face have it (JSON, "
        "JSON lines, csv), a folder of img2dataset, or another source of captioned images",
    )
    parser.add_argument("--split", metavar="NAME", help="of Karpathy's files: test, val ... (default test)")
    parser.add_argument("--images", metavar="DIR", help="folder of the file's images; default: the file's own folder")
    add_comparison_options(parser)


def run(args: argparse.Namespace) -> None:
    check_comparison(args)

    from data.bad_samples import BadSamples
    from data.sources import open_captioned
    from encoder.evaluation.retrieval import recalls, retrieval_ranks

    bad = BadSamples()
    dataset = open_captioned(args.captions, args.images, bad, args.split)

    def score(model: ClipModel, runtime: Runtime) -> tuple[dict[str, float], EmbeddedImages]:
        texts, images, embedded = retrieval_ranks(
            model.clip, model.tokenizer, model.prepare, dataset, runtime, args.captions
        )
        return recalls(texts, images), embedded

    columns = {
        f"{way} to {other}\nR@1 R@5 R@10 %": tuple(f"{way}_to_{other}_r{k}" for k in (1, 5, 10))
        for way, other in (("image", "text"), ("text", "image"))
    }
    compare(args, {"source": args.captions}, columns, score, bad, args.captions)
