"""Generated scenes as a benchmark: accuracy by category of question, beside the text-only baseline."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from data.benchmarks.base import Benchmark, GroundTruth, Option, Pair, Question, Result, register_benchmark
from data.benchmarks.choices import normalize
from data.limits import MAX_SAMPLES, check_range
from data.synthetic.scene import SceneConfig, parse_size

if TYPE_CHECKING:
    from PIL import Image

    from data.synthetic.datasets import SceneQuestions

BASELINE = "text-only baseline"


@register_benchmark
class Synthetic(Benchmark):
    """Questions about scenes of the test split, which are drawn when they are asked.

    Args:
        count: how many questions.
        size: of the images, see `parse_size`; by default as large as the model sees them.
    """

    name = "synthetic"
    title = "generated scenes, test split"
    metric = "accuracy"
    instruction = ""
    needs: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[Option, ...]] = (
        Option("count", int, "questions (default 1000)"),
        Option("size", str, "pixels, one number or HEIGHTxWIDTH (default: what the model sees)"),
    )
    max_new_tokens = 16

    def __init__(self, count: int = 1000, size: str | None = None) -> None:
        check_range("--count", count, 1, MAX_SAMPLES)
        self.count = count
        self.size = parse_size(size, "--size") if size else None
        self.baseline: dict[str, float] = {}  # accuracy by category, in [0, 1]

    def read_questions(self, file: Path, images: Path) -> list[Question]:
        from data.synthetic.datasets import SceneQuestions  # what draws waits: options are asked for first
        from data.synthetic.questions import text_only_baseline

        scenes = SceneQuestions("test", self.count, SceneConfig(*(self.size or self.image_size or (64, 64))))
        asked = scenes.questions()
        self.baseline = text_only_baseline(asked)
        questions = []
        for index, each in enumerate(asked):
            image = partial(_draw, scenes, index)
            fields = {"answer": each.answer}
            questions.append(Question(f"test-{index}", each.question, "", image, each.category, fields))
        return questions

    def prompt(self, question: Question) -> str:
        return question.text

    def own_ground_truth(self, questions: Sequence[Question]) -> list[GroundTruth]:
        return [
            GroundTruth(each.question_id, each.fields["answer"], (("id", str(each.question_id)),), each.category)
            for each in questions
        ]

    def grade(self, text: str, value: str) -> float:
        """Exact match of normalized answers."""
        return normalize(text) == normalize(value)

    def score(self, pairs: Sequence[Pair]) -> Result:
        result = super().score(pairs)
        for category, group in result.groups.items():
            group[BASELINE] = 100 * self.baseline[category]
        baseline = sum(group["n"] * group[BASELINE] for group in result.groups.values()) / len(pairs)
        result.groups["overall"] = {"n": len(pairs), "accuracy": result.overall, BASELINE: baseline}
        return result


def _draw(scenes: SceneQuestions, index: int) -> Image.Image:
    return scenes.scene(index).image()
