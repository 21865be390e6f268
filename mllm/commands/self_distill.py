"""`mllm self-distill`: a language model's own answers to prompts without images, as data for tuning."""

from __future__ import annotations

import argparse
import hashlib
import sys

from mllm.commands.options import add_count, add_device, add_dtype

HELP = (
    "Have a language model answer prompts without images, and write conversations in LLaVA's format: mixed into the "
    "data of `mllm finetune` they keep it as fluent as it was. What was begun goes on."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "the language model's directory, or material:NAME of `mllm fetch NAME`"
    parser.add_argument("--language-model", required=True, metavar="DIR", help=words)
    parser.add_argument("--prompts", required=True, metavar="FILE", help="a prompt a line")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write conversations.json in")
    parser.add_argument("--chat-template", metavar="NAME", help="that it is asked with; default: its own")
    add_count(parser, "--max-new-tokens", "of an answer; one that does not end before is left out", default=128)
    add_count(parser, "--batch-size", "prompts at once", default=32)
    add_device(parser)
    add_dtype(parser)


def run(args: argparse.Namespace) -> None:
    from pathlib import Path

    from data.classes import read_lines
    from mllm.evaluation.text import load_text_model, self_distill
    from mllm.loading import quiet

    quiet()
    prompts = read_lines(args.prompts, "prompt")
    given = hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16]
    settings = {name: value for name, value in vars(args).items() if name != "out"} | {"prompts": given}
    loaded = load_text_model(args.language_model, args.device, args.dtype, args.chat_template)
    written = self_distill(loaded, prompts, Path(args.out), settings, args.batch_size, args.max_new_tokens)
    sys.stdout.write(f"{args.out}/conversations.json: {written} of {len(prompts)} prompts, the rest did not end\n")
