"""Captions of composed drawings: short ones of single things with synonyms and tags, sentences about scenes."""

from __future__ import annotations

import random
from collections.abc import Callable

from data.drawings.scene import Scene, Thing
from data.drawings.words import colored, counted, sentence, verb, with_article
from data.synthetic.captions import place
from data.synthetic.vocabulary import count_word, listing, pick, shuffled, text_noun

TEMPLATES = ("{}.", "a drawing of a {}.", "an icon of a {}.", "a picture of a {}.", "a {}.")
"""For zero-shot classification with the names of an index."""
_MARGIN = 0.08  # two places differ if they are at least this fraction of the image apart


def relation(first: Thing, second: Thing) -> str | None:
    """How the first thing lies to the second: "left of", "above"; None where it is neither clearly."""
    across, down = (first.center[axis] - second.center[axis] for axis in (0, 1))
    if max(abs(across), abs(down)) < _MARGIN:
        return None
    if abs(across) >= abs(down):
        return "left of" if across < 0 else "right of"
    return "above" if down < 0 else "below"


def single_caption(thing: Thing, rng: random.Random) -> str:
    """A short caption of one thing: its name or a synonym, with its color or its tags at times."""
    name, chance = thing.name, rng.random()
    text = pick(rng, name.synonyms) if name.synonyms and chance < 0.15 else name.text
    if 0.15 <= chance < 0.3 and name.tags:
        tags = shuffled(rng, name.tags)[:3]
        return f"{text} ({', '.join(tags)})"
    if 0.3 <= chance < 0.45 and thing.drawing.color:
        return sentence(f"{pick(rng, ('', 'a picture of '))}{colored(thing.drawing.color, text)}")
    frame = pick(rng, ("{}", "{}", "a drawing of {a}", "a picture of {a}", "{a}", "there {is} {a}", "an icon of {a}"))
    return frame.format(text, a=with_article(text), **{"is": verb(text)})


def groups(scene: Scene) -> list[tuple[str, int]]:
    """The names in a scene and how often each is there, in the order in which they first come."""
    texts = [thing.name.text for thing in scene.things]
    return [(text, texts.count(text)) for text in dict.fromkeys(texts)]


def all_counted(scene: Scene, rng: random.Random) -> str:
    """ "two apples, a cow and grapes", in random order."""
    return listing([counted(count, text) for text, count in shuffled(rng, groups(scene))])


def text_phrase(scene: Scene) -> str:
    """ "the word OPEN"; raises ValueError if nothing is written."""
    if scene.text is None:
        raise ValueError("this scene has no text")
    return f"the {text_noun(scene.text)} {scene.text}"


def _with_text(scene: Scene, text: str, rng: random.Random) -> str:
    if scene.text is None:
        return sentence(text)
    ends = (f"{text}, with {text_phrase(scene)}", f"{text}. It says {scene.text}", f"{text} and {text_phrase(scene)}")
    return sentence(pick(rng, ends))


Template = Callable[[Scene, random.Random], "str | None"]


def _framed(frame: str) -> Template:
    def template(scene: Scene, rng: random.Random) -> str:
        count = len(scene.things)
        things = f"{count_word(count)} thing{'s' * (count > 1)}"
        return _with_text(scene, frame.format(all_counted(scene, rng), things=things), rng)

    return template


def _placed(scene: Scene, rng: random.Random) -> str:
    texts = [f"{with_article(thing.name.text)} {place(thing)}" for thing in shuffled(rng, scene.things)]
    return _with_text(scene, listing(texts), rng)


def _related(scene: Scene, rng: random.Random) -> str | None:
    """All things, and how two of them lie to one another."""
    if len(scene.things) < 2:
        return None
    first, second, *rest = shuffled(rng, scene.things)
    how = relation(first, second)
    if how is None or first.name == second.name:
        return None
    text = f"{with_article(first.name.text)} {how} {with_article(second.name.text)}"
    if rest:
        text += f", and {listing([with_article(thing.name.text) for thing in rest])}"
    return _with_text(scene, text, rng)


def in_order(scene: Scene, axis: int) -> list[Thing]:
    """The things from left to right (axis 0) or from top to bottom (axis 1)."""
    return sorted(scene.things, key=lambda thing: thing.center[axis])


def _ordered(axis: int, frame: str) -> Template:
    def template(scene: Scene, rng: random.Random) -> str | None:
        if len(scene.things) < 2:
            return None
        texts = [with_article(thing.name.text) for thing in in_order(scene, axis)]
        return _with_text(scene, frame.format(listing(texts)), rng)

    return template


def _with_colors(scene: Scene, rng: random.Random) -> str | None:
    if not any(thing.drawing.color for thing in scene.things):
        return None
    texts = [
        colored(thing.drawing.color, thing.name.text) if thing.drawing.color else with_article(thing.name.text)
        for thing in shuffled(rng, scene.things)
    ]
    return _with_text(scene, listing(texts), rng)


CAPTIONS: tuple[Template, ...] = (
    _framed("{}"),
    _framed("a picture of {}"),
    _framed("an image with {}"),
    _framed("{things}: {}"),
    _placed,
    _placed,
    _related,
    _related,
    _ordered(0, "from left to right: {}"),
    _ordered(1, "from top to bottom: {}"),
    _with_colors,
)


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    """One sentence or two that name everything in a scene, always the same for it unless ``rng`` is given."""
    rng = rng or scene.stream("caption")
    if len(scene.things) == 1 and scene.text is None:
        return single_caption(scene.things[0], rng)
    return next(filter(None, (template(scene, rng) for template in shuffled(rng, CAPTIONS))))
