#!/usr/bin/env python
"""Measures again what the card of the embedded model says: `make figures`.

usage: scripts/figures.py [--model DIR] [--write] [--only WORD]

Runs the commands in mllm/embedded/figures.json, each once, and puts what they measure beside what is stated. Exit
code 1 if a figure is further from it than its tolerance. --write states what is measured now, and prints the table of
the card, which is what README.md and docs/ quote.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "mllm" / "embedded" / "figures.json"
TEXTS = Path("runs/drawings/texts")  # of scripts/drawings_texts.py


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(FIGURES.parent), help="another model directory")
    parser.add_argument("--write", action="store_true", help="state what is measured now")
    parser.add_argument("--only", default="", metavar="WORD", help="commands with this word alone")
    args = parser.parse_args()
    groups: list[dict[str, Any]] = read_json(FIGURES)
    if not TEXTS.exists():
        subprocess.run([sys.executable, str(ROOT / "scripts" / "drawings_texts.py"), str(TEXTS)], check=True)
    outside = 0
    sys.stdout.write("| what | stated | measured | tolerance | |\n|---|---:|---:|---:|---|\n")
    for group in groups:
        if args.only and args.only not in group["command"].split():
            continue
        measured = run(group["command"], args.model)
        for figure in group["figures"]:
            value = measured
            for step in figure["path"]:
                value = value[step]
            stated, tolerance = figure.get("value"), figure["tolerance"]
            far = stated is None or abs(value - stated) > tolerance
            outside += far
            sys.stdout.write(
                f"| {figure['what']} | {'' if stated is None else f'{stated:.1f}'} | {value:.1f} | {tolerance:g} "
                f"| {'outside' if far else ''} |\n"
            )
            sys.stdout.flush()
            figure["value"] = round(value, 2) if args.write else stated
    if args.write:
        write_json(FIGURES, groups)
    return 0 if args.write else min(outside, 1)


def run(command: str, model: str) -> Any:
    """Runs `mllm COMMAND --json FILE`, with {model} and {texts} filled in, and returns what it has measured."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "measured.json"
        words = [*command.format(model=model, texts=TEXTS).split(), "--json", str(file)]
        sys.stderr.write(f"mllm {' '.join(words)}\n")
        subprocess.run([sys.executable, "-m", "mllm", *words], check=True, stdout=subprocess.DEVNULL)
        return read_json(file)


if __name__ == "__main__":
    sys.exit(main())
