"""Sentences about scenes: every caption names all objects by size, color and shape, and the text if there is any."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from data.synthetic.scene import Scene
from data.synthetic.vocabulary import (
    COLORS,
    SHAPES,
    TEXTS,
    below,
    count_word,
    listing,
    pick,
    plural,
    shuffled,
    stream,
    text_noun,
    with_article,
)

CLASS_NAMES = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
TEMPLATES = ("a picture of one {}.", "an image of one {}.", "there is one {}.", "one {}.", "{}.")
"""For zero-shot classification with ``CLASS_NAMES``; free of articles, so that "orange" fits too."""
TEXT_NAMES = tuple(f"the {text_noun(text)} {text}" for text in TEXTS)
TEXT_TEMPLATES = ("{}.", "{} is written.", "a picture of {}.", "an image of {}.")
"""For zero-shot reading with ``TEXT_NAMES``."""


class Placed(Protocol):
    """What lies somewhere in an image."""

    @property
    def center(self) -> tuple[float, float]:
        """x and y in [0, 1] of the image."""


def area(item: Placed) -> str:
    """Where an object is, in thirds of the image: ``"top left"``, ``"left"``, ``"middle"``, ..."""
    x, y = item.center
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    return f"{row} {column}".strip() or "middle"


def place(item: Placed) -> str:
    """``"at the top left"``, ``"on the left"``, ``"in the middle"``."""
    where = area(item)
    return f"{'in' if where == 'middle' else 'on' if where in ('left', 'right') else 'at'} the {where}"


def text_phrase(scene: Scene) -> str:
    """``"the word SUN"`` or ``"the number 42"``; raises ValueError if the scene has no text."""
    if scene.text is None:
        raise ValueError("this scene has no text")
    return f"the {text_noun(scene.text)} {scene.text}"


def _with_text(scene: Scene, sentence: str, rng: random.Random) -> str:
    """``sentence``, which has no full stop yet, with the text of the scene if there is one."""
    if scene.text is None:
        return sentence + "."
    phrase = text_phrase(scene)
    endings = (
        f" with {phrase}.",
        f", and {phrase}.",
        f". {phrase[0].upper()}{phrase[1:]} is written.",
        f". It says {scene.text}.",
    )
    return sentence + pick(rng, endings)


def _phrases(scene: Scene, rng: random.Random) -> list[str]:
    """All objects with articles, in random order; equal ones are sometimes counted: "two small red circles"."""
    names = [item.phrase for item in shuffled(rng, scene.objects)]
    if rng.random() < 0.3:
        return [with_article(name) for name in names]
    counts = {name: names.count(name) for name in names}
    return [with_article(n) if c == 1 else f"{count_word(c)} {plural(n)}" for n, c in counts.items()]


def _counted(scene: Scene) -> str:
    count = len(scene.objects)
    return f"{count_word(count)} object{'s' * (count != 1)}"


Template = Callable[[Scene, random.Random], "str | None"]


def _framed(frame: str) -> Template:
    def template(scene: Scene, rng: random.Random) -> str:
        return _with_text(scene, frame.format(listing(_phrases(scene, rng)), count=_counted(scene)), rng)

    return template


def _one_object(scene: Scene, rng: random.Random) -> str | None:
    """The sentences of zero-shot classification."""
    if len(scene.objects) != 1 or scene.text is not None:
        return None
    item = scene.objects[0]
    name = item.phrase if rng.random() < 0.25 else item.name
    if rng.random() < 0.4:
        return f"{pick(rng, ('a picture of', 'an image of', 'there is', 'a photo of'))} {with_article(name)}."
    return pick(rng, TEMPLATES).format(name)


def _one_object_placed(scene: Scene, rng: random.Random) -> str | None:
    if len(scene.objects) != 1:
        return None
    item = scene.objects[0]
    return _with_text(scene, f"{with_article(item.phrase)} {place(item)}", rng)


def _places(scene: Scene, rng: random.Random) -> str:
    if len(scene.objects) > 4:  # short: seven words an object would be too many
        return _with_text(scene, ", ".join(f"{area(o)} {o.phrase}" for o in shuffled(rng, scene.objects)), rng)
    items = [f"{with_article(o.phrase)} {place(o)}" for o in shuffled(rng, scene.objects)]
    return _with_text(scene, listing(items), rng)


def _places_first(scene: Scene, rng: random.Random) -> str | None:
    if len(scene.objects) > 4:
        return None
    return _with_text(
        scene, "; ".join(f"{place(o)}, {with_article(o.phrase)}" for o in shuffled(rng, scene.objects)), rng
    )


def _one_placed(scene: Scene, rng: random.Random) -> str | None:
    """All objects, and the place of one."""
    if len(scene.objects) < 2:
        return None
    first, *rest = shuffled(rng, scene.objects)
    return _with_text(
        scene,
        f"{with_article(first.phrase)} {place(first)}, and {listing([with_article(o.phrase) for o in rest])}",
        rng,
    )


def _relation(scene: Scene, rng: random.Random) -> str | None:
    """All objects, and how two of them lie to one another."""
    if len(scene.objects) < 2:
        return None
    first, second, *rest = shuffled(rng, scene.objects)
    (x1, y1), (x2, y2) = first.center, second.center
    if abs(x1 - x2) >= abs(y1 - y2):
        relation = "left of" if x1 < x2 else "right of"
    else:
        relation = "above" if y1 < y2 else "below"
    sentence = f"{with_article(first.phrase)} {relation} {with_article(second.phrase)}"
    if rest:
        sentence += pick(rng, (", and ", ", with ")) + listing([with_article(o.phrase) for o in rest])
    return _with_text(scene, sentence, rng)


def _left_to_right(scene: Scene, rng: random.Random) -> str | None:
    if len(scene.objects) < 2:
        return None
    items = sorted(scene.objects, key=lambda o: o.center[0])
    return _with_text(scene, "from left to right: " + listing([with_article(o.phrase) for o in items]), rng)


def _top_to_bottom(scene: Scene, rng: random.Random) -> str | None:
    if len(scene.objects) < 2:
        return None
    items = sorted(scene.objects, key=lambda o: o.center[1])
    return _with_text(scene, "from top to bottom: " + listing([with_article(o.phrase) for o in items]), rng)


def _text_first(scene: Scene, rng: random.Random) -> str | None:
    if scene.text is None:
        return None
    return f"{text_phrase(scene)} {pick(rng, ('and', 'with', 'written near'))} {listing(_phrases(scene, rng))}."


def _by_size(scene: Scene, rng: random.Random) -> str | None:
    """Large objects first."""
    if len({item.size for item in scene.objects}) < 2:
        return None
    groups = [[with_article(o.name) for o in shuffled(rng, scene.objects) if o.size == s] for s in ("large", "small")]
    return _with_text(scene, f"large: {listing(groups[0])}; small: {listing(groups[1])}", rng)


CAPTIONS: tuple[Template, ...] = (
    _framed("{}"),
    _framed("a picture of {}"),
    _framed("an image with {}"),
    _framed("you can see {}"),
    _framed("the picture shows {}"),
    _framed("{count}: {}"),
    _framed("a scene with {count}: {}"),
    _places,
    _places,
    _places_first,
    _one_placed,
    _relation,
    _relation,
    _left_to_right,
    _top_to_bottom,
    _text_first,
    _by_size,
    _one_object,
    _one_object,
    _one_object,
    _one_object_placed,
)


def caption(scene: Scene, variant: int | None = None, rng: random.Random | None = None) -> str:
    """A sentence or two that name everything in ``scene``.

    ``variant`` chooses among ``CAPTIONS`` (counted round; one that does not suit the scene gives way to the next that
    does), None one at random. ``rng`` (by default a function of the scene) chooses order and wording.
    """
    rng = rng or stream("caption", scene.config.seed, scene.split, scene.index)
    chosen = below(rng, len(CAPTIONS)) if variant is None else variant % len(CAPTIONS)
    order: Sequence[Template] = (
        (*CAPTIONS[chosen:], *CAPTIONS[:chosen])
        if variant is not None
        else (CAPTIONS[chosen], *shuffled(rng, CAPTIONS))
    )
    return next(sentence for sentence in (template(scene, rng) for template in order) if sentence is not None)


def captions(scene: Scene) -> list[str]:
    """One caption from every template that suits ``scene``, always the same ones."""
    rng = stream("captions", scene.config.seed, scene.split, scene.index)
    return [s for s in (template(scene, rng) for template in dict.fromkeys(CAPTIONS)) if s is not None]
