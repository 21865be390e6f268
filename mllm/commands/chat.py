"""`mllm chat`: ask a model about images, once or in a session."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data.errors import InputError

HELP = "Ask a model about images. Without --prompt, an interactive session."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="DIR", help="model or adapter directory; default: the embedded model")
    parser.add_argument("--image", metavar="FILE", action="append", default=[], help="an image; may be given again")
    parser.add_argument("--prompt", metavar="TEXT", help="ask this, print only the answer, and leave")
    parser.add_argument("--text-only", action="store_true", help="allow questions without an image")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="longest answer (default 128)")
    add_model_options(parser)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--device` and `--dtype`, which every command that answers has."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; default: the best there is")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))


def run(args: argparse.Namespace) -> None:
    if args.prompt is not None and not args.image and not args.text_only:
        raise InputError("--prompt without an image: name one with --image FILE, or say --text-only")
    if args.prompt is not None and not args.prompt.strip():
        raise InputError("--prompt is empty: write a question")
    if args.max_new_tokens < 1:
        raise InputError("--max-new-tokens must be at least 1")

    from data.references import open_reference
    from mllm.embedded_model import embedded_dir
    from mllm.loading import load_model, quiet
    from mllm.serving.chat import Chat, converse

    quiet()
    for file in args.image:
        open_reference(file, Path())  # complain before the model is loaded, which can take long
    model, processor = load_model(embedded_dir() if args.model is None else args.model, args.device, args.dtype)
    chat = Chat(model, processor, args.max_new_tokens, args.text_only)
    for file in args.image:
        chat.show(file)
    if args.prompt is None:
        converse(chat)
    else:
        sys.stdout.write(f"{chat.ask(args.prompt)}\n")
