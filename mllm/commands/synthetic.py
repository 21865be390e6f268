"""`mllm synthetic`: generated images with their ground truth, written out as an ordinary dataset."""

from __future__ import annotations

import argparse
import logging
import sys
import time

HELP = "Write generated images out as a folder, a folder per class, LLaVA conversations, webdataset shards or parquet."

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; must be new or empty")
    parser.add_argument(
        "--format",
        default="folder",
        metavar="FORMAT",
        help="folder (images and metadata.jsonl), classes (one object an image, a folder per class), llava, "
        "webdataset, parquet or examples (of `mllm demo`); default: %(default)s",
    )
    parser.add_argument(
        "--split", default="train", metavar="SPLIT", help="train, validation or test; default: %(default)s"
    )
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="number of scenes; default: %(default)s")
    parser.add_argument(
        "--size", default="64", metavar="N|HxW", help="pixels, one number or HEIGHTxWIDTH; default: %(default)s"
    )
    parser.add_argument(
        "--scale",
        default="1",
        metavar="N|N-N",
        help="of objects and letters, such as 0.3 or 0.3-1; default: %(default)s",
    )
    parser.add_argument(
        "--categories",
        default="",
        metavar="A+B",
        help="of the questions of llava, such as box+point; default: all others",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all scenes; default: %(default)s")


def run(args: argparse.Namespace) -> None:
    from data.synthetic.export import export_scenes
    from data.synthetic.scene import SceneConfig, parse_scale, parse_size

    height, width = parse_size(args.size, "--size")
    least, most = parse_scale(args.scale, "--scale")
    config = SceneConfig(height, width, seed=args.seed, min_scale=least, max_scale=most)
    begun = time.perf_counter()
    categories = args.categories.split("+") if args.categories else ()
    address = export_scenes(
        args.out, args.format, args.split, args.count, config, categories=categories, progress=sys.stderr.isatty()
    )
    logger.info("%d scenes, %.0f a second on one core", args.count, args.count / (time.perf_counter() - begun))
    sys.stdout.write(f"{address}\n")
