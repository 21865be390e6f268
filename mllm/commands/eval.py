"""`mllm eval`: score a model."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from data.errors import InputError
from mllm.commands.chat import add_model_options

HELP = "Score a model. `scenes`: accuracy per kind of question about generated scenes, beside the best blind guess."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", choices=("scenes",))
    parser.add_argument("--model", metavar="DIR", help="model or adapter directory; default: the embedded model")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="questions (default 1000)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="questions at a time (default 32)")
    parser.add_argument("--json", metavar="OUT", help="also write the scores and every answer to this file")
    add_model_options(parser)


def run(args: argparse.Namespace) -> None:
    for name, value in (("--count", args.count), ("--batch-size", args.batch_size)):
        if value < 1:
            raise InputError(f"{name} must be at least 1")
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"--json {args.json}: no such directory")

    from rich.console import Console
    from rich.table import Table

    from mllm.embedded_model import embedded_dir
    from mllm.evaluation.scenes import evaluate
    from mllm.loading import load_mllm, quiet
    from mllm.training.sources import picture_size

    quiet()
    directory = args.model or embedded_dir()
    model, processor = load_mllm(directory, args.device, args.dtype)
    scores, records = evaluate(model, processor, args.count, picture_size(processor.image_processor), args.batch_size)
    if args.json:
        report = {"model": str(directory), "scores": [asdict(each) for each in scores], "answers": records}
        partial = Path(f"{args.json}.partial")
        partial.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, args.json)
    table = Table("kind", title=f"scenes, test split, {len(records)} questions")
    for heading in ("n", "accuracy", "blind guess"):
        table.add_column(heading, justify="right")
    for each in scores:
        table.add_row(
            each.kind, str(each.count), f"{each.accuracy:.1%}", f"{each.blind:.1%}", end_section=each is scores[-2]
        )
    Console().print(table)
