"""Questions about scenes with short answers, balanced so that guessing without the image does not pay.

Two means keep the balance. Where the generator is symmetric (which color, which quadrant, which word), the answers are
uniform of themselves. Elsewhere the wanted answer is drawn first, and the question is built, or the scene drawn again,
to fit it; for a given scene, wanted answers are drawn in inverse proportion to how often scenes allow them.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from data.errors import InputError
from data.synthetic import asking, asking_objects, locating
from data.synthetic.asking import COUNTED, YES_NO, SceneQuestion
from data.synthetic.locating import BOX, LOCATING, POINT
from data.synthetic.scene import Scene, SceneConfig, make_scene
from data.synthetic.vocabulary import pick, pick_weighted, shuffled, stream

CATEGORIES = ("exists", "count", "color", "shape", "position", "compare", "read")
ABSENT = "absent"  # a category to learn from: what color something has that is not there; never asked in an evaluation
SCENES_PER_QUESTION = 4096  # every question of an evaluation set has that many scenes to choose from


@dataclass(frozen=True)
class Family:
    """One way to ask. ``ask(scene, rng, wanted)`` gives None where the scene has no such question.

    ``answers`` are the wanted answers ("" where symmetry balances them), ``allowed`` how often scenes of the default
    configuration allow each of them (left out: always), ``objects`` and ``text`` what a scene must be able to have,
    ``way`` a name to choose among the families of a category.
    """

    category: str
    ask: Callable[[Scene, random.Random, str], SceneQuestion | None]
    answers: tuple[str, ...] = ("",)
    allowed: Mapping[str, float] = field(default_factory=dict)
    objects: int = 1
    text: bool = False
    way: str = ""

    def suits(self, config: SceneConfig) -> bool:
        """Whether scenes of ``config`` can have such a question."""
        if self.ask is asking.exists_text and config.text_probability == 1:
            return False  # the answer would always be yes
        return config.max_objects >= self.objects and (not self.text or config.text_probability > 0)

    def odds(self, config: SceneConfig) -> list[float]:
        """How likely each of `wanted` is to be drawn for a given scene, so that all are asked equally often."""
        if self.ask is asking.exists_text:
            return [1 - config.text_probability, config.text_probability]
        return [1 / self.allowed.get(answer, 1.0) for answer in self.wanted(config)]

    def wanted(self, config: SceneConfig) -> tuple[str, ...]:
        """The answers that scenes of ``config`` can have."""
        if not self.answers[0].isdigit():
            return self.answers
        fewest = config.min_objects if self.ask is asking.count_all else 0
        return tuple(a for a in self.answers if fewest <= int(a) <= config.max_objects)


def _about(ask: Callable[..., SceneQuestion | None], category: str) -> Callable[..., SceneQuestion | None]:
    return lambda scene, rng, wanted: ask(scene, rng, category)


FAMILIES = (
    Family("exists", asking.exists_thing, YES_NO),
    Family("exists", asking.exists_thing, YES_NO),
    Family("exists", asking.exists_sized, YES_NO),
    Family("exists", asking.exists_text, YES_NO, text=True),
    Family("count", asking.count_all, ("1", "2", "3", "4", "5", "6")),
    Family("count", asking.count_shape, COUNTED, {"0": 1.0, "1": 0.85, "2": 0.42, "3": 0.13, "4": 0.043}),
    Family("count", asking.count_color, COUNTED, {"0": 1.0, "1": 0.85, "2": 0.42, "3": 0.13, "4": 0.043}),
    Family("count", asking.count_size, COUNTED, {"0": 0.33, "1": 0.54, "2": 0.46, "3": 0.28, "4": 0.15}),
    *(
        Family(category, _about(ask, category), objects=objects, way=way)
        for category in ("color", "shape")
        for ask, objects, way in (
            (asking_objects.attribute_by_words, 1, "words"),
            (asking_objects.attribute_by_words, 1, "words"),
            (asking_objects.attribute_by_place, 1, "place"),
            (asking_objects.attribute_of_size, 2, "size"),
        )
    ),
    Family("position", asking_objects.quadrant, way="where"),
    Family("position", asking_objects.quadrant, way="where"),
    Family("position", asking_objects.half, way="where"),
    Family("position", asking_objects.relation, YES_NO, objects=2),
    Family("compare", asking.more, YES_NO),
    Family("compare", asking_objects.larger, YES_NO, objects=2, way="size"),
    Family("compare", asking_objects.same_size, YES_NO, {"yes": 0.68, "no": 0.62}, objects=2),
    Family("compare", asking_objects.same_color, YES_NO, {"yes": 0.36, "no": 0.61}, objects=2),
    Family("compare", asking_objects.large_or_small, ("large", "small"), way="size"),
    Family("compare", asking_objects.large_or_small, ("large", "small"), way="size"),
    Family("read", asking.read, text=True),
    *(Family(ABSENT, _about(asking_objects.attribute_of_nothing, category)) for category in ("color", "shape")),
    *(Family(category, ask) for category, ask in ((BOX, locating.box), (POINT, locating.point)) for _ in range(3)),
)


WAYS = (*dict.fromkeys(f"{family.category}.{family.way}" for family in FAMILIES if family.way), ABSENT, *LOCATING)
"""``"color.words"``: only those questions of a category that are asked in one way; what is asked only if named."""


def iterate_questions(scene: Scene, rng: random.Random, of: Sequence[str] = CATEGORIES) -> Iterator[SceneQuestion]:
    """Different questions about ``scene``, by turns in random order of the categories (or `WAYS`) that are named.

    Counting and reading come first more often, because many scenes have no such question.
    """
    queues = {
        category: shuffled(
            rng, [f for f in FAMILIES if category in (f.category, f"{f.category}.{f.way}") and f.suits(scene.config)]
        )
        for category in of
    }
    categories = shuffled(rng, of)
    for rare, chance in (("count", 0.25), ("read", 0.6)):
        if rng.random() < chance and rare in of:
            categories = [rare, *(category for category in categories if category != rare)]
    asked = set()
    while any(queues.values()):
        for category in categories:
            while queues[category]:
                family = queues[category].pop()
                wanted = pick_weighted(rng, family.wanted(scene.config), family.odds(scene.config))
                question = family.ask(scene, rng, wanted)
                if question is not None and question.question not in asked:
                    asked.add(question.question)
                    yield question
                    break


def make_questions(scene: Scene) -> list[SceneQuestion]:
    """Every family's question about ``scene``, where it has one: about 8 to 16, all different and unambiguous."""
    return list(iterate_questions(scene, stream("questions", scene.config.seed, scene.split, scene.index)))


def check_categories(config: SceneConfig, categories: Sequence[str] = CATEGORIES) -> None:
    """Raises `InputError` if there is no such category, or scenes of ``config`` have no questions of it."""
    for category in categories:
        if category not in (*CATEGORIES, *LOCATING):
            raise InputError(f"categories: there is no {category!r}; there are {', '.join((*CATEGORIES, *LOCATING))}")
        if not any(family.category == category and family.suits(config) for family in FAMILIES):
            raise InputError(f"no scene has a question of category {category!r}: text_probability must be above 0")


def balanced_question(
    split: str, index: int, config: SceneConfig, categories: Sequence[str] = CATEGORIES
) -> tuple[Scene, SceneQuestion]:
    """Question ``index`` of an evaluation, the categories in turn; its answer is drawn before its scene.

    Raises `InputError` if scenes of ``config`` have no such questions.
    """
    category = categories[index % len(categories)]
    rng = stream("question", config.seed, split, index)
    check_categories(config, categories)
    families = [family for family in FAMILIES if family.category == category and family.suits(config)]
    family = pick(rng, families)
    wanted = pick(rng, family.wanted(config))
    for attempt in range(SCENES_PER_QUESTION):
        scene = make_scene(split, index * SCENES_PER_QUESTION + attempt, config)
        question = family.ask(scene, rng, wanted)
        if question is not None:
            return scene, question
        if attempt % 512 == 511:  # an answer that this configuration (almost) never has
            family = pick(rng, families)
            wanted = pick(rng, family.wanted(config))
    raise InputError(
        f"no question of category {category!r} in {SCENES_PER_QUESTION} scenes: let scenes have more objects"
    )


def text_only_baseline(
    questions: Iterable[SceneQuestion], fitted_on: Iterable[SceneQuestion] | None = None
) -> dict[str, float]:
    """Accuracy per category of the best guess without the image.

    Three guessers learn the answer that is right most often: per category, per template, per exact wording (per
    template where the wording is new). They learn from ``fitted_on``; without it each half of a category's questions is
    guessed from the other half. The best of the three counts.
    """
    asked = list(questions)
    if fitted_on is not None:
        halves = [(list(fitted_on), asked)]
    else:
        of_category: dict[str, list[SceneQuestion]] = defaultdict(list)
        for q in asked:
            of_category[q.category].append(q)
        even, odd = ([q for part in of_category.values() for q in part[start::2]] for start in (0, 1))
        halves = [(odd, even), (even, odd)]
    right: dict[str, list[int]] = {category: [0, 0, 0] for category in dict.fromkeys(q.category for q in asked)}
    for known, new in halves:
        alike: dict[tuple[str, ...], list[SceneQuestion]] = defaultdict(list)
        for q in known:
            for key in _levels(q):
                alike[key].append(q)
        guesses = {key: _best_guess(questions) for key, questions in alike.items()}
        for q in new:
            guess = ""
            for level, key in enumerate(_levels(q)):
                guess = guesses.get(key, guess)
                right[q.category][level] += q.is_right(guess)
    totals = Counter(q.category for q in asked)
    return {category: max(hits) / totals[category] for category, hits in right.items()}


def _levels(q: SceneQuestion) -> tuple[tuple[str, ...], ...]:
    return (q.category,), (q.category, q.template), (q.category, q.template, q.question)


def _best_guess(alike: Sequence[SceneQuestion]) -> str:
    """The answer that is right most often among questions of one category."""
    if targets := [q.target for q in alike if q.target is not None]:
        return locating.best_guess(targets, alike[0].category)
    return Counter(q.answer for q in alike).most_common(1)[0][0]
