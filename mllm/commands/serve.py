"""`mllm serve`: a page, and a server that OpenAI's clients talk to."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from dataclasses import fields
from pathlib import Path

from data.errors import InputError, translated
from mllm.commands.demo import EXAMPLES, read_examples
from mllm.commands.options import add_count, add_model, at_least, load

HELP = "Serve a model: a page to look at, and OpenAI's chat completions for programs. Closed unless opened."
KEY = "MLLM_API_KEY"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from mllm.serving.limits import Limits

    add_model(parser)
    add_count(parser, "--tokens", "look at an image with N tokens where a request does not say (default: all)")
    parser.add_argument("--compile", action="store_true", help="compile encoder and language model, at first use")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine)")
    parser.add_argument("--port", type=int, default=8000, help="default 8000; 0: any that is free")
    parser.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help=f"a key that requests must bring, may be given again (default: {KEY} of the environment, if set)",
    )
    parser.add_argument("--cors", action="append", default=[], metavar="ORIGIN", help="let pages of this origin ask")
    parser.add_argument("--allow-url", action="store_true", help="fetch images from public http(s) addresses")
    parser.add_argument("--examples", metavar="DIR", help="images and questions.json for the page (default: examples/)")
    add_count(parser, "--drain", "on SIGTERM, seconds for the answers under way", 30)
    limits = parser.add_argument_group("limits, beyond which a request is refused")
    words = {
        "batch": "answers that are decoded together",
        "queue": "requests that may wait",
        "seconds": "of one request",
        "body": "bytes of one request",
        "images": "of one request",
        "pixels": "of one image",
        "side": "the largest image_size",
        "tokens": "of one answer",
        "prompt": "tokens of a conversation with its answer",
        "choices": "answers to one request, its n",
        "cache": "bytes for keys and values of past turns",
    }
    for field in fields(Limits):
        limits.add_argument(
            f"--max-{field.name}",
            type=at_least(1),
            default=field.default,
            metavar="N",
            help=f"{words[field.name]} (default {field.default:,})",
        )


def run(args: argparse.Namespace) -> None:
    keys = args.api_key or [key for key in [os.environ.get(KEY)] if key]
    if args.host not in LOOPBACK and not keys:
        raise InputError(f"--host {args.host} opens the server to others: set --api-key or {KEY}")
    if not all(keys):
        raise InputError("--api-key is empty: give a key")
    folder = Path(args.examples) if args.examples else EXAMPLES
    examples = read_examples(folder) if args.examples or folder.is_dir() else []
    with translated(f"--host {args.host} --port {args.port}"):
        family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
        listener = socket.socket(family)  # bound now, and open to clients only once the model is there
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((args.host, args.port))

    with translated("mllm serve", "pip install 'sparseformer-mllm[serve]'"):
        import uvicorn

        from mllm.serving.server import Service, create_app

    from mllm.loading import EMBEDDED, quiet
    from mllm.serving.limits import Limits

    quiet()
    model, processor = load(args)
    if args.tokens is not None:
        processor.check_num_tokens(args.tokens, "--tokens")
    if args.compile:
        model.model.vision_tower.compile(dynamic=True)
        model.model.language_model.compile(dynamic=True)
    limits = Limits(**{field.name: getattr(args, f"max_{field.name}") for field in fields(Limits)})
    name = Path(args.model or EMBEDDED).resolve().name.partition("@")[0]
    service = Service(model, processor, name, limits, args.tokens, args.allow_url, folder, examples)
    app = create_app(service, keys, None if keys else LOOPBACK, args.cors)
    config = uvicorn.Config(
        app, log_level="warning", server_header=False, timeout_graceful_shutdown=args.drain, lifespan="on"
    )
    sys.stderr.write(f"{name} is served at http://{args.host}:{listener.getsockname()[1]}/\n")
    uvicorn.Server(config).run(sockets=[listener])
