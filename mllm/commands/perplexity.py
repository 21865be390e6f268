"""`mllm perplexity`: how well models predict text, side by side."""

from __future__ import annotations

import argparse

from mllm.commands.options import add_count, add_device, add_dtype, add_json

HELP = (
    "Measure the perplexity of models without images, each beside the first: has tuning on images cost the language "
    "model its fluency? Only models of one tokenizer can be compared."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "model or adapter directory, or that of a language model alone; material:NAME of `mllm fetch NAME`"
    parser.add_argument("models", nargs="+", metavar="DIR", help=words)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", metavar="FILE", help="plain text, of which every token counts")
    source.add_argument(
        "--data", metavar="SOURCE", help="conversations, as a recipe's data, of which the answers count"
    )
    parser.add_argument("--chat-template", metavar="NAME", help="of language models alone; default: their own")
    add_count(parser, "--length", "tokens of plain text that are read at once", default=512, least=2)
    add_count(parser, "--batch-size", "samples at once", default=8)
    add_device(parser)
    add_dtype(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from data.files import check_output, write_json
    from mllm.evaluation.text import load_text_model, perplexity_on
    from mllm.loading import quiet

    check_output("--json", args.json)
    quiet()
    source, rows = args.text or args.data, []
    table = Table("model", "tokens", "perplexity", "beside the first")
    for name in args.models:
        loaded = load_text_model(name, args.device, args.dtype, args.chat_template)
        perplexity, tokens = perplexity_on(loaded, source, args.text is not None, args.length, args.batch_size)
        rows.append({"model": name, "source": source, "tokens": tokens, "perplexity": perplexity})
        table.add_row(name, f"{tokens:,}", f"{perplexity:.3f}", f"{perplexity / rows[0]['perplexity'] - 1:+.1%}")
    Console().print(table)
    if args.json:
        write_json(Path(args.json), rows)
