"""`mllm chat`: ask a model about images, once or in a session."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data.errors import InputError
from data.files import check_output
from data.limits import check_range
from mllm.commands.options import add_budget, add_count, add_model, load

HELP = "Ask a model about images. Without --prompt, an interactive session."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    words = "an image: a file, - for the standard input, an address, or a data URL; may be given again"
    parser.add_argument("--image", metavar="FILE", action="append", default=[], help=words)
    parser.add_argument("--video", metavar="FILE", help="a video, some of whose frames become images")
    parser.add_argument("--fps", type=float, metavar="X", help="frames a second of the video (default 1)")
    add_count(parser, "--frames", "frames of the video at most, else spread over all of it", 64)
    parser.add_argument("--prompt", metavar="TEXT", help="ask this, print only the answer, and leave")
    parser.add_argument("--system", metavar="TEXT", help="what the system says first (default: the template's words)")
    parser.add_argument("--text-only", action="store_true", help="allow questions without an image")
    words = "draw where the model looked for its answer to --prompt; without PNG in the terminal, where it can"
    parser.add_argument("--show", metavar="PNG", nargs="?", const="", help=words)
    add_budget(parser)
    parser.add_argument(
        "--focus", metavar="X1,Y1,X2,Y2", help="look closer at a part of the last image, in fractions of it"
    )
    add_count(parser, "--max-new-tokens", "longest answer", 128)
    words = "of drawing words by chance; default 0: always the likeliest"
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help=words)
    words = "draw from the likeliest words that have this probability together (default 1: from all)"
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help=words)
    parser.add_argument("--seed", type=int, metavar="N", help="of chance: the same answers again")
    parser.add_argument("--stats", action="store_true", help="tell what each answer took: tokens and seconds")
    parser.add_argument(
        "--json", action="store_true", help="for programs: each answer as a line of JSON, with its stats"
    )


def run(args: argparse.Namespace) -> None:
    if args.fps is not None and not 0 < args.fps <= 1000:
        raise InputError(f"--fps {args.fps}: choose more than 0 and at most 1,000")
    if args.prompt is not None and not args.image and not args.video and not args.text_only:
        raise InputError("--prompt without an image: name one with --image FILE, or say --text-only")
    if args.prompt is not None and not args.prompt.strip():
        raise InputError("--prompt is empty: write a question")
    if args.show is not None and (args.prompt is None or not args.image):
        raise InputError("--show needs --image and --prompt; in a session say /show FILE after an answer")
    if args.prompt is None and "-" in args.image:
        raise InputError("--image -: the image is read where questions come from; ask with --prompt")
    check_range("--temperature", args.temperature, 0, 5)
    check_range("--top-p", args.top_p, 0.001, 1)
    check_output("--show", args.show or None)

    import torch

    from data.videos import FPS, read_frames
    from encoder.visualize import save_png
    from mllm.generation import sampled
    from mllm.loading import quiet
    from mllm.serving.chat import Chat, open_shown
    from mllm.serving.terminal import ask, converse, read_box, show

    quiet()
    if args.seed is not None:
        torch.manual_seed(args.seed)
    box = None if args.focus is None else read_box(args.focus)
    shown = [open_shown(file) for file in args.image]  # complain before the model is loaded, which can take long
    frames = [] if args.video is None else read_frames(args.video, args.fps or FPS, args.frames)
    model, processor = load(args)
    decoding = sampled(args.temperature, args.top_p)
    chat = Chat(
        model, processor, args.max_new_tokens, args.text_only, args.tokens, args.image_size, args.system, decoding
    )
    for image, file in shown:
        chat.add(image, file)
    for frame in frames:
        chat.add(frame, "")
    if box is not None:
        chat.set_focus(box)
    if args.prompt is None:
        converse(chat, as_json=args.json, stats=args.stats)
        return
    ask(chat, args.prompt, sys.stdout, stream=False, as_json=args.json, stats=args.stats)
    if args.show == "":
        show(chat.drawing())
    elif args.show is not None:
        save_png(chat.drawing(), Path(args.show))
