"""`mllm eval`: score a model on a benchmark."""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.benchmarks import BENCHMARKS, Question, Scenes, build_benchmark, merge
from data.benchmarks.synthetic import score
from data.errors import InputError
from data.files import check_output, write_json
from mllm.commands.chat import add_model_options

if TYPE_CHECKING:
    from mllm.evaluation.runner import Loaded

logger = logging.getLogger(__name__)

HELP = (
    "Score a model on a benchmark. `scenes` needs no files and shows accuracy per kind of question beside the best "
    "blind guess; docs/benchmarks.md says which files the others take. An interrupted evaluation goes on when it is "
    "called again; under scripts/launch.sh the processes share the questions."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", metavar="BENCH", choices=tuple(BENCHMARKS), help=f"one of {', '.join(BENCHMARKS)}")
    parser.add_argument("--model", metavar="DIR", help="model or adapter directory; default: the embedded model")
    parser.add_argument("--questions", metavar="FILE", help="the questions, in the file that LLaVA's users have")
    parser.add_argument("--images", metavar="DIR", help="the folder of images")
    parser.add_argument("--annotations", metavar="PATH", help="the truth as it is published; without it, no score")
    parser.add_argument("--out", metavar="DIR", help="where answers, upload and score go; scenes can do without")
    parser.add_argument("--limit", type=int, metavar="N", help="ask only the first N questions")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="questions at a time (default 32)")
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="longest answer (default 128; scenes: 16), decoded greedily"
    )
    parser.add_argument("--ocr", action="store_true", help="textvqa: leave the OCR tokens of the file in the prompt")
    parser.add_argument(
        "--upload-questions", metavar="FILE", help="vqav2: all questions of the split that is uploaded, if more"
    )
    parser.add_argument("--count", type=int, metavar="N", help="scenes: questions (default 1000)")
    parser.add_argument("--json", metavar="OUT", help="scenes: also write the scores and every answer to this file")
    add_model_options(parser)


def run(args: argparse.Namespace) -> None:
    _check(args)

    from data.benchmarks.report import print_result
    from mllm.embedded_model import embedded_dir
    from mllm.evaluation.benchmark import evaluate, settings_of
    from mllm.evaluation.progress import Progress
    from mllm.evaluation.runner import own_device
    from mllm.finetuning.sources import image_size
    from mllm.loading import (
        adapter_base,
        check_model_directory,
        check_weight_files,
        is_adapter,
        load_model,
        load_processor,
        pick_device,
        quiet,
    )
    from mllm.prompts import end_of_turn

    quiet()
    directory = Path(embedded_dir() if args.model is None else args.model)
    pick_device(own_device(args.device))
    base = adapter_base(directory) if is_adapter(directory) else directory
    check_model_directory(base)
    check_weight_files(base)
    processor = load_processor(directory)
    end_of_turn(processor)  # a chat template at fault is one error, and not one for each question
    options: dict[str, Any] = {name: getattr(args, name) for name in ("ocr", "upload_questions", "count")}
    options = {name: value for name, value in options.items() if value}
    if "size" in BENCHMARKS[args.benchmark].options:  # it draws images: as large as the model sees them
        options["size"] = image_size(processor.image_processor)
    benchmark = build_benchmark(args.benchmark, **options)
    questions = benchmark.read_questions(Path(args.questions or ""), Path(args.images or ""))
    # The truth is read before hours are spent on answers.
    truths = benchmark.read_truths(Path(args.annotations)) if args.annotations else benchmark.own_truths(questions)
    truths = None if truths is None else merge(truths)
    asked = questions[: args.limit]

    def load() -> Loaded:
        return load_model(directory, own_device(args.device), args.dtype)

    if args.out and (progress := Progress(Path(args.out))).read():
        processor.date = progress.begun_on() or processor.date
    settings = settings_of(
        benchmark,
        asked,
        processor,
        directory,
        [Path(args.questions)] if args.questions else [],
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens or benchmark.max_new_tokens,
        device=args.device,
        dtype=args.dtype,
    )
    with tempfile.TemporaryDirectory() as nowhere:
        out = Path(args.out or nowhere)
        evaluation = evaluate(benchmark, asked, truths, out, settings, load, partial=args.limit is not None)
    if evaluation is None:  # the first process of the launch tells the rest
        return
    if args.json and isinstance(benchmark, Scenes):
        write_json(Path(args.json), _scenes_report(benchmark, asked, evaluation.answers, str(directory)))
    if evaluation.result is not None:
        print_result(benchmark, evaluation.result)
    if missing := evaluation.report["not_asked"]:
        logger.warning("%d of %d questions could not be asked; they count as wrong", missing, len(asked))
    if args.out:
        logger.info("%s: answers.jsonl, result.json, %s", out, evaluation.report["upload"] or "nothing to upload")


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for flags that contradict each other, before anything is loaded."""
    for name in ("count", "batch_size", "limit", "max_new_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1")
    check_output("--json", args.json)
    needs = BENCHMARKS[args.benchmark].needs
    for name in ("questions", "images"):
        if (getattr(args, name) is not None) != (name in needs):
            raise InputError(
                f"{args.benchmark}: --{name} is missing; docs/benchmarks.md says what to name"
                if name in needs
                else f"--{name} is no option of {args.benchmark}; leave it out"
            )
    if args.benchmark == Scenes.name:
        if args.annotations:
            raise InputError("--annotations is no option of scenes; leave it out")
    elif args.json:
        raise InputError("--json belongs to scenes; the other benchmarks write score.json into --out DIR")
    elif not args.out:
        raise InputError(f"{args.benchmark}: --out is missing; name a folder for answers and score")
    if not args.out and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--out is missing; under a launcher the processes meet in that folder")


def _scenes_report(
    benchmark: Scenes, asked: Sequence[Question], answers: Sequence[dict[str, Any]], model: str
) -> dict[str, Any]:
    """Scores, and one record per question: id, kind, question, answer, prediction."""
    records = [
        {
            "question_id": each.question_id,
            "kind": each.category,
            "question": each.text,
            "answer": each.fields["answer"],
            "prediction": answer["text"],
        }
        for each, answer in zip(asked, answers, strict=True)
    ]
    scores = [asdict(each) for each in score(records, benchmark.blind)]
    return {"model": model, "scores": scores, "answers": records}
