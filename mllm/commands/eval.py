"""`mllm eval`: score a model on a benchmark."""

from __future__ import annotations

import argparse
import functools
import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.benchmarks import BENCHMARKS, build_benchmark, merge
from data.errors import InputError
from data.files import check_output, write_json
from data.processes import launch_rank
from mllm.commands.options import add_budget, add_count, add_json, add_model

if TYPE_CHECKING:
    from data.benchmarks import Option
    from mllm.evaluation.runner import Loaded
    from mllm.processing import MLLMProcessor

logger = logging.getLogger(__name__)

HELP = (
    "Score a model on a benchmark; docs/benchmarks.md says which files each takes. An interrupted evaluation goes on "
    "when it is called again; under scripts/launch.sh the processes share the questions."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", metavar="BENCH", choices=tuple(BENCHMARKS), help=f"one of {', '.join(BENCHMARKS)}")
    add_model(parser)
    parser.add_argument("--questions", metavar="FILE", help="the questions, in the file that LLaVA's users have")
    parser.add_argument("--images", metavar="DIR", help="the folder of images")
    parser.add_argument(
        "--annotations", metavar="PATH", help="the ground truth as it is published; without it, no score"
    )
    parser.add_argument("--out", metavar="DIR", help="where answers, upload and score go")
    add_budget(parser, several=True)
    add_count(parser, "--limit", "ask only the first N questions")
    add_count(parser, "--batch-size", "questions at a time", 32)
    add_count(parser, "--max-new-tokens", "longest answer (default: the benchmark's), decoded greedily")
    add_json(parser, "the score and every answer")
    for name, options in _options().items():
        words = "; ".join(f"{benchmark}: {option.help}" for benchmark, option in options)
        kind = options[0][1].type
        how: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind, "metavar": "VALUE"}
        parser.add_argument(f"--{name.replace('_', '-')}", help=words, **how)


def _options() -> dict[str, list[tuple[str, Option]]]:
    """The options of all benchmarks by name, each with the benchmarks that have it."""
    options: dict[str, list[tuple[str, Option]]] = {}
    for name in BENCHMARKS:
        for option in BENCHMARKS[name].options:
            options.setdefault(option.name, []).append((name, option))
    return options


def run(args: argparse.Namespace) -> None:
    _check(args)
    given = {name: getattr(args, name) for name in _options()}
    options = {name: value for name, value in given.items() if value is not None and value is not False}
    benchmark = build_benchmark(args.benchmark, **options)
    # The ground truth is read before hours are spent on answers.
    truths = benchmark.read_ground_truth(Path(args.annotations)) if args.annotations else None

    from data.benchmarks.report import print_result
    from encoder.image_processing import image_size
    from mllm.evaluation.benchmark import evaluate, settings_of
    from mllm.evaluation.progress import Progress
    from mllm.evaluation.runner import own_device
    from mllm.loading import (
        EMBEDDED,
        adapter_base,
        check_model_directory,
        check_weight_files,
        find_model,
        is_adapter,
        load_model,
        load_processor,
        pick_device,
        quiet,
    )
    from mllm.prompts import end_of_turn

    quiet()
    directory = find_model(args.model or EMBEDDED)
    pick_device(own_device(args.device))
    base = adapter_base(directory) if is_adapter(directory) else directory
    check_model_directory(base)
    check_weight_files(base)
    processor = load_processor(directory)
    end_of_turn(processor)  # a chat template at fault is one error, and not one for each question
    benchmark.image_size = image_size(processor.image_processor)
    questions = benchmark.read_questions(Path(args.questions or ""), Path(args.images or ""))
    if truths is None:
        truths = benchmark.own_ground_truth(questions)
    truths = None if truths is None else merge(truths)
    asked = questions[: args.limit]

    looks = _looks(args, processor)

    @functools.cache
    def load() -> Loaded:
        return load_model(directory, own_device(args.device), args.dtype)

    with tempfile.TemporaryDirectory() as nowhere:
        evaluations = []
        for look in looks:
            out = Path(args.out or nowhere)
            out = out / f"tokens-{look['num_tokens']}" if len(looks) > 1 else out
            if args.out and (progress := Progress(out)).read():
                processor.date = progress.begun_on() or processor.date
            settings = settings_of(
                benchmark,
                asked,
                processor,
                directory,
                [Path(args.questions)] if args.questions else [],
                look,
                batch_size=args.batch_size,
                max_new_tokens=args.max_new_tokens or benchmark.max_new_tokens,
                device=args.device,
                dtype=args.dtype,
                options=options,
            )
            evaluations.append(
                evaluate(benchmark, asked, truths, out, settings, load, partial=args.limit is not None, look=look)
            )
    done = [evaluation for evaluation in evaluations if evaluation is not None]
    if not done:  # the first process of the launch tells the rest
        return
    if args.json:
        reports = [{**each.report, "answers": each.answers} for each in done]
        write_json(Path(args.json), reports[0] if len(looks) == 1 else {"budgets": reports})
    for each in done:
        if each.result is not None:
            if len(looks) > 1:
                sys.stdout.write(f"\n{each.report['tokens_per_image']} tokens an image\n\n")
            print_result(benchmark, each.result)
        if missing := each.report["not_asked"]:
            logger.warning("%d of %d questions could not be asked; they count as wrong", missing, len(asked))
    if args.out:
        logger.info("%s: answers.jsonl, result.json, %s", args.out, done[0].report["upload"] or "nothing to upload")


def _looks(args: argparse.Namespace, processor: MLLMProcessor) -> list[dict[str, int]]:
    """How images are looked at, in each of the evaluations that are asked for; InputError if they cannot be."""
    processor.check_num_tokens(args.tokens or ())
    processor.check_image_size(args.image_size)
    size = {} if args.image_size is None else {"image_size": args.image_size}
    return [{"num_tokens": count, **size} for count in args.tokens or ()] or [size]


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for flags that contradict each other, before anything is loaded."""
    check_output("--json", args.json)
    needs = BENCHMARKS[args.benchmark].needs
    for name in ("questions", "images"):
        if (getattr(args, name) is not None) != (name in needs):
            raise InputError(
                f"{args.benchmark}: --{name} is missing; docs/benchmarks.md says what to name"
                if name in needs
                else f"--{name} is no option of {args.benchmark}; leave it out"
            )
    if needs and not args.out:
        raise InputError(f"{args.benchmark}: --out is missing; name a folder for answers and score")
    if not args.out and launch_rank() is not None:
        raise InputError("--out is missing; under a launcher the processes meet in that folder")
