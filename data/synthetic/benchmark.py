"""Generated scenes as a benchmark: accuracy by category of question or by size, beside the text-only baseline."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from data.benchmarks.base import Benchmark, GroundTruth, Option, Pair, Question, Result, register_benchmark
from data.benchmarks.choices import normalize
from data.errors import InputError
from data.limits import MAX_SAMPLES, check_range
from data.synthetic.asking import SceneQuestion
from data.synthetic.locating import LOCATING
from data.synthetic.objects import TEXT_MARGIN
from data.synthetic.questions import CATEGORIES, check_categories, text_only_baseline
from data.synthetic.scene import Scene, SceneConfig, parse_scale, parse_size

if TYPE_CHECKING:
    from PIL import Image

    from data.synthetic.asking import SceneQuestion
    from data.synthetic.datasets import SceneQuestions

BASELINE = "text-only baseline"
BOUNDS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 1.0)  # of the groups by size, in the image's shorter side


class GeneratedQuestions(Benchmark):
    """Questions about generated images, which hold their answers themselves; they are drawn when they are asked.

    Attributes:
        baseline: the text-only accuracy by group, in [0, 1], in the order in which groups are reported.
    """

    metric = "accuracy"
    instruction = ""
    needs: ClassVar[tuple[str, ...]] = ()
    baseline: Mapping[str, float] = MappingProxyType({})

    def with_baseline(
        self, drawn: Sequence[tuple[SceneQuestion, str, Callable[[], Image.Image]]], in_order: bool = False
    ) -> list[Question]:
        """The questions as `mllm eval` asks them, the best guesses without images noted.

        Args:
            drawn: of each, what is asked, its group, and what draws the image.
            in_order: groups are reported in alphabetical order, and not as they come.
        """
        guess = text_only_baseline(each for each, _, _ in drawn)
        guessed: dict[str, list[float]] = {}
        for each, group, _ in drawn:
            guessed.setdefault(group, []).append(guess[each.category])
        order = sorted(guessed) if in_order else guessed
        self.baseline = {group: fmean(guessed[group]) for group in order}
        return [
            Question(f"test-{index}", each.question, "", image, group, {"truth": each})
            for index, (each, group, image) in enumerate(drawn)
        ]

    def own_ground_truth(self, questions: Sequence[Question]) -> list[GroundTruth]:
        return [
            GroundTruth(each.question_id, each.fields["truth"], (("id", str(each.question_id)),), each.category)
            for each in questions
        ]

    def grade(self, text: str, value: SceneQuestion) -> float:
        """Exact match of normalized answers; a box overlaps by half, a point is on the object."""
        return value.is_right(normalize(text))

    def score(self, pairs: Sequence[Pair]) -> Result:
        result = super().score(pairs)
        groups = {
            name: {**result.groups[name], BASELINE: 100 * guess}
            for name, guess in self.baseline.items()
            if name in result.groups
        }
        baseline = sum(group["n"] * group[BASELINE] for group in groups.values()) / len(pairs)
        groups["overall"] = {"n": len(pairs), "accuracy": result.overall, BASELINE: baseline}
        return replace(result, groups=groups)


@register_benchmark
class Synthetic(GeneratedQuestions):
    """Questions about scenes of the test split, which are drawn when they are asked.

    Args:
        count: how many questions.
        size: of the images, see `parse_size`; by default as large as the model sees them.
        scale: of objects and letters, see `parse_scale`.
        by: what answers are grouped by, "category" of the question or "size" of what it is about.
        categories: of questions, separated by +; by default those of `CATEGORIES`.
        objects: the most in one scene.
    """

    name = "synthetic"
    title = "generated scenes, test split"
    options: ClassVar[tuple[Option, ...]] = (
        Option("count", int, "questions (default 1000)"),
        Option("size", str, "pixels, one number or HEIGHTxWIDTH (default: what the model sees)"),
        Option("scale", str, "how large objects and letters are, such as 0.3, or 0.3-1 for a mixture (default 1)"),
        Option("by", str, "groups by category of question, or by size of objects and letters (default category)"),
        Option("categories", str, f"of questions, separated by + (default: all but {' and '.join(LOCATING)})"),
        Option("objects", int, "the most in one scene (default 6)"),
    )
    max_new_tokens = 32

    def __init__(
        self,
        count: int = 1000,
        size: str | None = None,
        scale: str = "1",
        by: str = "category",
        categories: str | None = None,
        objects: int = SceneConfig.max_objects,
    ) -> None:
        check_range("--count", count, 1, MAX_SAMPLES)
        if by not in ("category", "size"):
            raise InputError(f"--by {by}: choose category or size")
        self.count, self.by = count, by
        self.size = parse_size(size, "--size") if size else None
        self.scale = parse_scale(scale, "--scale")
        self.categories = categories.split("+") if categories else CATEGORIES
        self.objects = objects
        check_categories(SceneConfig(max_objects=objects), self.categories)

    def read_questions(self, file: Path, images: Path) -> list[Question]:
        from data.synthetic.datasets import SceneQuestions  # what draws waits: options are asked for first

        height, width = self.size or self.image_size or (64, 64)
        config = SceneConfig(height, width, max_objects=self.objects, min_scale=self.scale[0], max_scale=self.scale[1])
        scenes = SceneQuestions("test", self.count, config, categories=self.categories)
        drawn = [scenes.both(index) for index in range(self.count)]
        grouped = [
            (each, each.category if self.by == "category" else size_group(scene, each), partial(_draw, scenes, index))
            for index, (scene, each) in enumerate(drawn)
        ]
        return self.with_baseline(grouped, in_order=self.by == "size")

    def prompt(self, question: Question) -> str:
        return question.text


def size_group(scene: Scene, question: SceneQuestion) -> str:
    """``"0.10 to 0.15"`` of the image's shorter side: the height of the letters that are to be read, else the mean
    diameter of the scene's objects."""
    if question.category == "read" and scene.text_box is not None:
        shorter = min(scene.config.height, scene.config.width)
        plate = (scene.text_box[3] - scene.text_box[1]) * scene.config.height / shorter
        size = plate * 7 / (7 + 2 * TEXT_MARGIN)
    else:
        size = fmean(2 * item.radius for item in scene.objects)
    above = bisect_right(BOUNDS, size)
    return f"{BOUNDS[above - 1]:.2f} to {BOUNDS[above]:.2f}"


def _draw(scenes: SceneQuestions, index: int) -> Image.Image:
    return scenes.scene(index).image()
