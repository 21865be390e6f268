"""`mllm bench`: how fast encoders, first tokens, training steps and the command's own start are."""

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

    from mllm.lab.benchmarking.contender import Place
    from mllm.lab.benchmarking.measure import Measurements, Plan
    from mllm.lab.benchmarking.report import Section

HELP = (
    "Time our encoders beside dense ones in one process, in turn: medians with quartiles, multiply-accumulates, the "
    "share of the machine's matrix products, and how much of the saved arithmetic becomes saved time."
)
BENCHES = {
    "encoder": "images to their embeddings, against open_clip's towers",
    "first-token": "an image and a prompt to the first new token, against transformers' LLaVA",
    "train": "forward and backward, and a bootstrapping step's two parts, against open_clip's towers",
    "start-up": "`mllm --help`, and `mllm chat` until it asks",
}
MODELS = ("encoder", "first-token", "train")
# Options that belong to some benches only, and what they are when they are not given.
OWN_OPTIONS: dict[str, tuple[tuple[str, ...], Any]] = {
    "language_model": (("first-token",), None),
    "prompt": (("first-token",), None),
    "int8": (("encoder",), False),
    "packed": (("encoder", "first-token"), False),
    "profile": (("encoder",), False),
    "batch_size": (MODELS, None),
    "dtype": (MODELS, "fp32"),
    "compile": (MODELS, False),
    "threads": (MODELS, None),
    "device": (MODELS, "auto"),
    "plot": (MODELS, None),
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
        "one; default: the large CLIPs (and the base ones). start-up: a model directory; default: the embedded one",
    )
    parser.add_argument(
        "--language-model",
        action="append",
        metavar="SHAPE|DIR",
        help="first-token: 1.1B, 7B or a directory with a config.json; again for each further one (default 1.1B)",
    )
    parser.add_argument("--prompt", type=int, metavar="N", help="first-token: tokens of text (default 64)")
    parser.add_argument("--batch-size", type=int, nargs="+", metavar="N", help="one or several (default 8)")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="that are timed (default 10)")
    parser.add_argument("--warm-up", type=int, default=2, metavar="N", help="rounds before them (default 2)")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the process's CPU time, for a machine that is busy (default wall)",
    )
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32", help="train: of autocast (default fp32)")
    parser.add_argument("--compile", action="store_true", help="all once more with torch.compile")
    parser.add_argument(
        "--int8",
        action="store_true",
        help="encoder, on a CPU: ours once more with int8 linear layers, against their float selves",
    )
    parser.add_argument(
        "--packed",
        action="store_true",
        help="encoder and first-token, on a CPU: ours once more with weights packed for the steps' shapes",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="encoder, on a CPU: instead of times, each part's share of one model's time and of its arithmetic",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of torch on the CPU; default: torch's own")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; default: the best there is")
    parser.add_argument("--json", metavar="OUT", help="also write the figures, every round's among them, to this file")
    parser.add_argument("--plot", metavar="OUT", help="also draw images/s over the batch size: .png, .svg or .pdf")


def run(args: argparse.Namespace) -> None:
    _check(args)
    args.batch_size = list(dict.fromkeys(args.batch_size or [8]))

    from data.files import write_json
    from mllm.lab.benchmarking.report import as_markdown, show
    from mllm.loading import quiet

    quiet()
    if args.bench == "start-up":
        report, section = _start_up(args)
    else:
        report, section = _models(args)
    if args.json:
        write_json(Path(args.json), report)
    if sys.stdout.isatty():
        show(section)
    else:
        sys.stdout.write(as_markdown(section))


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for what is wrong with the options, before anything heavy is imported."""
    for name, (benches, absent) in OWN_OPTIONS.items():
        if args.bench not in benches and getattr(args, name) != absent:
            raise InputError(f"--{name.replace('_', '-')}: belongs to `mllm bench {'`, `'.join(benches)}`")
    for name, least in (("rounds", 1), ("warm_up", 0), ("threads", 1), ("prompt", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}")
    if args.batch_size and min(args.batch_size) < 1:
        raise InputError("--batch-size must be at least 1")
    if args.int8 and args.dtype != "fp32":
        raise InputError("--int8: is compared with fp32")
    if args.packed and args.dtype != "fp32":
        raise InputError("--packed: is for fp32")
    if args.profile and (args.int8 or args.packed or args.compile or args.plot or args.clock != "wall"):
        raise InputError("--profile: without --int8, --packed, --compile, --plot and --clock")
    if args.profile and max(len(args.batch_size or []), len(args.model or [])) > 1:
        raise InputError("--profile: is of one --model at one --batch-size")
    if args.bench == "start-up" and len(args.model or []) > 1:
        raise InputError("--model: `mllm bench start-up` takes one")
    for name in ("model", "language_model"):
        given = getattr(args, name) or []
        if len(set(given)) < len(given):
            raise InputError(f"--{name.replace('_', '-')}: one is given twice")
    for name in ("json", "plot"):
        check_output(f"--{name}", getattr(args, name))


def _start_up(args: argparse.Namespace) -> tuple[dict[str, Any], Section]:
    import torch

    from mllm.embedded_model import embedded_dir
    from mllm.lab.benchmarking import startup
    from mllm.lab.benchmarking.machine import describe_machine
    from mllm.loading import check_model_directory

    skipped = []
    try:
        model: Path | None = Path(args.model[0]) if args.model else embedded_dir()
    except InputError as problem:
        model = None
        skipped.append(f"{startup.CHAT_COMMAND}: {problem}")
    if model is not None:
        check_model_directory(model)
    machine = describe_machine(torch.device("cpu"))
    rows = startup.measure(startup.commands(model), args.rounds, args.warm_up, args.clock)
    settings = {"clock": args.clock, "rounds": args.rounds, "warm_up": args.warm_up}
    report = {"bench": "start-up", "machine": machine, "settings": settings, "rows": rows, "skipped": skipped}
    return report, startup.section(report)


def _models(args: argparse.Namespace) -> tuple[dict[str, Any], Section]:
    import torch

    from mllm.lab.benchmarking import profiling
    from mllm.lab.benchmarking.contender import Place
    from mllm.lab.benchmarking.machine import describe_machine
    from mllm.lab.benchmarking.measure import Plan
    from mllm.lab.benchmarking.plot import check_plot, plot
    from mllm.lab.benchmarking.report import as_dict, section
    from mllm.loading import pick_device

    if args.plot:
        check_plot(Path(args.plot))
    device = pick_device(args.device)
    _check_device(args, device)
    place = Place(device, getattr(torch, DTYPES[args.dtype]))
    settings: dict[str, Any] = {"device": str(device), "dtype": args.dtype, "compile": args.compile}
    settings |= {"clock": args.clock, "rounds": args.rounds, "warm_up": args.warm_up}
    with _threads(args.threads):
        torch.manual_seed(0)
        machine = describe_machine(device)
        if args.profile:
            report = {"bench": "profile", "machine": machine, "settings": settings} | _profile(args, place)
            return report, profiling.section(report)
        measured = _measure(args, Plan(tuple(args.batch_size), args.rounds, args.warm_up, args.clock), place)
    if args.bench == "first-token":
        settings["prompt"] = _prompt(args)
    report = as_dict(args.bench, machine, settings, measured.rows, measured.comparisons(), measured.skipped)
    if args.plot:
        plot(report, Path(args.plot))
    return report, section(report)


def _check_device(args: argparse.Namespace, device: torch.device) -> None:
    import torch

    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {args.device}: cpu or cuda")
    if args.clock == "cpu" and device.type != "cpu":
        raise InputError("--clock cpu: a GPU's time is not the CPU's; use --clock wall, or --device cpu")
    for name in ("int8", "packed", "profile"):
        if getattr(args, name) and device.type != "cpu":
            raise InputError(f"--{name}: is for a CPU; add --device cpu")
    if args.packed and not torch.backends.mkl.is_available():
        raise InputError("--packed: this build of torch has no MKL, which packs the weights; leave it out")


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


def _profile(args: argparse.Namespace, place: Place) -> dict[str, Any]:
    from mllm.lab.benchmarking import encoders, profiling

    name = args.model[0] if args.model else encoders.DEFAULT_ENCODERS[0]
    config = encoders.sparse_config(name)
    if config is None:
        raise InputError(f"--model {name}: --profile is of a SparseFormer, a preset or a directory")
    return profiling.shares(name, config, args.batch_size[0], place, args.rounds, args.warm_up)


def _measure(args: argparse.Namespace, plan: Plan, place: Place) -> Measurements:
    from mllm.lab.benchmarking import encoders, first_token
    from mllm.lab.benchmarking.contender import Contender, compiled, packed
    from mllm.lab.benchmarking.measure import Measurements, measure

    def all_of(contenders: list[Contender]) -> list[Contender]:
        plain = [contender for contender in contenders if contender.reference is None]
        again = [packed(contender) for contender in plain if contender.sparse and args.packed]
        again += [compiled(contender) for contender in plain if args.compile]
        return [*contenders, *again]

    if args.bench == "encoder":
        names = args.model or list(encoders.DEFAULT_ENCODERS)
        return measure(all_of(encoders.encoder_contenders(names, args.int8)), plan, place)
    if args.bench == "train":
        return measure(all_of(encoders.training_contenders(args.model or list(encoders.DEFAULT_TRAINED))), plan, place)
    names = args.model or list(first_token.DEFAULT_ENCODERS)
    language_models = [first_token.LanguageModel(name) for name in args.language_model or ["1.1B"]]
    found = Measurements()
    for language_model in language_models:  # one after the other: they would not fit beside each other
        contenders = first_token.first_token_contenders(names, language_model, _prompt(args))
        each = measure(all_of(contenders), plan, place)
        found.rows += each.rows
        found.skipped += each.skipped
    return found
