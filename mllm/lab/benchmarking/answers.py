"""How much faster short answers come in batches: the same questions about generated images, in turn in one process."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from data.benchmarks import build_benchmark
from encoder.image_processing import image_size
from mllm.generation import answer, question
from mllm.lab.benchmarking.measure import Plan, Spread, interleave
from mllm.loading import load_model


def measure(
    directory: Path, device: torch.device, dtype: str, plan: Plan, questions: int, max_new_tokens: int
) -> list[dict[str, Any]]:
    """Asks all questions at each batch size; each is compared with the first one.

    Raises:
        InputError: ``directory`` holds no model.
    """
    model, processor = load_model(directory, str(device), dtype)
    benchmark = build_benchmark("synthetic", count=questions)
    benchmark.image_size = image_size(processor.image_processor)
    asked = [question(each.text, [each.load_image()]) for each in benchmark.read_questions(Path(), Path())]

    def ask(size: int) -> None:
        for start in range(0, questions, size):
            answer(model, processor, asked[start : start + size], max_new_tokens)

    runs = {size: partial(ask, size) for size in plan.batch_sizes}
    seconds = interleave(runs, plan.repeats, plan.warm_up, plan.seconds_of(device))
    first = seconds[plan.batch_sizes[0]]
    return [
        {
            "batch_size": size,
            "ms_per_question": asdict(Spread.of([1e3 * each / questions for each in times])),
            "speed_ratio": asdict(Spread.of([one / each for one, each in zip(first, times, strict=True)])),
            "seconds": times,
        }
        for size, times in seconds.items()
    ]
