"""Questions about pictures in memory, and the score on generated scenes without any files.

`mllm eval scenes` is the same score as a benchmark among others (`data.benchmarks.scenes`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from data.benchmarks.scenes import Score, normalise, score
from data.scenes import SceneConfig, SceneQuestions, blind_accuracy
from mllm.generation import answer, question

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mllm.processing import MLLMProcessor

__all__ = ["Score", "ask_all", "evaluate", "normalise", "score"]

logger = logging.getLogger(__name__)


class Questions(Protocol):
    """Items with "question" and "image": a list or a dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


def ask_all(
    model: PreTrainedModel,
    processor: MLLMProcessor,
    questions: Questions,
    batch_size: int = 32,
    max_new_tokens: int = 16,
) -> list[dict[str, Any]]:
    """Greedy answers to items with "question" and "image", in order.

    Returns:
        the items without their pictures, and with a "prediction" each.
    """
    records: list[dict[str, Any]] = []
    for start in range(0, len(questions), batch_size):
        batch = [questions[place] for place in range(start, min(start + batch_size, len(questions)))]
        asked = [question(item["question"], [item["image"]]) for item in batch]
        for item, prediction in zip(batch, answer(model, processor, asked, max_new_tokens), strict=True):
            records.append({**{name: item[name] for name in item if name != "image"}, "prediction": prediction})
        logger.info("%d of %d questions", len(records), len(questions))
    return records


def evaluate(
    model: PreTrainedModel, processor: MLLMProcessor, count: int, size: tuple[int, int], batch_size: int = 32
) -> tuple[list[Score], list[dict[str, Any]]]:
    """Ask `count` questions about scenes of the test split, drawn at `size` (height, width).

    Returns:
        scores, and one record per question: id, kind, question, answer, prediction.
    """
    questions = SceneQuestions("test", count, SceneConfig(height=size[0], width=size[1]))
    records = ask_all(model, processor, questions, batch_size)
    return score(records, blind_accuracy(questions.questions())), records
