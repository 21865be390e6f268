"""`mllm quantize`: a model's weights in 8 or 4 bits."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mllm.commands.options import add_json

HELP = "Write a model with its weights in 8 or 4 bits, which every command and transformers' from_pretrained load."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR", help="model directory")
    parser.add_argument("--bits", type=int, choices=(8, 4), required=True, help="of a weight")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write; must not exist yet")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    from data.files import check_output, write_json
    from mllm.exporting.quantized import quantize
    from mllm.loading import quiet

    check_output("--json", args.json)
    quiet()
    report = quantize(Path(args.model), args.out, args.bits)
    if args.json:
        write_json(Path(args.json), report)
    before, after = (report["bytes"][name] / 1e6 for name in ("before", "after"))
    sys.stdout.write(
        f"{before:.1f} MB -> {after:.1f} MB; logits differ by {report['difference']:.1e} of their size, "
        f"{report['same_next_token']:.0%} of the next tokens are the same\n"
    )
