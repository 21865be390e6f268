"""The ways to ask about a scene; each gives a question with the wanted answer, or None where the scene has none.

An answer is short, "red apple", and said in a sentence as well. Things are named by names that fit one of them alone,
and places are asked for only where they are clear.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data.drawings.captions import in_order, relation
from data.drawings.index import Name
from data.drawings.kinds import kind, kinds, use
from data.drawings.rendering import COLORS
from data.drawings.scene import TEXT_VALUE, Scene, Thing, stock
from data.drawings.words import counted, is_countable, plural, sentence, verb, with_article, with_the
from data.synthetic.asking import YES_NO, SceneQuestion
from data.synthetic.captions import area, place
from data.synthetic.vocabulary import COUNT_WORDS, pick, shuffled, text_noun

CLEAR = 0.1  # fraction of the image by which places must differ to be asked for
UNSEEN = ("I cannot see that in the picture.", "The picture does not show that.", "That cannot be seen here.")
_ASKED_COLORS = tuple(color for color in COLORS if color != "beige")
_ARTICLES = ("a ", "an ", "the ", "some ")


@dataclass(frozen=True)
class DrawnQuestion(SceneQuestion):
    """A question about a scene of drawings.

    Attributes:
        said: the answer as a sentence.
        accepted: other short answers that are right, in lower case: synonyms.
    """

    said: str = ""
    accepted: frozenset[str] = frozenset()

    def is_right(self, text: str) -> bool:
        """Whether ``text`` is a right answer, with an article or without."""
        text = text.casefold()
        bare = next((text.removeprefix(article) for article in _ARTICLES if text.startswith(article)), text)
        return bool({text, bare} & {self.answer.casefold(), *self.accepted})


def _asked(
    category: str,
    template: str,
    answer: str,
    said: str,
    choices: Sequence[str] = (),
    region: int | None = None,
    accepted: frozenset[str] = frozenset(),
    **slots: str,
) -> DrawnQuestion:
    question = template.format(**slots)
    return DrawnQuestion(category, question, answer, tuple(choices), template, region, None, sentence(said), accepted)


def _alone(scene: Scene) -> list[Thing]:
    """The things whose names no other thing answers to."""
    names = {thing.name for thing in scene.things}
    return [
        thing
        for thing in scene.things
        if sum(other.name == thing.name for other in scene.things) == 1
        and not any(thing.name.answers & other.answers for other in names if other != thing.name)
    ]


def _region(scene: Scene, thing: Thing) -> int:
    return scene.things.index(thing) + 1


def _named(category: str, template: str, scene: Scene, thing: Thing, said: str, **slots: str) -> DrawnQuestion:
    """A question whose answer is the name of a thing."""
    name = thing.name
    return _asked(category, template, name.text, said, (), _region(scene, thing), name.answers, **slots)


# What it is, what kind of thing, what it is used for


def name_it(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    if len({thing.name for thing in scene.things}) != 1 or len(scene.things) > 1:
        return None
    thing = scene.things[0]
    template = pick(rng, ("What is this?", "What is in the picture?", "What does the picture show?", "Name the thing."))
    this = "these are" if verb(thing.name.text) == "are" else "this is"
    said = f"{pick(rng, (this, 'the picture shows'))} {with_article(thing.name.text)}"
    return _named("name", template, scene, thing, said)


def what_kind(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    if len(scene.things) != 1 or not kind(scene.things[0].name):
        return None
    thing, answer = scene.things[0], kind(scene.things[0].name) or ""
    template = pick(rng, ("What kind of thing is this?", "What sort of thing can you see?"))
    said = f"{with_article(thing.name.text)} is {with_article(answer)}"
    return _asked("kind", template, answer, said, (), _region(scene, thing), kinds(thing.name))


def what_use(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    if len(scene.things) != 1 or not use(scene.things[0].name):
        return None
    thing, answer = scene.things[0], use(scene.things[0].name) or ""
    template = pick(rng, ("What is it used for?", "What can one do with it?", "What is the thing in the picture for?"))
    return _asked("use", template, answer, f"one can {answer}", (), _region(scene, thing))


# Is it there, how many are there


def _absent(scene: Scene, rng: random.Random) -> Name | None:
    """A name of nothing in the scene; mostly one of the same kind or group as something in it."""
    given = stock(scene.split, scene.config.names)
    present = [thing.name for thing in scene.things]
    words = {word for name in present for text in (*name.answers, *name.tags) for word in text.split()}
    like = pick(rng, present)
    for names in shuffled(rng, (given.like[like.kind], given.like[like.group], list(given.drawings))):
        for other in (pick(rng, names) for _ in range(8)):
            if not words & {word for text in other.answers for word in text.split()}:
                return other
    return None


def exists(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    if wanted == "yes":
        text = pick(rng, scene.things).name.text
    elif absent := _absent(scene, rng):
        text = absent.text
    else:
        return None
    template = pick(
        rng, ("{Is} there {a}?", "Can you see {a}?", "Does the picture show {a}?", "{Is} there {a} in the picture?")
    )
    a, be = with_article(text), verb(text)
    said = f"Yes, there {be} {a}" if wanted == "yes" else f"No, there {be} no {text}"
    return _asked("exists", template, wanted, said, YES_NO, a=a, Is=be.capitalize())


def count(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    counts = Counter(thing.name for thing in scene.things)
    fitting = [name for name, number in counts.items() if str(number) == wanted and is_countable(name.text)]
    fitting = [name for name in fitting if not any(name.answers & other.answers for other in counts if other != name)]
    if not fitting:
        return None
    text, number = pick(rng, fitting).text, int(wanted)
    template = pick(rng, ("How many {things} are there?", "How many {things} can you see?", "Count the {things}."))
    said = f"there {'is' if number == 1 else 'are'} {_one(counted(number, text))}"
    return _asked("count", template, wanted, said, (), None, _number(number), things=plural(text))


def _one(text: str) -> str:
    return f"one {text.partition(' ')[2]}" if text.startswith(("a ", "an ")) else text


def count_all(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    number = len(scene.things)
    if str(number) != wanted or any(not is_countable(thing.name.text) for thing in scene.things):
        return None
    template = pick(rng, ("How many things are there?", "How many things are in the picture?"))
    said = f"there {'is' if number == 1 else 'are'} {COUNT_WORDS[number]} thing{'s' * (number > 1)}"
    return _asked("count", template, wanted, said, (), None, _number(number))


def _number(number: int) -> frozenset[str]:
    return frozenset((str(number), COUNT_WORDS[number]))


# Where it is, what is where


def where(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    edges = (1 / 3, 2 / 3)
    clear = [thing for thing in _alone(scene) if all(abs(x - edge) > 0.04 for x in thing.center for edge in edges)]
    if not clear:
        return None
    thing = pick(rng, clear)
    text = thing.name.text
    template = pick(rng, ("Where {is_} {the}?", "Where in the picture {is_} {the}?"))
    said = f"{with_the(text)} {verb(text)} {place(thing)} of the picture"
    accepted = frozenset((place(thing), area(thing).replace("middle", "center")))
    return _asked(
        "where", template, area(thing), said, (), _region(scene, thing), accepted, is_=verb(text), the=with_the(text)
    )


_SIDES = {
    "on the left": (0, 1, "leftmost"),
    "on the right": (0, -1, "rightmost"),
    "at the top": (1, 1, "topmost"),
    "at the bottom": (1, -1, "lowest"),
}


def at_side(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    """What is outermost on one side."""
    side = pick(rng, tuple(_SIDES))
    axis, sign, most = _SIDES[side]
    ranked = in_order(scene, axis)[::sign]
    if len(ranked) < 2 or abs(ranked[0].center[axis] - ranked[1].center[axis]) < CLEAR:
        return None
    template = pick(rng, ("What is {side}?", "Which thing is {side}?", "What is the {most} thing?"))
    said = f"{with_article(ranked[0].name.text)} {verb(ranked[0].name.text)} {side}"
    return _named("at", template, scene, ranked[0], said, side=side, most=most)


_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_DIRECTIONS = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (1, -1), "below": (1, 1)}


def at_direction(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    """The only thing left of, right of, above or below another, of at least three."""
    if len(scene.things) < 3:
        return None
    how = pick(rng, tuple(_DIRECTIONS))
    axis, sign = _DIRECTIONS[how]
    for anchor in shuffled(rng, _alone(scene)):
        steps = [sign * (other.center[axis] - anchor.center[axis]) for other in scene.things if other is not anchor]
        beyond = [other for other in scene.things if sign * (other.center[axis] - anchor.center[axis]) >= CLEAR]
        if len(beyond) == 1 and sum(step > -0.03 for step in steps) == 1:
            text = anchor.name.text
            said = f"{with_article(beyond[0].name.text)} {verb(beyond[0].name.text)} {how} {with_the(text)}"
            template = pick(rng, ("What is {how} {the}?", "Which thing is {how} {the}?"))
            return _named("at", template, scene, beyond[0], said, how=how, the=with_the(text))
    return None


def at_next(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    """The thing that is nearest to another, of at least three."""
    if len(scene.things) < 3:
        return None
    for anchor in shuffled(rng, _alone(scene)):
        others = [thing for thing in scene.things if thing is not anchor]
        others.sort(key=lambda thing: _distance(scene, anchor, thing))
        near, second = others[:2]
        if _distance(scene, anchor, near) <= 0.7 * _distance(scene, anchor, second):
            said = f"{with_article(near.name.text)} {verb(near.name.text)} next to {with_the(anchor.name.text)}"
            return _named("at", "What is next to {the}?", scene, near, said, the=with_the(anchor.name.text))
    return None


def _distance(scene: Scene, first: Thing, second: Thing) -> float:
    across, down = (first.center[axis] - second.center[axis] for axis in (0, 1))
    return float(((across * scene.width) ** 2 + (down * scene.height) ** 2) ** 0.5)


def is_related(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    """Whether one thing is left of, right of, above or below another."""
    pairs = [(a, b) for a in _alone(scene) for b in _alone(scene) if a is not b and relation(a, b)]
    if not pairs:
        return None
    first, second = pick(rng, pairs)
    true, be = relation(first, second) or "", verb(first.name.text)
    slots = {"one": with_the(first.name.text), "other": with_the(second.name.text), "Is": be.capitalize()}
    slots["how"] = true if wanted == "yes" else _OPPOSITE[true]
    said = f"{wanted}, {slots['one']} {be} {true} {slots['other']}"
    return _asked("relation", "{Is} {one} {how} {other}?", wanted, said, YES_NO, None, frozenset(), **slots)


# Color and size


def color(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    colors = {thing: thing.drawing.color for thing in _alone(scene) if thing.drawing.color}
    clear = [thing for thing, name in colors.items() if name not in thing.name.text.split()]
    if not clear:
        return None
    thing = pick(rng, clear)
    text, answer = thing.name.text, colors[thing] or ""
    template = pick(rng, ("What color {is_} {the}?", "What is the color of {the}?"))
    said = f"{with_the(text)} {verb(text)} {answer}"
    accepted = frozenset(("grey",)) if answer == "gray" else frozenset[str]()
    slots = {"is_": verb(text), "the": with_the(text)}
    return _asked("color", template, answer, said, _ASKED_COLORS, _region(scene, thing), accepted, **slots)


def of_color(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    """Which of several things has a color that no other has any of."""
    for thing in shuffled(rng, scene.things):
        others = {name for other in scene.things if other is not thing for name, _ in other.drawing.colors}
        if len(scene.things) > 1 and thing.drawing.color and thing.drawing.color not in others:
            answer, text = thing.drawing.color, thing.name.text
            template = pick(rng, ("What is {color}?", "Which thing is {color}?"))
            return _named("color", template, scene, thing, f"{with_the(text)} {verb(text)} {answer}", color=answer)
    return None


def _side(scene: Scene, thing: Thing) -> float:
    left, top, right, bottom = thing.box
    return max((right - left) * scene.width, (bottom - top) * scene.height)


def _of_size(scene: Scene, rng: random.Random) -> tuple[Thing, Thing] | None:
    """Two things, the first clearly larger than the second."""
    alone = _alone(scene)
    pairs = [(a, b) for a in alone for b in alone if _side(scene, a) >= 1.35 * _side(scene, b)]
    return pick(rng, pairs) if pairs else None


def is_larger(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    pair = _of_size(scene, rng)
    if pair is None:
        return None
    texts = [with_the(thing.name.text) for thing in pair]
    more = rng.random() < 0.5  # "larger" in the question; otherwise "smaller"
    one, other = texts if more == (wanted == "yes") else texts[::-1]
    be = verb(one.removeprefix("the "))
    how = pick(rng, ("larger", "bigger")) if more else "smaller"
    true = how if wanted == "yes" else "smaller" if more else "larger"
    slots = {"Is": be.capitalize(), "one": one, "how": how, "other": other}
    said = f"{wanted}, {one} {be} {true} than {other}"
    return _asked("compare", "{Is} {one} {how} than {other}?", wanted, said, YES_NO, None, frozenset(), **slots)


def which_larger(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    pair = _of_size(scene, rng)
    if pair is None:
        return None
    more = rng.random() < 0.5
    one, other = shuffled(rng, pair)
    thing, how = (pair[0], pick(rng, ("larger", "bigger"))) if more else (pair[1], "smaller")
    said = f"{with_the(thing.name.text)} {verb(thing.name.text)} {how}"
    slots = {"how": how, "one": with_the(one.name.text), "other": with_the(other.name.text)}
    return _named("choose", "Which is {how}, {one} or {other}?", scene, thing, said, **slots)


# What is written, what cannot be known


_READ = ("What is written in the picture?", "What does the text say?")


def read(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    if scene.text is None:
        return None
    template = pick(rng, (*_READ, "Which {noun} can you read?", "What {noun} is written?"))
    said = f"It says {scene.text}"
    return _asked("read", template, scene.text, said, (), TEXT_VALUE, noun=text_noun(scene.text))


def unwritten(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    if scene.text is not None:
        return None
    return _asked("absent", pick(rng, _READ), "nothing", "Nothing is written in the picture")


def absent(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion | None:
    """Something about what is not there."""
    name = _absent(scene, rng)
    if name is None:
        return None
    template = pick(rng, ("What color {is_} {the}?", "Where {is_} {the}?", "What is next to {the}?"))
    said = f"there {verb(name.text)} no {name.text} in the picture"
    return _asked("absent", template, sentence(said), said, is_=verb(name.text), the=with_the(name.text))


_UNKNOWN = (
    "How much did {the} cost?",
    "Who made {the}?",
    "How old {is_} {the}?",
    "What is behind {the}?",
    "Where was this picture taken?",
    "What happened before?",
    "Who drew this?",
    "What day is it?",
)


def unseen(scene: Scene, rng: random.Random, wanted: str) -> DrawnQuestion:
    """What no picture tells."""
    text = pick(rng, scene.things).name.text
    answer = pick(rng, UNSEEN)
    return _asked("unseen", pick(rng, _UNKNOWN), answer, answer, the=with_the(text), is_=verb(text))


Ask = Callable[[Scene, random.Random, str], "DrawnQuestion | None"]
