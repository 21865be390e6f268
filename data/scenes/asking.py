"""The ways to ask about a scene; each gives a question with the wanted answer, or None where the scene has none.

Objects are named by words that fit them alone (`data.scenes.referring`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data.scenes.referring import choose, choose_pair
from data.scenes.scene import Scene
from data.scenes.vocabulary import (
    COLOURS,
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

YES_NO = ("yes", "no")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
MARGIN = 0.1  # two places differ if they are at least this share of the picture apart
COUNTED = ("0", "1", "2", "3", "4")


@dataclass(frozen=True)
class Question:
    """A question, its short answer in lower case, and the answers that it may have.

    ``template`` is the question with what varies left out, to measure how well one can guess from the wording alone.
    """

    kind: str
    question: str
    answer: str
    choices: tuple[str, ...]
    template: str


def _question(kind: str, template: str, answer: str, choices: Sequence[str], **slots: str) -> Question:
    return Question(kind, template.format(**slots), answer, tuple(choices), template)


# exists


def exists_thing(scene: Scene, rng: random.Random, wanted: str) -> Question:
    """A shape, a colour, or both."""
    which = below(rng, 3)
    present = {(o.colour * (which != 0), o.shape * (which != 1)) for o in scene.objects}
    if wanted == "yes":
        colour, shape = pick(rng, sorted(present))
    else:
        every = [(c, s) for c in (COLOURS if which != 0 else ("",)) for s in (SHAPES if which != 1 else ("",))]
        absent = [thing for thing in every if thing not in present]
        if which == 2:  # mostly a colour and a shape that are there, but not together
            seen_colours, seen_shapes = {c for c, _ in present}, {s for _, s in present}
            near = [(c, s) for c, s in absent if c in seen_colours or s in seen_shapes]
            absent = near if near and rng.random() < 0.7 else absent
        colour, shape = pick(rng, absent)
    templates = (
        ("is there {a_shape}?", "can you see {a_shape}?", "does the picture show {a_shape}?"),
        ("is there anything {colour}?", "is any object {colour}?", "can you see {a_colour} object?"),
        ("is there {a_thing}?", "can you see {a_thing}?", "does the picture show {a_thing}?"),
    )
    slots = {
        "colour": colour,
        "a_colour": with_article(colour or "-"),
        "a_shape": with_article(shape or "-"),
        "a_thing": with_article(f"{colour} {shape}"),
    }
    return _question("exists", pick(rng, templates[which]), wanted, YES_NO, **slots)


def exists_sized(scene: Scene, rng: random.Random, wanted: str) -> Question | None:
    """Size, colour and shape; the size is drawn first, for large objects are rarer than small ones."""
    size = pick(rng, SIZES)
    having = [o for o in scene.objects if o.size == size]
    if not having:
        return None
    present = {(o.size, o.colour, o.shape) for o in scene.objects}
    if wanted == "yes":
        item = pick(rng, having)
        colour, shape = item.colour, item.shape
    else:
        near = [(size, o.colour, o.shape) for o in scene.objects if o.size != size]
        near += [(size, pick(rng, COLOURS), o.shape) for o in having] + [
            (size, o.colour, pick(rng, SHAPES)) for o in having
        ]
        near = [thing for thing in near if thing not in present]
        if not near:
            return exists_sized(scene, rng, wanted)  # the random colours and shapes happened to be there
        _, colour, shape = pick(rng, near)
    template = pick(rng, ("is there a {size} {thing}?", "can you see a {size} {thing}?"))
    return _question("exists", template, wanted, YES_NO, size=size, thing=f"{colour} {shape}")


def exists_text(scene: Scene, rng: random.Random, wanted: str) -> Question | None:
    if (scene.text is not None) != (wanted == "yes"):
        return None
    template = pick(rng, ("is anything written in the picture?", "is there any text?", "is there something to read?"))
    return _question("exists", template, wanted, YES_NO)


# count


def count_all(scene: Scene, rng: random.Random, wanted: str) -> Question | None:
    if str(len(scene.objects)) != wanted:
        return None
    template = pick(
        rng, ("how many objects are there?", "how many objects are in the picture?", "what is the number of objects?")
    )
    return _question("count", template, wanted, ("1", "2", "3", "4", "5", "6"))


def _counter(attribute: str, values: tuple[str, ...], templates: tuple[str, ...]) -> Callable[..., Question | None]:
    def ask(scene: Scene, rng: random.Random, wanted: str) -> Question | None:
        counts = Counter(getattr(o, attribute) for o in scene.objects)
        options = [value for value in values if counts[value] == int(wanted)]
        if not options:
            return None
        value = pick(rng, options)
        slots = {"value": plural(value) if attribute == "shape" else value}
        return _question("count", pick(rng, templates), wanted, COUNTED, **slots)

    return ask


count_shape = _counter(
    "shape", SHAPES, ("how many {value} are there?", "how many {value} can you see?", "count the {value}.")
)
count_colour = _counter(
    "colour",
    COLOURS,
    ("how many {value} objects are there?", "how many objects are {value}?", "count the {value} objects."),
)
count_size = _counter("size", SIZES, ("how many {value} objects are there?", "how many objects are {value}?"))


# colour and shape


def attribute_by_words(scene: Scene, rng: random.Random, kind: str) -> Question | None:
    subject = choose(scene, rng, avoid=kind)
    if subject is None:
        return None
    item, words = subject
    if kind == "colour":
        template = pick(rng, ("what colour is the {thing}?", "which colour does the {thing} have?"))
    else:
        template = pick(rng, ("what shape is the {thing}?", "which shape does the {thing} have?"))
    return _question(kind, template, getattr(item, kind), COLOURS if kind == "colour" else SHAPES, thing=words)


def attribute_of_nothing(scene: Scene, rng: random.Random, kind: str) -> Question | None:
    """Asked as `attribute_by_words` is, about what is not there; the answer is "none"."""
    if kind == "colour":
        absent = [shape for shape in SHAPES if all(o.shape != shape for o in scene.objects)]
        template = pick(rng, ("what colour is the {thing}?", "which colour does the {thing} have?"))
    else:
        absent = [f"{colour} object" for colour in COLOURS if all(o.colour != colour for o in scene.objects)]
        template = pick(rng, ("what shape is the {thing}?", "which shape does the {thing} have?"))
    return _question("absent", template, "none", ("none",), thing=pick(rng, absent))


def attribute_by_place(scene: Scene, rng: random.Random, kind: str) -> Question | None:
    """About the outermost object on one side."""
    side = pick(rng, ("left", "right", "top", "bottom"))
    axis, sign = (0 if side in ("left", "right") else 1), (1 if side in ("left", "top") else -1)
    ranked = sorted(scene.objects, key=lambda o: sign * o.centre[axis])
    if len(ranked) > 1 and abs(ranked[1].centre[axis] - ranked[0].centre[axis]) < MARGIN:
        return None
    place = {"left": "leftmost object", "right": "rightmost object", "top": "object nearest to the top"}
    words = place.get(side, "object nearest to the bottom")
    template = {"colour": "what colour is the {place}?", "shape": "what shape is the {place}?"}[kind]
    return _question(kind, template, getattr(ranked[0], kind), COLOURS if kind == "colour" else SHAPES, place=words)


def attribute_of_size(scene: Scene, rng: random.Random, kind: str) -> Question | None:
    """About the only large or the only small object."""
    size = pick(rng, SIZES)
    items = [o for o in scene.objects if o.size == size]
    if len(items) != 1 or len(scene.objects) == 1:
        return None
    template = {"colour": "what colour is the {size} object?", "shape": "what shape is the {size} object?"}[kind]
    return _question(kind, template, getattr(items[0], kind), COLOURS if kind == "colour" else SHAPES, size=size)


# position


def quadrant(scene: Scene, rng: random.Random, wanted: str) -> Question | None:
    for _ in range(len(scene.objects)):
        subject = choose(scene, rng, avoid="")
        if subject is None:
            return None
        item, words = subject
        x, y = item.centre
        if min(abs(x - 0.5), abs(y - 0.5)) >= MARGIN / 2:
            template = pick(
                rng, ("where is the {thing}?", "in which corner is the {thing}?", "where can you see the {thing}?")
            )
            return _question("position", template, item.quadrant, QUADRANTS, thing=words)
    return None


def half(scene: Scene, rng: random.Random, wanted: str) -> Question | None:
    subject = choose(scene, rng, avoid="")
    axis = below(rng, 2)
    if subject is None or abs(subject[0].centre[axis] - 0.5) < MARGIN / 2:
        return None
    choices = (("left", "right"), ("top", "bottom"))[axis]
    template = ("is the {thing} on the left or on the right?", "is the {thing} at the top or at the bottom?")[axis]
    return _question("position", template, choices[subject[0].centre[axis] > 0.5], choices, thing=subject[1])


def relation(scene: Scene, rng: random.Random, wanted: str) -> Question | None:
    axis = below(rng, 2)
    words = choose_pair(scene, rng, "", lambda a, b: b.centre[axis] - a.centre[axis] >= MARGIN)
    if words is None:
        return None
    turned = below(rng, 2)  # ask for the opposite relation
    between = (("left of", "right of"), ("above", "below"))[axis][turned]
    first, second = words if (wanted == "yes") != bool(turned) else words[::-1]
    template = "is the {first} {relation} the {second}?"
    return _question("position", template, wanted, YES_NO, first=first, relation=between, second=second)


# compare


def more(scene: Scene, rng: random.Random, wanted: str) -> Question:
    attribute, values = pick(rng, (("shape", SHAPES), ("colour", COLOURS)))
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
    return _question("compare", template, wanted, YES_NO, **slots)


def larger(scene: Scene, rng: random.Random, wanted: str) -> Question | None:
    words = choose_pair(scene, rng, "size", lambda a, b: a.size == "large" and b.size == "small")
    if words is None:
        return None
    turned = rng.random() < 0.4
    first, second = words if (wanted == "yes") != turned else words[::-1]
    template = "is the {first} {relation} than the {second}?"
    than = "smaller" if turned else pick(rng, ("larger", "bigger"))
    return _question("compare", template, wanted, YES_NO, first=first, relation=than, second=second)


def _same(attribute: str) -> Callable[..., Question | None]:
    def ask(scene: Scene, rng: random.Random, wanted: str) -> Question | None:
        words = choose_pair(
            scene, rng, attribute, lambda a, b: (getattr(a, attribute) == getattr(b, attribute)) == (wanted == "yes")
        )
        if words is None:
            return None
        template = f"do the {{first}} and the {{second}} have the same {attribute}?"
        return _question("compare", template, wanted, YES_NO, first=words[0], second=words[1])

    return ask


same_size, same_colour = _same("size"), _same("colour")


def large_or_small(scene: Scene, rng: random.Random, wanted: str) -> Question | None:
    subject = choose(scene, rng, avoid="size", size=wanted)
    if subject is None:
        return None
    first, second = pick(rng, (("large", "small"), ("small", "large")))
    template = f"is the {{thing}} {first} or {second}?"
    return _question("compare", template, wanted, (first, second), thing=subject[1])


# read


def read(scene: Scene, rng: random.Random, wanted: str) -> Question | None:
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
    return _question("read", template, scene.text.lower(), choices, noun=noun)
