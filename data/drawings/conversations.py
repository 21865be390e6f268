"""Conversations about composed drawings, of questions of varied categories; the same questions make a benchmark."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from data.benchmarks.base import SHORT_ANSWER
from data.drawings import asking
from data.drawings.asking import Ask, DrawnQuestion
from data.drawings.captions import caption
from data.drawings.datasets import DrawnScenes
from data.drawings.describing import LONG, SHORT, describe
from data.drawings.scene import Scene, SceneConfig, make_scene
from data.drawings.words import sentence
from data.errors import InputError
from data.limits import check_range
from data.synthetic.asking import YES_NO
from data.synthetic.datasets import ConversationsAboutImages
from data.synthetic.vocabulary import pick, shuffled

CATEGORIES = ("name", "kind", "exists", "count", "where", "at", "relation", "color", "compare", "read")
ALSO = ("use", "choose", "absent", "unseen")
"""Categories to learn from whose answers are no single words, or stand in the question; asked only where named."""
_SCENES_PER_QUESTION = 4096


class Family(NamedTuple):
    """One way to ask.

    Attributes:
        category: of the question.
        ask: makes the question.
        answers: that an evaluation wants equally often ("": any).
        talk: those that conversations want, as scenes allow some more often; by default the same.
    """

    category: str
    ask: Ask
    answers: tuple[str, ...] = ("",)
    talk: tuple[str, ...] = ()


_COUNTED, _TALK_COUNTED = ("1", "2", "3", "4"), ("1", "2", "2", "2", "3", "3", "3", "4", "4", "4")
_RARELY = 0.3  # how often a conversation has a question of each category in `ALSO`
FAMILIES = (
    Family("name", asking.name_it),
    Family("kind", asking.what_kind),
    Family("use", asking.what_use),
    Family("exists", asking.exists, YES_NO),
    Family("count", asking.count, _COUNTED, _TALK_COUNTED),
    Family("count", asking.count, _COUNTED, _TALK_COUNTED),
    Family("count", asking.count_all, _COUNTED, _TALK_COUNTED),
    Family("where", asking.where),
    Family("at", asking.at_side),
    Family("at", asking.at_side),
    Family("at", asking.at_direction),
    Family("at", asking.at_next),
    Family("relation", asking.is_related, YES_NO),
    Family("color", asking.color),
    Family("color", asking.color),
    Family("color", asking.of_color),
    Family("compare", asking.is_larger, YES_NO),
    Family("choose", asking.which_larger),
    Family("read", asking.read),
    Family("absent", asking.absent),
    Family("absent", asking.unwritten),
    Family("unseen", asking.unseen),
)


def iterate_questions(scene: Scene, rng: random.Random, categories: Sequence[str] = ()) -> Iterator[DrawnQuestion]:
    """Different questions about a scene, by turns in random order of the categories.

    Without any named, these are `CATEGORIES` and at times those of `ALSO`. What few scenes have comes first more often:
    the name of a single thing, what is written, and a count.
    """
    names = categories or (*CATEGORIES, *(name for name in ALSO if rng.random() < _RARELY))
    queues = {name: shuffled(rng, [each for each in FAMILIES if each.category == name]) for name in names}
    order = shuffled(rng, names)
    for rare, chance in (("count", 0.3), ("at", 0.3), ("read", 0.6), ("name", 0.8)):
        if rare in order and rng.random() < chance:
            order = [rare, *(name for name in order if name != rare)]
    asked = set()
    while any(queues.values()):
        for name in order:
            while queues[name]:
                family = queues[name].pop()
                question = family.ask(scene, rng, pick(rng, family.talk or family.answers))
                if question is not None and question.question not in asked:
                    asked.add(question.question)
                    yield question
                    break


def check_categories(categories: Sequence[str]) -> None:
    """Raises `InputError` if there is no such category."""
    for category in categories:
        if category not in (*CATEGORIES, *ALSO):
            raise InputError(f"categories: there is no {category!r}; there are {', '.join((*CATEGORIES, *ALSO))}")


def balanced_question(
    split: str, index: int, config: SceneConfig, categories: Sequence[str] = CATEGORIES
) -> tuple[Scene, DrawnQuestion]:
    """Question ``index`` of an evaluation, the categories in turn; its answer is drawn before its scene.

    Raises `InputError` if scenes of ``config`` have no such questions.
    """
    category = categories[index % len(categories)]
    rng = random.Random(f"{config.seed}|{split}|{index}")
    families = [family for family in FAMILIES if family.category == category]
    family = pick(rng, families)
    wanted = pick(rng, family.answers)
    for attempt in range(_SCENES_PER_QUESTION):
        scene = make_scene(split, index * _SCENES_PER_QUESTION + attempt, config)
        question = family.ask(scene, rng, wanted)
        if question is not None:
            return scene, question
        if attempt % 256 == 255:  # an answer that this configuration (almost) never has
            family = pick(rng, families)
            wanted = pick(rng, family.answers)
    raise InputError(
        f"no question of category {category!r} in {_SCENES_PER_QUESTION} scenes; let scenes have more objects, or text"
    )


@dataclass(frozen=True)
class DrawnTurns:
    """What conversations about drawings are made of.

    Attributes:
        questions: of varied categories, 1 to 6 in one conversation.
        categories: of questions; none named: all.
        short: fraction of questions that ask for a word or a phrase; the others are answered in a sentence.
        descriptions: fraction of conversations whose last turn asks for a description instead.
        captions: fraction of conversations that ask for nothing but a description.
    """

    questions: int = 4
    categories: list[str] = field(default_factory=list)
    short: float = 0.5
    descriptions: float = 0.2
    captions: float = 0.1

    def __post_init__(self) -> None:
        check_range("questions", self.questions, 1, 6)
        check_categories(self.categories)
        for name in ("short", "descriptions", "captions"):
            check_range(name, getattr(self, name), 0, 1)


class DrawnConversations(DrawnScenes, ConversationsAboutImages):
    """Conversations about one image, for instruction tuning, as `data.synthetic.datasets.SceneConversations` has them.

    A question for a short answer ends with what benchmarks ask with, so both ways to answer are learned.
    """

    def __init__(
        self, split: str, count: int = 0, config: SceneConfig | None = None, asked: DrawnTurns | None = None
    ) -> None:
        super().__init__(split, count, config)
        self.asked = asked or DrawnTurns()

    def _turns(self, scene: Scene) -> list[tuple[str, str]]:
        rng = scene.stream("turns")
        if rng.random() < self.asked.captions:
            return [_description(scene, rng)]
        questions = list(itertools.islice(iterate_questions(scene, rng, self.asked.categories), self.asked.questions))
        questions = questions or list(itertools.islice(iterate_questions(scene, rng), self.asked.questions))
        turns = [self._turn(question, rng) for question in shuffled(rng, questions)]
        if rng.random() < self.asked.descriptions:
            turns[-1] = _description(scene, rng)
        return turns

    def _turn(self, question: DrawnQuestion, rng: random.Random) -> tuple[str, str]:
        if question.category in ALSO or rng.random() >= self.asked.short:
            return question.question, question.said
        return f"{question.question}\n{SHORT_ANSWER}", question.answer

    def name(self, index: int) -> str:
        """What to call item ``index``."""
        return f"drawings-{self.split}-{index % self.count}"


def _description(scene: Scene, rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        return pick(rng, SHORT), sentence(caption(scene, rng))
    return pick(rng, LONG), describe(scene, rng)
