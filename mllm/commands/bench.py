"""`mllm bench`: how fast encoders, first tokens, training steps and the command's own start are."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InputError
from data.files import check_output
from mllm.commands.options import add_count, add_device, add_json, at_least, counts

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from mllm.lab.benchmarking.case import Case
    from mllm.lab.benchmarking.measure import Plan

HELP = (
    "Time our encoders beside dense ones in one process, in turn: medians with quartiles, multiply-accumulates, what "
    "they make of the machine's matmul, and how much of the saved arithmetic becomes saved time."
)
BENCHES = {
    "encoder": "images to their embeddings, against open_clip's towers",
    "resolution": "the same at several sizes of image, against transformers' CLIP, and of mixed sizes in one batch",
    "runtimes": "the same eager, compiled, in int8, and exported to ONNX Runtime and OpenVINO; on a CPU",
    "first-token": "an image and a prompt to the first new token, against transformers' LLaVA",
    "train": "forward and backward, and a bootstrapping step's two parts, against open_clip's towers",
    "answers": "short answers of a model in batches, against one by one",
    "start-up": "`mllm --help`, and `mllm chat` until it asks",
}
MODELS = ("encoder", "first-token", "train")
MEASURED = (*MODELS, "resolution", "runtimes")  # whose rows have times, arithmetic and memory
# A dense tower at 1024 pixels takes up to 40 s on two cores; each case runs once before it is timed in any event.
DEFAULTS: dict[str, dict[str, Any]] = {
    "answers": {"batch_size": [1, 16]},
    "runtimes": {"batch_size": [1, 8], "compile": True},
    "resolution": {"batch_size": [1], "repeats": 3, "warm_up": 0},
}
# Options that belong to some benches only, and what they are when they are not given.
OWN_OPTIONS: dict[str, tuple[tuple[str, ...], Any]] = {
    "language_model": (("first-token",), None),
    "prompt": (("first-token",), 64),
    "questions": (("answers",), 64),
    "max_new_tokens": (("answers",), 4),
    "tokens": (("encoder",), None),
    "image_size": (("resolution",), None),
    "official": (("encoder",), None),
    "int8": (("encoder",), False),
    "profile": (("encoder",), False),
    "batch_size": ((*MEASURED, "answers"), None),
    "dtype": ((*MEASURED, "answers"), None),
    "compile": ((*MODELS, "runtimes"), False),
    "threads": ((*MEASURED, "answers"), None),
    "device": ((*MEASURED, "answers"), "auto"),
    "plot": (MEASURED, None),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    listing = "; ".join(f"{name}: {text}" for name, text in BENCHES.items())
    parser.add_argument("bench", choices=tuple(BENCHES), help=listing)
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME|DIR",
        help="a published SparseFormer, the name of a dense tower, or a directory of either; again for each further "
        "one; default: the large CLIPs (and the base ones). answers, start-up: a model directory (the embedded one)",
    )
    parser.add_argument(
        "--language-model",
        action="append",
        metavar="SHAPE|DIR",
        help="first-token: 1.1B, 7B or a directory with a config.json; again for each further one (default 1.1B)",
    )
    add_count(parser, "--prompt", "first-token: tokens of text", 64)
    add_count(parser, "--questions", "answers: how many", 64)
    add_count(parser, "--max-new-tokens", "answers: of each at most", 4)
    parser.add_argument(
        "--tokens", type=counts, metavar="N[,N...]", help="encoder: ours once more looking with N tokens, each number"
    )
    parser.add_argument(
        "--image-size",
        type=counts,
        metavar="N[,N...]",
        help="resolution: sides of the images in pixels (default 224,336,448,672,1024)",
    )
    parser.add_argument(
        "--batch-size",
        type=at_least(1),
        nargs="+",
        metavar="N",
        help="one or several (default 8; answers: 1 16; resolution: 1, of mixed sizes one of each)",
    )
    add_count(parser, "--repeats", "repeats that are timed (default 10; resolution: 3)")
    add_count(parser, "--warm-up", "repeats before them (default 2; resolution: 0)", least=0)
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the process's CPU time, for a machine that is busy (default wall)",
    )
    parser.add_argument(
        "--dtype",
        action="append",
        choices=("float32", "bfloat16"),
        help="again for the other one beside it; train: of autocast (default float32)",
    )
    parser.add_argument("--compile", action="store_true", help="all once more with torch.compile")
    parser.add_argument(
        "--official",
        type=Path,
        metavar="DIR",
        help="encoder: beside each published SparseFormer its authors' code, from a checkout of "
        "github.com/showlab/sparseformer, with random weights of the same size",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="encoder, on a CPU: ours once more with int8 linear layers, against their float32 selves",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="encoder, on a CPU: instead of times, what each part takes of one model's time and of its arithmetic",
    )
    add_count(parser, "--threads", "threads of torch on the CPU; default: torch's own")
    add_device(parser)
    add_json(parser, "the figures, every repeat's among them,")
    parser.add_argument("--plot", metavar="OUT", help="also draw images/s over the batch size: .png, .svg or .pdf")


def run(args: argparse.Namespace) -> None:
    _check(args)
    defaults = {"batch_size": [8], "repeats": 10, "warm_up": 2, "dtype": ["float32"], **DEFAULTS.get(args.bench, {})}
    for name, value in defaults.items():
        if (given := getattr(args, name)) is None or given is False:
            setattr(args, name, value)
    args.batch_size = list(dict.fromkeys(args.batch_size))

    import torch

    from data.files import write_json
    from encoder.training.metrics import describe_machine
    from mllm.lab.benchmarking import report as reports
    from mllm.loading import pick_device, quiet

    quiet()
    if args.plot:
        reports.check_plot(Path(args.plot))
    device = pick_device("cpu" if args.bench == "start-up" else args.device)
    _check_device(args, device)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    measured = {
        "start-up": _start_up,
        "answers": _answers,
        "first-token": _first_token,
        "resolution": _resolution,
        "runtimes": _runtimes,
    }.get(args.bench, _profile if args.profile else _encoders)
    names = ("dtype", "compile", "clock", "repeats", "warm_up", "prompt", "questions", "max_new_tokens")
    report = {
        "bench": "profile" if args.profile else "tokens" if args.tokens else args.bench,
        "machine": describe_machine(device),
        "settings": {"device": str(device), **{name: getattr(args, name) for name in names}},
        **measured(args, device),
    }
    if args.json:
        write_json(Path(args.json), report)
    if args.plot:
        reports.plot([report], Path(args.plot))
    sys.stdout.write(reports.as_markdown(reports.section(report)))


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for what is wrong with the options, before anything heavy is imported."""
    for name, (benches, absent) in OWN_OPTIONS.items():
        if args.bench not in benches and getattr(args, name) != absent:
            raise InputError(f"--{name.replace('_', '-')}: belongs to `mllm bench {'`, `'.join(benches)}`")
    if args.int8 and args.dtype and "float32" not in args.dtype:
        raise InputError("--int8: is compared with float32; add --dtype float32")
    others = (args.int8, args.official, args.compile, args.plot, args.tokens)
    if args.profile and (any(others) or args.clock != "wall"):
        raise InputError("--profile: without --int8, --official, --compile, --plot, --tokens and --clock")
    if args.profile and max(len(args.batch_size or []), len(args.model or []), len(args.dtype or [])) > 1:
        raise InputError("--profile: is of one --model in one --dtype at one --batch-size")
    for name in ("model", "dtype") if args.bench not in MEASURED else ():
        if len(getattr(args, name) or []) > 1:
            raise InputError(f"--{name}: `mllm bench {args.bench}` takes one")
    for name in ("model", "language_model", "dtype", "tokens", "image_size"):
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
    if args.bench == "runtimes" and device.type != "cpu":
        raise InputError(f"--device {args.device}: runtimes are compared on a CPU; add --device cpu")
    for name in ("int8", "profile"):
        if getattr(args, name) and device.type != "cpu":
            raise InputError(f"--{name}: is for a CPU; add --device cpu")


def _start_up(args: argparse.Namespace, _: torch.device) -> dict[str, Any]:
    from mllm.lab.benchmarking import startup
    from mllm.loading import EMBEDDED, check_model_directory

    model = Path(args.model[0]) if args.model else EMBEDDED
    check_model_directory(model)
    rows = startup.measure(startup.commands(model), args.repeats, args.warm_up, args.clock)
    return {"rows": rows}


def _answers(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    from mllm.lab.benchmarking import answers
    from mllm.loading import EMBEDDED

    model = Path(args.model[0]) if args.model else EMBEDDED
    rows = answers.measure(model, device, args.dtype[0], _plan(args), args.questions, args.max_new_tokens)
    return {"model": str(model), "rows": rows}


def _profile(args: argparse.Namespace, _: torch.device) -> dict[str, Any]:
    import torch

    from mllm.lab.benchmarking import encoders, profiling

    name, dtype = args.model[0] if args.model else encoders.DEFAULT_ENCODERS[0], getattr(torch, args.dtype[0])
    config = encoders.sparse_config(name)
    if config is None:
        raise InputError(f"--model {name}: --profile is of a SparseFormer, a preset or a directory")
    return profiling.fractions(name, config, args.batch_size[0], dtype, args.repeats, args.warm_up)


def _encoders(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    from mllm.lab.benchmarking import encoders

    if args.bench == "train":
        cases = encoders.training_cases(args.model or list(encoders.DEFAULT_TRAINED))
    else:
        names = args.model or list(encoders.DEFAULT_ENCODERS)
        cases = encoders.encoder_cases(names, args.int8, args.official, args.tokens or ())
    return _measured(args, device, [cases])


def _resolution(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    from mllm.lab.benchmarking import resolution

    sides = args.image_size or list(resolution.DEFAULT_SIDES)
    square, mixed = resolution.resolution_cases(args.model or resolution.DEFAULT_ENCODERS, sides)
    found = [_measured(args, device, [square])]
    if mixed:
        found.append(_measured(args, device, [mixed], len(sides)))
    figures = {name: [each for part in found for each in part[name]] for name in found[0]}
    return {**figures, "mixed_sizes": resolution.mixed_sizes(sides)}


def _runtimes(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    from mllm.lab.benchmarking import runtimes

    return _measured(args, device, [runtimes.runtime_cases(args.model or runtimes.DEFAULT_ENCODERS)])


def _first_token(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    from mllm.lab.benchmarking import first_token

    names = args.model or list(first_token.DEFAULT_ENCODERS)
    language_models = [first_token.LanguageModel(name) for name in args.language_model or ["1.1B"]]
    # one after the other: they would not fit beside each other
    groups = (first_token.first_token_cases(names, each, args.prompt) for each in language_models)
    return _measured(args, device, groups)


def _measured(
    args: argparse.Namespace, device: torch.device, groups: Iterable[list[Case]], images: int = 1
) -> dict[str, Any]:
    """Measures groups of cases one after the other; ``images`` are those of a batch of one."""
    import torch

    from mllm.lab.benchmarking.case import variants
    from mllm.lab.benchmarking.measure import comparisons, measure

    rows, skipped, dtypes = [], [], [getattr(torch, name) for name in args.dtype]
    for cases in groups:
        found = measure(variants(cases, dtypes, args.compile), _plan(args, images), device)
        rows += found[0]
        skipped += found[1]
    return {"rows": rows, "comparisons": comparisons(rows), "skipped": skipped}


def _plan(args: argparse.Namespace, images: int = 1) -> Plan:
    from mllm.lab.benchmarking.measure import Plan

    return Plan(tuple(batch * images for batch in args.batch_size), args.repeats, args.warm_up, args.clock)
