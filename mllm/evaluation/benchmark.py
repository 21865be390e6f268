"""One evaluation of a model on a benchmark: how it is asked, and what is written into its folder.

settings.json       how it was asked; an interrupted evaluation goes on only if nothing of this has changed
progress-*.jsonl    the batches that are done, a file for each process
answers.jsonl       LLaVA's format, in the order of the questions
upload.* and the like, what the benchmark's server or its own script wants
score.json          what `mllm score` writes, where the ground truth is known
result.json         score, prompt, settings, versions, speed; what `mllm results` collects
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from data.benchmarks import Benchmark, GroundTruth, Question, Result, pair
from data.benchmarks.report import as_json
from data.errors import InputError
from data.files import json_bytes, write_json, write_whole
from data.messages import AnswerRecord
from mllm.evaluation.progress import Progress
from mllm.evaluation.runner import Loaded, ask, launched
from mllm.generation import question
from mllm.loading import adapter_base, is_adapter
from mllm.prompts import render_prompt

if TYPE_CHECKING:
    from mllm.processing import MLLMProcessor

logger = logging.getLogger(__name__)

RESULT = "result.json"
_MODEL_FILES = (".json", ".safetensors")
_LOOKED_UP = 100  # questions among which one must be good
_PACKAGES = ("sparseformer-mllm", "torch", "transformers", "peft")


class Evaluation(NamedTuple):
    """The score (None where the ground truth is not known), the records of answers.jsonl, and result.json."""

    result: Result | None
    answers: list[AnswerRecord]
    report: dict[str, Any]


def evaluate(
    benchmark: Benchmark,
    questions: Sequence[Question],
    truths: Sequence[GroundTruth] | None,
    out: Path,
    settings: dict[str, Any],
    load: Callable[[], Loaded],
    partial: bool = False,
    look: Mapping[str, int] = MappingProxyType({}),
) -> Evaluation | None:
    """Ask, score and write everything that is listed above.

    Args:
        truths: None where the answers are not public.
        settings: from `settings_of`.
        load: gives the model and its processor.
        partial: only some of the questions are asked, and only those are scored.
        look: as for `ask`.
    Returns:
        what was written; None in all processes of a launch but the first.
    Raises:
        InputError: `out` holds an evaluation with other settings; nothing could be asked; truths do not fit.
    """
    process = launched()
    progress = Progress(out, process.process_index)
    if process.is_main_process:
        progress.begin(settings)
        if truths is None:
            logger.info(
                "%s: the right answers are not known (--annotations): answers are written and not scored",
                benchmark.title,
            )
    process.wait_for_everyone()
    day = progress.begun_on() or date.today()

    def load_dated() -> Loaded:
        model, processor = load()
        processor.date = day
        return model, processor

    ask(benchmark, questions, progress, load_dated, settings["batch_size"], settings["max_new_tokens"], look)
    if not process.is_main_process:
        return None
    replies = progress.replies(len(questions))
    records = [
        _record(benchmark, each, text, error, settings["model"])
        for each, (text, error) in zip(questions, replies, strict=True)
    ]
    write_whole(out / "answers.jsonl", b"".join(map(json_bytes, records)))

    texts = [None if text is None else benchmark.submission(text) for text, _ in replies]
    answers = [benchmark.answer(each, text) for each, text in zip(questions, texts, strict=True)]
    pairs = [] if truths is None else pair(benchmark, truths, answers, asked_only=partial)
    upload = benchmark.write_upload(out, questions, texts, pairs)
    result = benchmark.score(pairs) if pairs else None
    score = as_json(benchmark, result) if result else {"benchmark": benchmark.name, "overall": None}
    if result:
        write_json(out / "score.json", score)
    seconds = sum(batch.seconds for batch in progress.read().values())
    report = {
        **{name: value for name, value in score.items() if name != "items"},
        "count": len(questions),
        "not_asked": sum(text is None for text in texts),
        "seconds_per_question": round(seconds / len(questions), 6),
        "upload": upload.name if upload else None,
        **{name: value for name, value in settings.items() if name not in score},
    }
    write_json(out / RESULT, report)
    return Evaluation(result, records, report)


def settings_of(
    benchmark: Benchmark,
    questions: Sequence[Question],
    processor: MLLMProcessor,
    model: Path,
    files: Sequence[Path],
    look: Mapping[str, int],
    **options: Any,
) -> dict[str, Any]:
    """All that answers depend on, or that one wants to know of them later.

    Args:
        model: its directory; changed weights are noticed by their sizes and dates.
        files: of the questions; changed ones are noticed by their content.
        look: as for `ask`.
        options: of the run, "batch_size" and "max_new_tokens" among them.
    """
    return {
        "benchmark": benchmark.name,
        "metric": benchmark.metric,
        "model": str(model),
        "model_files": _fingerprint_of_model([model, *([adapter_base(model)] if is_adapter(model) else [])]),
        "questions": {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files},
        "count": len(questions),
        "decoding": "greedy",
        **options,
        "date": processor.date.isoformat(),  # which the template may tell the model
        "prompt": _first_prompt(benchmark, questions, processor),
        "tokens_per_image": look.get("num_tokens", processor.num_image_tokens),
        "image_size": look.get("image_size"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }


def _first_prompt(benchmark: Benchmark, questions: Sequence[Question], processor: MLLMProcessor) -> str:
    """What is read of the first question that can be asked, which must be among the first hundred."""
    refused: dict[str, str] = {}
    for each in questions[:_LOOKED_UP]:
        try:
            return render_prompt(processor, question(benchmark.prompt(each), [None])["messages"])
        except InputError as problem:
            refused[str(each.question_id)] = str(problem)
    name, reason = next(iter(refused.items()))
    raise InputError(f"none of the first {len(refused)} questions can be asked; question {name}: {reason}")


def _fingerprint_of_model(directories: Sequence[Path]) -> str:
    files = [file for folder in directories for file in sorted(folder.iterdir()) if file.suffix in _MODEL_FILES]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _record(benchmark: Benchmark, asked: Question, text: str | None, error: str | None, model: str) -> AnswerRecord:
    """An answer as it is written."""
    prompt = benchmark.prompt(asked)
    identity = json.dumps([benchmark.name, asked.question_id, prompt, model])
    facts = {"category": asked.category, "image": asked.image, "error": error}
    return {
        "question_id": asked.question_id,
        "prompt": prompt,
        "text": text or "",
        "answer_id": hashlib.sha256(identity.encode(errors="backslashreplace")).hexdigest()[:22],
        "model_id": model,
        "metadata": {name: value for name, value in facts.items() if value},
    }
