"""`mllm check-data`: look for what is wrong in instruction data, before training on it."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import LONGEST, InputError, shorten
from data.files import check_file, check_output, write_json
from data.limits import check_range
from mllm.commands.options import add_count, add_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from mllm.finetuning.checking import Report
    from mllm.processing import MLLMProcessor

HELP = (
    "Look for what is wrong in conversations in LLaVA's format, and count their tokens. Exit code 0: nothing is wrong, "
    "or no more than --max-bad-samples, 1: problems were found, 2: the input cannot be used."
)

logger = logging.getLogger(__name__)
_SECONDS = 10  # between two lines of progress where there is no terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="SOURCE",
        help="conversations: a .json, .jsonl or .parquet file, or datasets:NAME_OR_PATH[:SPLIT]",
    )
    parser.add_argument("--image-folder", metavar="DIR", help="where the images are; default: beside the file")
    parser.add_argument("--model", metavar="DIR", help="model or adapter directory, whose tokenizer and template count")
    add_count(parser, "--max-length", "longest sample in tokens; default: the language model's own")
    parser.add_argument("--fast", action="store_true", help="images need only exist; do not open them")
    add_count(parser, "--show", "problems of a kind to print", 10, least=0)
    add_count(parser, "--workers", "threads that open images", 4)
    parser.add_argument(
        "--max-bad-samples",
        type=float,
        default=0,
        metavar="F",
        help="fraction of the samples that may have problems before the exit code is 1, as in a recipe (default 0)",
    )
    add_json(parser, "every problem and the statistics")


def run(args: argparse.Namespace) -> int:
    if args.max_length is not None and args.model is None:
        raise InputError("--max-length counts tokens: say of which model, with --model DIR")
    check_range("--max-bad-samples", args.max_bad_samples, 0, 1)
    check_output("--json", args.json)

    from data.records import NOUN, is_table

    if not is_table(args.file):
        check_file(args.file, NOUN)

    from mllm.finetuning.checking import check_conversations

    processor, longest = _model(Path(args.model)) if args.model else (None, None)
    max_length = args.max_length or longest
    with _Progress() as progress:
        report = check_conversations(
            args.file, args.image_folder, processor, max_length, args.fast, args.workers, progress
        )
    if args.json:
        content = {
            "file": str(args.file),
            "samples": report.samples,
            "repeated_ids": report.repeated_ids,
            "max_length": max_length,
            "counts": report.counts(),
            "problems": [asdict(finding) for finding in report.findings],
            "statistics": report.statistics(),
        }
        write_json(Path(args.json), content)
    _print(report, args.show)
    return int(report.bad > args.max_bad_samples * report.samples)


def _model(directory: Path) -> tuple[MLLMProcessor, int | None]:
    """The processor of a model or adapter, and how many tokens its language model takes."""
    from mllm.loading import (
        adapter_base,
        check_model_directory,
        context_length,
        find_model,
        is_adapter,
        load_processor,
        quiet,
    )
    from mllm.processing import MLLMProcessor
    from mllm.prompts import end_of_turn

    quiet()
    directory = find_model(directory)
    base = adapter_base(directory) if is_adapter(directory) else directory
    config = check_model_directory(base)
    processor = load_processor(directory)
    if not isinstance(processor, MLLMProcessor):
        raise InputError(f"--model {directory}: is no model of this project; give one written by `mllm finetune`")
    end_of_turn(processor)  # a chat template at fault is one error, and not one for each sample
    return processor, context_length(config)


class _Progress:
    """A bar on stderr where it is a terminal, or else a line every ten seconds."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
        self.task = self.bar.add_task("checking", total=1.0)
        self.said = time.monotonic()

    def __enter__(self) -> Callable[[int, float], None]:
        self.bar.start()
        return self.step

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def step(self, samples: int, done: float) -> None:
        self.bar.update(self.task, completed=done, description=f"{samples:,} samples")
        if self.bar.disable and time.monotonic() - self.said > _SECONDS:
            self.said = time.monotonic()
            logger.info("%d samples checked, %.0f%% of all", samples, 100 * done)


def _print(report: Report, show: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from data.samples import label
    from mllm.finetuning.checking import PROBLEMS

    console = Console()
    counts = report.counts()
    for kind, count in counts.items():
        sys.stdout.write(f"{kind}: {count:,} ({PROBLEMS[kind]})\n")
        found = [finding for finding in report.findings if finding.kind == kind]
        for finding in found[:show]:
            name = label({} if finding.id is None else {"id": finding.id}, finding.sample)
            sys.stdout.write(f"  {shorten(f'{name}: {finding.reason}', LONGEST - 2)}\n")
        if count > show:
            sys.stdout.write(f"  and {count - show:,} more\n")
    table = Table("per sample")
    for heading in ("min", "median", "p95", "max", "total"):
        table.add_column(heading, justify="right")
    for name, values in report.statistics().items():
        table.add_row(name, *(f"{value:,.10g}" for value in values.values()))
    if table.row_count:
        console.print(table)
    if report.repeated_ids:
        sys.stdout.write(
            f"note: {report.repeated_ids:,} samples have the id of an earlier one; training takes them all\n"
        )
    sys.stdout.write(f"{report.samples:,} samples, {report.bad:,} with problems\n")
