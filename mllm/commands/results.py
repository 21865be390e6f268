"""`mllm results`: one table of all evaluations."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data.benchmarks.table import as_markdown, collect
from data.files import check_output, write_json, write_whole

HELP = "Put the results of all evaluations below the given folders into one table, as Markdown and JSON."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="DIR", help="an --out of `mllm eval`, or what several lie in")
    parser.add_argument("--out", metavar="NAME", help="also write NAME.md and NAME.json")


def run(args: argparse.Namespace) -> None:
    for suffix in ("md", "json"):
        check_output("--out", args.out and f"{args.out}.{suffix}")
    rows = collect([Path(folder) for folder in args.folders])
    table = as_markdown(rows)
    if args.out:
        write_whole(Path(f"{args.out}.md"), table.encode(errors="backslashreplace"))
        write_json(Path(f"{args.out}.json"), rows)
    sys.stdout.write(table)
