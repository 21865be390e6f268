"""Generated scenes as a benchmark: accuracy per kind of question, beside the best guess without looking."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from data.benchmarks.base import Benchmark, Pair, Question, Result, Truth, register_benchmark, unanswered
from data.errors import InputError


@dataclass(frozen=True)
class Score:
    """Accuracy over one kind of question, or all (`kind` "overall"); fractions in [0, 1]."""

    kind: str
    count: int
    accuracy: float
    blind: float  # the best guess that knows the question's words but not the image


def normalize(text: str) -> str:
    """Lower case, single blanks, no full stop or quotation marks around: what is compared."""
    return re.sub(r"\s+", " ", text).strip().strip("\"'").rstrip(".").strip().casefold()


def score(records: Iterable[Mapping[str, Any]], blind: Mapping[str, float]) -> list[Score]:
    """Exact match of normalized answers, per kind in the order of CATEGORIES, then overall.

    Args:
        records: items with "kind", "answer" (the truth) and "prediction".
        blind: accuracy of the best blind guess per kind.
    """
    from data.synthetic import CATEGORIES  # here, because it imports torch, which the other benchmarks do without

    hits: dict[str, list[bool]] = {}
    for record in records:
        right = normalize(record["prediction"]) == normalize(record["answer"])
        hits.setdefault(record["kind"], []).append(right)
    scores = [
        Score(kind, len(hits[kind]), sum(hits[kind]) / len(hits[kind]), blind[kind])
        for kind in CATEGORIES
        if kind in hits
    ]
    total = sum(each.count for each in scores)
    if total:
        mean = sum(each.accuracy * each.count for each in scores) / total
        scores.append(Score("overall", total, mean, sum(each.blind * each.count for each in scores) / total))
    return scores


@register_benchmark
class Scenes(Benchmark):
    """Questions about scenes of the test split, which are drawn when they are asked.

    Args:
        count: how many questions.
        size: height and width of the images in pixels.
    """

    name = "scenes"
    title = "scenes, test split"
    metric = "accuracy"
    instruction = ""
    needs: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[str, ...]] = ("count", "size")
    max_new_tokens = 16

    def __init__(self, count: int = 1000, size: tuple[int, int] = (64, 64)) -> None:
        from data.synthetic import SceneConfig, SceneQuestions, blind_accuracy

        self._scenes = SceneQuestions("test", count, SceneConfig(height=size[0], width=size[1]))
        self._questions = self._scenes.questions()
        self.blind = blind_accuracy(self._questions)

    def read_questions(self, file: Path, images: Path) -> list[Question]:
        questions = []
        for index, each in enumerate(self._questions):
            image = _Drawing(self._scenes, index)
            questions.append(
                Question(f"test-{index}", each.question, "", image, each.category, {"answer": each.answer})
            )
        return questions

    def prompt(self, question: Question) -> str:
        return question.text

    def own_truths(self, questions: Sequence[Question]) -> list[Truth]:
        return [
            Truth(each.question_id, each.fields["answer"], (("id", str(each.question_id)),), each.category)
            for each in questions
        ]

    def read_truths(self, path: Path) -> list[Truth]:
        raise InputError(f"{path}: scenes have no annotations; `mllm eval scenes` draws, asks and scores them")

    def score(self, pairs: Sequence[Pair]) -> Result:
        records = [{"kind": truth.category, "answer": truth.value, "prediction": text or ""} for truth, text in pairs]
        scores = score(records, self.blind)
        items = [
            (truth.question_id, 100.0 * (normalize(text or "") == normalize(truth.value))) for truth, text in pairs
        ]
        groups = {
            each.kind: {"n": each.count, "accuracy": 100 * each.accuracy, "blind guess": 100 * each.blind}
            for each in scores
        }
        return Result(100 * scores[-1].accuracy, items, groups, unanswered(pairs))


@dataclass(frozen=True)
class _Drawing:
    """Draws the image of one question."""

    scenes: Any
    index: int

    def __call__(self) -> Image.Image:
        return self.scenes[self.index]["image"]
