"""`mllm export`: a model for runtimes without Python."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mllm.commands.options import add_count, add_json

HELP = "Write a model as graphs for ONNX Runtime, OpenVINO or a browser, checked against PyTorch."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="DIR", help="model or adapter directory; default: the embedded one")
    parser.add_argument(
        "--to",
        choices=("onnx", "openvino", "web"),
        default="onnx",
        help="web: a page that answers about images in the browser, with ONNX Runtime (default onnx)",
    )
    parser.add_argument(
        "--part",
        choices=("encoder", "vision", "all"),
        default="all",
        help="the encoder alone (DIR may be one), encoder and projector, or all, laid out as transformers.js and "
        "optimum do (default all)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write; must not exist yet")
    parser.add_argument(
        "--bits", type=int, choices=(32, 8), default=32, help="8: the matmuls' weights as int8 (default 32)"
    )
    add_count(parser, "--tokens", "tokens of an image; default: the model's own, or an input of the graph")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    from data.errors import InputError
    from data.files import check_output, write_json
    from mllm.exporting.layout import export
    from mllm.loading import EMBEDDED, quiet

    if args.to == "web" and args.part != "all":
        raise InputError(f"--part {args.part}: a page needs all of the model; leave it out")
    check_output("--json", args.json)
    quiet()
    model = Path(args.model or EMBEDDED)
    if args.to == "web":
        from mllm.exporting.web import export_page

        report = export_page(model, args.out, args.bits == 8, args.tokens)
    else:
        report = export(model, args.out, args.to, args.part, args.bits == 8, args.tokens)
    if args.json:
        write_json(Path(args.json), report)
    for name, row in report.items():
        worst = max(row["differences"].values())
        sys.stdout.write(f"{name}: {row['bytes'] / 1e6:.1f} MB, from PyTorch {worst:.1e} of the largest value\n")
