"""Composed drawings and stamps as benchmarks: accuracy by group, beside the text-only baseline."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import ClassVar

from PIL import Image

from data.benchmarks.base import SHORT_ANSWER, Option, Pair, Question, Result, register_benchmark
from data.drawings.asking import DrawnQuestion
from data.drawings.conversations import CATEGORIES, balanced_question, check_categories
from data.drawings.describing import DESCRIBE, Description, description_question, judge
from data.drawings.scene import SceneConfig, make_scene
from data.drawings.words import head
from data.errors import InputError
from data.limits import MAX_SAMPLES, check_range
from data.synthetic.asking import SceneQuestion
from data.synthetic.benchmark import GeneratedQuestions
from data.synthetic.scene import parse_size


@register_benchmark
class Drawings(GeneratedQuestions):
    """Questions about composed drawings.

    A description is right if it names at least `describing.NAMED` of the things and little else; how much it names and
    invents is reported beside.

    Args:
        count: how many questions.
        split: whose drawings and names, see `data.drawings.sources`.
        size: of the images; by default as large as the model sees them.
        categories: of questions, separated by +; by default all with short answers, and descriptions.
        objects: the most in one scene.
        names: only so many of the most common names; 0 for all.
    """

    name = "drawings"
    title = "composed drawings"
    instruction = SHORT_ANSWER
    options: ClassVar[tuple[Option, ...]] = (
        Option("count", int, "questions (default 1000)"),
        Option("split", str, "artist (an artist never seen, the default), names (never seen) or validation"),
        Option("size", str, "pixels, one number or HEIGHTxWIDTH (default: what the model sees)"),
        Option("categories", str, f"of questions, separated by + (default: {'+'.join((*CATEGORIES, DESCRIBE))})"),
        Option("objects", int, "the most in one scene (default 4)"),
        Option("names", int, "only so many of the most common names (default: all)"),
    )
    max_new_tokens = 96

    def __init__(
        self,
        count: int = 1000,
        split: str = "artist",
        size: str | None = None,
        categories: str | None = None,
        objects: int = 4,
        names: int = 0,
    ) -> None:
        check_range("--count", count, 1, MAX_SAMPLES)
        if split == "train":
            raise InputError("--split train: was trained on; choose artist, names or validation")
        self.count, self.split = count, split
        self.size = parse_size(size, "--size") if size else None
        self.categories = categories.split("+") if categories else [*CATEGORIES, DESCRIBE]
        check_categories([name for name in self.categories if name != DESCRIBE])
        self.config = SceneConfig(objects=objects, names=names)

    def read_questions(self, file: Path, images: Path) -> list[Question]:
        height, width = self.size or self.image_size or (224, 224)
        config = replace(self.config, height=height, width=width)
        drawn: list[tuple[DrawnQuestion, str, Callable[[], Image.Image]]] = []
        for index in range(self.count):
            category = self.categories[index % len(self.categories)]
            if category == DESCRIBE:
                scene = make_scene(self.split, index, config)
                drawn.append((description_question(scene), DESCRIBE, scene.image))
            else:
                scene, question = balanced_question(self.split, index, config, [category])
                drawn.append((question, category, scene.image))
        return self.with_baseline(drawn)

    def prompt(self, question: Question) -> str:
        return question.text if question.category == DESCRIBE else super().prompt(question)

    def score(self, pairs: Sequence[Pair]) -> Result:
        result = super().score(pairs)
        judged = [judge(text or "", truth.value) for truth, text in pairs if isinstance(truth.value, Description)]
        if not judged:
            return result
        named, invented = (100 * fmean(each[part] for each in judged) for part in (0, 1))
        group = {**result.groups[DESCRIBE], "named": named, "invented": invented}
        return replace(result, groups={**result.groups, DESCRIBE: group})


@dataclass(frozen=True)
class CaptionedStamp(SceneQuestion):
    """What a stamp is, which its caption says."""

    def is_right(self, text: str) -> bool:
        """Whether the noun of an answer, its last word before "of", "with" and so on, is a word of the caption."""
        words = _WORD.findall(head(text)[0].casefold())
        return bool(words) and _singular(words[-1]) in {
            _singular(word) for word in _WORD.findall(self.answer.casefold())
        }


_WORD = re.compile(r"[^\W\d_]{3,}")


def _singular(word: str) -> str:
    return word.removesuffix("s") if len(word) > 3 else word


@register_benchmark
class Stamps(GeneratedQuestions):
    """What Tux Paint's stamps show: an answer is right if its noun is a word of the caption that somebody wrote.

    Args:
        count: how many questions; 0 for all stamps.
        size: of the images; by default as large as the model sees them.
        photos: ask about photos only, without drawings.
    """

    name = "stamps"
    title = "Tux Paint's stamps"
    instruction = SHORT_ANSWER
    options: ClassVar[tuple[Option, ...]] = (
        Option("count", int, "questions (default: all)"),
        Option("size", str, "pixels, one number or HEIGHTxWIDTH (default: what the model sees)"),
        Option("photos", bool, "only about photos"),
    )
    max_new_tokens = 16

    def __init__(self, count: int = 0, size: str | None = None, photos: bool = False) -> None:
        check_range("--count", count, 0, MAX_SAMPLES)
        self.count, self.photos = count, photos
        self.size = parse_size(size, "--size") if size else None

    def read_questions(self, file: Path, images: Path) -> list[Question]:
        from data.drawings.cliparts import STAMPS, Collection, load_pictures  # torch waits: options are asked for first

        stamps = Collection(STAMPS, 0, self.size or self.image_size or (224, 224))
        drawn: list[tuple[CaptionedStamp, str, Callable[[], Image.Image]]] = []
        for index, number in enumerate(stamps.order):
            facts = load_pictures(STAMPS).facts[number]
            if facts["photo"] or not self.photos:
                question = CaptionedStamp("name", "What is this?", facts["words"][0], (), "What is this?")
                drawn.append((question, "photos" if facts["photo"] else "drawings", partial(stamps.image, index)))
        return self.with_baseline(drawn[: self.count or None])
