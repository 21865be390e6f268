"""`mllm score`: score given answers, without a model and without torch."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from data.benchmarks import BENCHMARKS, Answer, build_benchmark, pair, read_answers
from data.benchmarks.report import as_json, print_result
from data.errors import InputError
from data.files import check_output, write_json
from data.json_objects import is_blank, read_objects, take_id
from mllm.commands.options import add_json

logger = logging.getLogger(__name__)

HELP = "Score answers to a benchmark's questions, without a model."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", metavar="BENCH", choices=tuple(BENCHMARKS), help=f"one of {', '.join(BENCHMARKS)}")
    parser.add_argument(
        "--answers",
        required=True,
        metavar="FILE",
        help="LLaVA's JSON lines, or what is uploaded for vqav2 or gqa",
    )
    parser.add_argument(
        "--annotations", required=True, metavar="PATH", help="the ground truth as it is published; pope, mme: a folder"
    )
    parser.add_argument(
        "--questions",
        metavar="FILE",
        help="the questions that were asked; pope needs them for answers of LLaVA, which do not name their images",
    )
    add_json(parser, "the score of every question")


def run(args: argparse.Namespace) -> None:
    """Score, print and write. Raises InputError for files that are missing, malformed or do not fit each other."""
    check_output("--json", args.json)
    benchmark = build_benchmark(args.benchmark)
    answers = read_answers(Path(args.answers))
    if args.questions:
        answers = _with_images(answers, Path(args.questions))
    pairs = pair(benchmark, benchmark.read_ground_truth(Path(args.annotations)), answers)
    result = benchmark.score(pairs)
    if args.json:
        write_json(Path(args.json), as_json(benchmark, result))
    print_result(benchmark, result)
    if failed := sum(answer.text is None for answer in answers):
        logger.warning("%d of %d answers hold an error in place of words and count as wrong", failed, len(answers))


def _with_images(answers: list[Answer], file: Path) -> list[Answer]:
    """Answers that know of which category and image their questions are."""
    asked = {str(take_id(record, "question_id", where)): record for where, record in read_objects(file)}
    known = []
    for answer in answers:
        record = asked.get(str(answer.question_id))
        if record is None:
            raise InputError(
                f"{answer.where}: question {answer.question_id} is not in {file}; name the file that was asked"
            )
        image, category, text = (
            "" if is_blank(record.get(name)) else str(record[name]) for name in ("image", "category", "text")
        )
        prompt = text if answer.prompt is None else answer.prompt
        known.append(replace(answer, image=image, category=category, prompt=prompt))
    return known
