"""`mllm push`: a model directory on the Hugging Face hub."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "Push a plain model directory to the Hugging Face hub, with a card: what it is made of, its recipe, its scores."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR", help="a plain model directory, such as `mllm merge` writes")
    parser.add_argument("repo", metavar="REPO", help="OWNER/NAME, made if it is not there")
    parser.add_argument("--private", action="store_true", help="make it for yourself")
    parser.add_argument("--revision", metavar="BRANCH", help="push to this branch")
    parser.add_argument("--license", metavar="ID", help="for the card, such as apache-2.0")
    parser.add_argument("--scores", nargs="+", default=[], metavar="DIR", help="results of `mllm eval` for the card")


def run(args: argparse.Namespace) -> None:
    from mllm.hub import push
    from mllm.loading import quiet

    quiet()
    scores = [Path(folder) for folder in args.scores]
    address = push(Path(args.model), args.repo, args.private, args.revision, args.license, scores)
    sys.stdout.write(f"{address}\n")
