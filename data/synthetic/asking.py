"""The ways to ask about a scene as a whole; each gives a question with the wanted answer, or None where there is none.

Those about single objects are in `data.synthetic.asking_objects`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.synthetic.objects import TEXT_VALUE
from data.synthetic.scene import Scene
from data.synthetic.vocabulary import (
    COLORS,
    NUMBERS,
    SHAPES,
    SIZES,
    WORDS,
    below,
    pick,
    plural,
    text_noun,
    with_article,
)

if TYPE_CHECKING:
    from data.synthetic.locating import Target

YES_NO = ("yes", "no")
COUNTED = ("0", "1", "2", "3", "4")


@dataclass(frozen=True)
class SceneQuestion:
    """A question, its short answer in lower case, and the answers that it may have.

    ``template`` is the question with what varies left out, to measure how well one can guess from the wording alone.
    ``region`` is the value that the one thing which the answer is about has in the scene's mask, None if it is about
    several or none.
    Where a place is asked for, ``target`` says which other answers are right too.
    """

    category: str
    question: str
    answer: str
    choices: tuple[str, ...]
    template: str
    region: int | None = None
    target: Target | None = None

    def is_right(self, text: str) -> bool:
        """Whether ``text``, in lower case, is a right answer."""
        return text == self.answer if self.target is None else self.target.is_hit(text, self.category)


def worded(
    category: str, template: str, answer: str, choices: Sequence[str], region: int | None = None, /, **slots: str
) -> SceneQuestion:
    """The question in the words of its template, the slots filled in."""
    return SceneQuestion(category, template.format(**slots), answer, tuple(choices), template, region)


# exists


def exists_thing(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion:
    """A shape, a color, or both."""
    which = below(rng, 3)
    present = {(o.color * (which != 0), o.shape * (which != 1)) for o in scene.objects}
    if wanted == "yes":
        color, shape = pick(rng, sorted(present))
    else:
        every = [(c, s) for c in (COLORS if which != 0 else ("",)) for s in (SHAPES if which != 1 else ("",))]
        absent = [thing for thing in every if thing not in present]
        if which == 2:  # mostly a color and a shape that are there, but not together
            seen_colors, seen_shapes = {c for c, _ in present}, {s for _, s in present}
            near = [(c, s) for c, s in absent if c in seen_colors or s in seen_shapes]
            absent = near if near and rng.random() < 0.7 else absent
        color, shape = pick(rng, absent)
    templates = (
        ("is there {a_shape}?", "can you see {a_shape}?", "does the picture show {a_shape}?"),
        ("is there anything {color}?", "is any object {color}?", "can you see {a_color} object?"),
        ("is there {a_thing}?", "can you see {a_thing}?", "does the picture show {a_thing}?"),
    )
    slots = {
        "color": color,
        "a_color": with_article(color or "-"),
        "a_shape": with_article(shape or "-"),
        "a_thing": with_article(f"{color} {shape}"),
    }
    return worded("exists", pick(rng, templates[which]), wanted, YES_NO, **slots)


def exists_sized(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion | None:
    """Size, color and shape; the size is drawn first, for large objects are rarer than small ones."""
    size = pick(rng, SIZES)
    having = [o for o in scene.objects if o.size == size]
    if not having:
        return None
    present = {(o.size, o.color, o.shape) for o in scene.objects}
    if wanted == "yes":
        item = pick(rng, having)
        color, shape = item.color, item.shape
    else:
        near = [(size, o.color, o.shape) for o in scene.objects if o.size != size]
        near += [(size, pick(rng, COLORS), o.shape) for o in having] + [
            (size, o.color, pick(rng, SHAPES)) for o in having
        ]
        near = [thing for thing in near if thing not in present]
        if not near:
            return exists_sized(scene, rng, wanted)  # the random colors and shapes happened to be there
        _, color, shape = pick(rng, near)
    template = pick(rng, ("is there a {size} {thing}?", "can you see a {size} {thing}?"))
    return worded("exists", template, wanted, YES_NO, size=size, thing=f"{color} {shape}")


def exists_text(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion | None:
    if (scene.text is not None) != (wanted == "yes"):
        return None
    template = pick(rng, ("is anything written in the picture?", "is there any text?", "is there something to read?"))
    return worded("exists", template, wanted, YES_NO)


# count


def count_all(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion | None:
    if str(len(scene.objects)) != wanted:
        return None
    template = pick(
        rng, ("how many objects are there?", "how many objects are in the picture?", "what is the number of objects?")
    )
    return worded("count", template, wanted, ("1", "2", "3", "4", "5", "6"))


def _counter(
    attribute: str, values: tuple[str, ...], templates: tuple[str, ...]
) -> Callable[..., SceneQuestion | None]:
    def ask(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion | None:
        counts = Counter(getattr(o, attribute) for o in scene.objects)
        options = [value for value in values if counts[value] == int(wanted)]
        if not options:
            return None
        value = pick(rng, options)
        slots = {"value": plural(value) if attribute == "shape" else value}
        return worded("count", pick(rng, templates), wanted, COUNTED, **slots)

    return ask


count_shape = _counter(
    "shape", SHAPES, ("how many {value} are there?", "how many {value} can you see?", "count the {value}.")
)
count_color = _counter(
    "color",
    COLORS,
    ("how many {value} objects are there?", "how many objects are {value}?", "count the {value} objects."),
)
count_size = _counter("size", SIZES, ("how many {value} objects are there?", "how many objects are {value}?"))


# compare


def more(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion:
    attribute, values = pick(rng, (("shape", SHAPES), ("color", COLORS)))
    counts = Counter(getattr(o, attribute) for o in scene.objects)
    seen = sorted(counts)
    pairs = [(a, b) for a in seen for b in seen if counts[a] > counts[b]]
    if not pairs or rng.random() < 0.3:
        pairs = [(a, b) for a in seen for b in values if b not in counts]
    most, least = pick(rng, pairs)
    turned = rng.random() < 0.3
    first, second = (most, least) if (wanted == "yes") != turned else (least, most)
    nouns = [plural(v) if attribute == "shape" else f"{v} objects" for v in (first, second)]
    template = "are there {than} {first} than {second}?"
    slots = {"than": "fewer" if turned else "more", "first": nouns[0], "second": nouns[1]}
    return worded("compare", template, wanted, YES_NO, **slots)


# read


def read(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion | None:
    if scene.text is None:
        return None
    noun = text_noun(scene.text)
    template = pick(
        rng,
        (
            "what {noun} is written?",
            "which {noun} can you read?",
            "what {noun} is in the picture?",
            "what does the text say?",
            "what is written in the picture?",
        ),
    )
    choices = NUMBERS if noun == "number" else tuple(word.lower() for word in WORDS)
    return worded("read", template, scene.text.lower(), choices, TEXT_VALUE, noun=noun)
