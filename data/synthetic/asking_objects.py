"""The ways to ask about objects of a scene; each gives a question with the wanted answer, or None where there is none.

Objects are named by words that fit them alone (`data.synthetic.referring`).
"""

from __future__ import annotations

import random
from collections.abc import Callable

from data.synthetic.asking import YES_NO, SceneQuestion, worded
from data.synthetic.referring import choose, choose_pair
from data.synthetic.scene import Scene
from data.synthetic.vocabulary import COLORS, SHAPES, SIZES, below, pick

QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
MARGIN = 0.1  # two places differ if they are at least this share of the image apart
VALUES = {"color": COLORS, "shape": SHAPES}
BY_WORDS = {
    "color": ("what colour is the {thing}?", "which colour does the {thing} have?"),
    "shape": ("what shape is the {thing}?", "which shape does the {thing} have?"),
}


# color and shape


def attribute_by_words(scene: Scene, rng: random.Random, attribute: str) -> SceneQuestion | None:
    subject = choose(scene, rng, avoid=attribute)
    if subject is None:
        return None
    item, words = subject
    template, value = pick(rng, BY_WORDS[attribute]), getattr(item, attribute)
    return worded(attribute, template, value, VALUES[attribute], scene.region(item), thing=words)


def attribute_of_nothing(scene: Scene, rng: random.Random, attribute: str) -> SceneQuestion | None:
    """Asked as `attribute_by_words` is, about what is not there; the answer is "none"."""
    if attribute == "color":
        absent = [shape for shape in SHAPES if all(o.shape != shape for o in scene.objects)]
    else:
        absent = [f"{color} object" for color in COLORS if all(o.color != color for o in scene.objects)]
    return worded("absent", pick(rng, BY_WORDS[attribute]), "none", ("none",), thing=pick(rng, absent))


def attribute_by_place(scene: Scene, rng: random.Random, attribute: str) -> SceneQuestion | None:
    """About the outermost object on one side."""
    side = pick(rng, ("left", "right", "top", "bottom"))
    axis, sign = (0 if side in ("left", "right") else 1), (1 if side in ("left", "top") else -1)
    ranked = sorted(scene.objects, key=lambda o: sign * o.center[axis])
    if len(ranked) > 1 and abs(ranked[1].center[axis] - ranked[0].center[axis]) < MARGIN:
        return None
    place = {"left": "leftmost object", "right": "rightmost object", "top": "object nearest to the top"}
    words = place.get(side, "object nearest to the bottom")
    template = {"color": "what colour is the {place}?", "shape": "what shape is the {place}?"}[attribute]
    item = ranked[0]
    return worded(attribute, template, getattr(item, attribute), VALUES[attribute], scene.region(item), place=words)


def attribute_of_size(scene: Scene, rng: random.Random, attribute: str) -> SceneQuestion | None:
    """About the only large or the only small object."""
    size = pick(rng, SIZES)
    items = [o for o in scene.objects if o.size == size]
    if len(items) != 1 or len(scene.objects) == 1:
        return None
    template = {"color": "what colour is the {size} object?", "shape": "what shape is the {size} object?"}[attribute]
    item = items[0]
    return worded(attribute, template, getattr(item, attribute), VALUES[attribute], scene.region(item), size=size)


# position


def quadrant(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion | None:
    for _ in range(len(scene.objects)):
        subject = choose(scene, rng, avoid="")
        if subject is None:
            return None
        item, words = subject
        x, y = item.center
        if min(abs(x - 0.5), abs(y - 0.5)) >= MARGIN / 2:
            template = pick(
                rng, ("where is the {thing}?", "in which corner is the {thing}?", "where can you see the {thing}?")
            )
            return worded("position", template, item.quadrant, QUADRANTS, scene.region(item), thing=words)
    return None


def half(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion | None:
    subject = choose(scene, rng, avoid="")
    axis = below(rng, 2)
    if subject is None or abs(subject[0].center[axis] - 0.5) < MARGIN / 2:
        return None
    item, words = subject
    choices = (("left", "right"), ("top", "bottom"))[axis]
    template = ("is the {thing} on the left or on the right?", "is the {thing} at the top or at the bottom?")[axis]
    return worded("position", template, choices[item.center[axis] > 0.5], choices, scene.region(item), thing=words)


def relation(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion | None:
    axis = below(rng, 2)
    words = choose_pair(scene, rng, "", lambda a, b: b.center[axis] - a.center[axis] >= MARGIN)
    if words is None:
        return None
    turned = below(rng, 2)  # ask for the opposite relation
    between = (("left of", "right of"), ("above", "below"))[axis][turned]
    first, second = words if (wanted == "yes") != bool(turned) else words[::-1]
    template = "is the {first} {relation} the {second}?"
    return worded("position", template, wanted, YES_NO, first=first, relation=between, second=second)


# compare


def larger(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion | None:
    words = choose_pair(scene, rng, "size", lambda a, b: a.size == "large" and b.size == "small")
    if words is None:
        return None
    turned = rng.random() < 0.4
    first, second = words if (wanted == "yes") != turned else words[::-1]
    template = "is the {first} {relation} than the {second}?"
    than = "smaller" if turned else pick(rng, ("larger", "bigger"))
    return worded("compare", template, wanted, YES_NO, first=first, relation=than, second=second)


def _same(attribute: str) -> Callable[..., SceneQuestion | None]:
    def ask(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion | None:
        words = choose_pair(
            scene, rng, attribute, lambda a, b: (getattr(a, attribute) == getattr(b, attribute)) == (wanted == "yes")
        )
        if words is None:
            return None
        word = "colour" if attribute == "color" else attribute
        template = f"do the {{first}} and the {{second}} have the same {word}?"
        return worded("compare", template, wanted, YES_NO, first=words[0], second=words[1])

    return ask


same_size, same_color = _same("size"), _same("color")


def large_or_small(scene: Scene, rng: random.Random, wanted: str) -> SceneQuestion | None:
    subject = choose(scene, rng, avoid="size", size=wanted)
    if subject is None:
        return None
    first, second = pick(rng, (("large", "small"), ("small", "large")))
    template = f"is the {{thing}} {first} or {second}?"
    return worded("compare", template, wanted, (first, second), scene.region(subject[0]), thing=subject[1])
