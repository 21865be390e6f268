"""`mllm results`: one table of all evaluations."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data.benchmarks.base import write_json, write_whole
from data.benchmarks.table import as_markdown, collect
from data.errors import InputError

HELP = "Put the results of all evaluations below the given folders into one table, as Markdown and JSON."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="DIR", help="an --out of `mllm eval`, or what several lie in")
    parser.add_argument("--out", metavar="NAME", help="also write NAME.md and NAME.json")


def run(args: argparse.Namespace) -> None:
    rows = collect([Path(folder) for folder in args.folders])
    table = as_markdown(rows)
    if args.out:
        if not Path(args.out).absolute().parent.is_dir():
            raise InputError(f"--out {args.out}: no such directory")
        write_whole(Path(f"{args.out}.md"), table.encode())
        write_json(Path(f"{args.out}.json"), rows)
    sys.stdout.write(table)
