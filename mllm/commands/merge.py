"""`mllm merge`: an adapter becomes a plain model directory."""

from __future__ import annotations

import argparse
import sys

HELP = "Merge a LoRA adapter into its base model and write a plain model directory."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="ADAPTER", help="adapter directory of stage lora of `mllm finetune`")
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write the model; must not exist yet")
    parser.add_argument("--base", metavar="DIR", help="the base model, if it is no longer where the adapter says")


def run(args: argparse.Namespace) -> None:
    from mllm.finetuning.merge import merge
    from mllm.loading import quiet

    quiet()
    sys.stdout.write(f"{merge(args.adapter, args.out, args.base)}\n")
