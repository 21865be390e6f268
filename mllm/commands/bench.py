"""`mllm bench`: how fast encoders, first tokens and training steps are, for what they compute."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InputError
from data.files import check_output

if TYPE_CHECKING:
    import torch

    from mllm.benchmarking.contender import Place
    from mllm.benchmarking.measure import Measurements, Plan

HELP = (
    "Time our encoders beside dense ones in one process, in turn: medians with quartiles, multiply-accumulates, the "
    "share of the machine's matrix products, and how much of the saved arithmetic becomes saved time."
)
BENCHES = {
    "encoder": "pictures to their embeddings, against open_clip's towers",
    "first-token": "a picture and a prompt to the first new token, against transformers' LLaVA",
    "train": "forward and backward, and a bootstrapping step's two parts, against open_clip's towers",
}
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    listing = "; ".join(f"{name}: {text}" for name, text in BENCHES.items())
    parser.add_argument("bench", choices=tuple(BENCHES), help=listing)
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME|DIR",
        help="a published SparseFormer, the name of a dense tower, or a directory of either; again for each further "
        "one; default: the large CLIPs (and the base ones)",
    )
    parser.add_argument(
        "--language-model",
        action="append",
        metavar="SHAPE|DIR",
        help="first-token: 1.1B, 7B or a directory with a config.json; again for each further one (default 1.1B)",
    )
    parser.add_argument("--prompt", type=int, metavar="N", help="first-token: tokens of text (default 64)")
    parser.add_argument(
        "--batch-size", type=int, nargs="+", default=[8], metavar="N", help="one or several (default 8)"
    )
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="that are timed (default 10)")
    parser.add_argument("--warm-up", type=int, default=2, metavar="N", help="rounds before them (default 2)")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the process's CPU time, for a machine that is busy (default wall)",
    )
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32", help="train: of autocast (default fp32)")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch on the CPU; default: torch's own")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; default: the best there is")
    parser.add_argument("--json", metavar="OUT", help="also write the figures, every round's among them, to this file")
    parser.add_argument("--plot", metavar="OUT", help="also draw images/s over the batch size: .png, .svg or .pdf")


def run(args: argparse.Namespace) -> None:
    _check(args)

    import torch

    from data.files import write_json
    from mllm.benchmarking.contender import Place
    from mllm.benchmarking.machine import describe_machine
    from mllm.benchmarking.measure import Plan
    from mllm.benchmarking.plot import check_plot, plot
    from mllm.benchmarking.report import as_dict, as_markdown, show
    from mllm.loading import pick_device, quiet

    quiet()
    if args.plot:
        check_plot(Path(args.plot))
    device = pick_device(args.device)
    _check_device(args, device)
    place = Place(device, getattr(torch, DTYPES[args.dtype]), args.compile)
    plan = Plan(tuple(dict.fromkeys(args.batch_size)), args.rounds, args.warm_up, args.clock)
    with _threads(args.threads):
        torch.manual_seed(0)
        machine = describe_machine(device)
        measured = _measure(args, plan, place)
    settings: dict[str, Any] = {"device": str(device), "dtype": args.dtype, "compile": args.compile}
    settings |= {"clock": args.clock, "rounds": args.rounds, "warm_up": args.warm_up}
    if args.bench == "first-token":
        settings["prompt"] = _prompt(args)
    report = as_dict(args.bench, machine, settings, measured.rows, measured.comparisons(), measured.skipped)
    if args.json:
        write_json(Path(args.json), report)
    if args.plot:
        plot(report, Path(args.plot))
    if sys.stdout.isatty():
        show(report)
    else:
        sys.stdout.write(as_markdown(report))


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for what is wrong with the options, before anything heavy is imported."""
    for name, least in (("rounds", 1), ("warm_up", 0), ("threads", 1), ("prompt", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}")
    if min(args.batch_size) < 1:
        raise InputError("--batch-size must be at least 1")
    if args.bench != "first-token":
        for name in ("language_model", "prompt"):
            if getattr(args, name) is not None:
                raise InputError(f"--{name.replace('_', '-')}: belongs to `mllm bench first-token`")
    for name in ("model", "language_model"):
        given = getattr(args, name) or []
        if len(set(given)) < len(given):
            raise InputError(f"--{name.replace('_', '-')}: one is given twice")
    for name in ("json", "plot"):
        check_output(f"--{name}", getattr(args, name))


def _check_device(args: argparse.Namespace, device: torch.device) -> None:
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {args.device}: cpu or cuda")
    if args.clock == "cpu" and device.type != "cpu":
        raise InputError("--clock cpu: a GPU's time is not the CPU's; use --clock wall, or --device cpu")


def _prompt(args: argparse.Namespace) -> int:
    return 64 if args.prompt is None else args.prompt


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many threads, for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measure(args: argparse.Namespace, plan: Plan, place: Place) -> Measurements:
    from mllm.benchmarking import encoders, first_token
    from mllm.benchmarking.measure import Measurements, measure

    if args.bench == "encoder":
        return measure(encoders.encoder_contenders(args.model or list(encoders.DEFAULT_ENCODERS)), plan, place)
    if args.bench == "train":
        return measure(encoders.training_contenders(args.model or list(encoders.DEFAULT_TRAINED)), plan, place)
    names = args.model or list(first_token.DEFAULT_ENCODERS)
    language_models = [first_token.LanguageModel(name) for name in args.language_model or ["1.1B"]]
    found = Measurements()
    for language_model in language_models:  # one after the other: they would not fit beside each other
        contenders = first_token.first_token_contenders(names, language_model, _prompt(args))
        each = measure(contenders, plan, place)
        found.rows += each.rows
        found.skipped += each.skipped
    return found
