"""The score on generated scenes: accuracy per kind of question, beside the best guess without looking."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from data.scenes import KINDS, SceneConfig, SceneQuestions, blind_accuracy
from mllm.generation import answer, question

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mllm.processing import MLLMProcessor

logger = logging.getLogger(__name__)


class Questions(Protocol):
    """Items with "question" and "image": a list or a dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Score:
    """Accuracy over one kind of question, or all (`kind` "overall"); fractions in [0, 1]."""

    kind: str
    count: int
    accuracy: float
    blind: float  # the best guess that knows the question's words but not the picture


def normalise(text: str) -> str:
    """Lower case, single blanks, no full stop or quotation marks around: what is compared."""
    return re.sub(r"\s+", " ", text).strip().strip("\"'").rstrip(".").strip().casefold()


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


def score(records: Iterable[Mapping[str, Any]], blind: Mapping[str, float]) -> list[Score]:
    """Exact match of normalised answers, per kind in the order of KINDS, then overall.

    Args:
        records: items with "kind", "answer" (the truth) and "prediction".
        blind: accuracy of the best blind guess per kind.
    """
    hits: dict[str, list[bool]] = {}
    for record in records:
        right = normalise(record["prediction"]) == normalise(record["answer"])
        hits.setdefault(record["kind"], []).append(right)
    scores = [
        Score(kind, len(hits[kind]), sum(hits[kind]) / len(hits[kind]), blind[kind]) for kind in KINDS if kind in hits
    ]
    total = sum(each.count for each in scores)
    if total:
        mean = sum(each.accuracy * each.count for each in scores) / total
        scores.append(Score("overall", total, mean, sum(each.blind * each.count for each in scores) / total))
    return scores


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
