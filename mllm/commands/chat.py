"""`mllm chat`: ask a model about images, once or in a session."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data.errors import InputError
from data.files import check_output
from mllm.commands.options import add_budget, add_count, add_model, load

HELP = "Ask a model about images. Without --prompt, an interactive session."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--image", metavar="FILE", action="append", default=[], help="an image; may be given again")
    parser.add_argument("--prompt", metavar="TEXT", help="ask this, print only the answer, and leave")
    parser.add_argument("--text-only", action="store_true", help="allow questions without an image")
    parser.add_argument("--show", metavar="PNG", help="draw where the model looked for its answer to --prompt")
    add_budget(parser)
    parser.add_argument(
        "--focus", metavar="X1,Y1,X2,Y2", help="look closer at a part of the last image, in fractions of it"
    )
    add_count(parser, "--max-new-tokens", "longest answer", 128)


def run(args: argparse.Namespace) -> None:
    if args.prompt is not None and not args.image and not args.text_only:
        raise InputError("--prompt without an image: name one with --image FILE, or say --text-only")
    if args.prompt is not None and not args.prompt.strip():
        raise InputError("--prompt is empty: write a question")
    if args.show is not None and (args.prompt is None or not args.image):
        raise InputError("--show needs --image and --prompt; in a session say /show FILE after an answer")
    check_output("--show", args.show)

    from data.references import open_reference
    from encoder.visualize import save_png
    from mllm.loading import quiet
    from mllm.serving.chat import Chat, converse, read_box

    quiet()
    box = None if args.focus is None else read_box(args.focus)
    for file in args.image:
        open_reference(file, Path())  # complain before the model is loaded, which can take long
    model, processor = load(args)
    chat = Chat(model, processor, args.max_new_tokens, args.text_only, args.tokens, args.image_size)
    for file in args.image:
        chat.show(file)
    if box is not None:
        chat.set_focus(box)
    if args.prompt is None:
        converse(chat)
    else:
        sys.stdout.write(f"{chat.ask(args.prompt)}\n")
        if args.show is not None:
            save_png(chat.drawing(), Path(args.show))
