"""Words that fit one object of a scene alone: "the star", "the large red object"."""

from __future__ import annotations

import random
from collections.abc import Callable

from data.synthetic.objects import SceneObject
from data.synthetic.scene import Scene
from data.synthetic.vocabulary import pick, shuffled

# the attributes that may single an object out
REFERENCES = (
    ("shape",),
    ("color",),
    ("color", "shape"),
    ("size", "shape"),
    ("size", "color"),
    ("size", "color", "shape"),
)


def refer(scene: Scene, item: SceneObject, rng: random.Random, avoid: str = "") -> str | None:
    """Words that fit ``item`` alone, without the attribute ``avoid`` and without its place; None if there are none."""
    options = []
    for attributes in REFERENCES:
        if avoid in attributes:
            continue
        if sum(all(getattr(o, a) == getattr(item, a) for a in attributes) for o in scene.objects) == 1:
            words = [getattr(item, a) for a in attributes]
            options.append(" ".join(words if "shape" in attributes else [*words, "object"]))
    return pick(rng, options) if options else None


def choose(scene: Scene, rng: random.Random, avoid: str, size: str | None = None) -> tuple[SceneObject, str] | None:
    """A random object that words can single out, and these words."""
    for item in shuffled(rng, scene.objects):
        if size in (None, item.size):
            words = refer(scene, item, rng, avoid)
            if words is not None:
                return item, words
    return None


def choose_pair(
    scene: Scene, rng: random.Random, avoid: str, fits: Callable[[SceneObject, SceneObject], bool]
) -> tuple[str, str] | None:
    """Words for two random objects that fit, the first and the second."""
    pairs = [(a, b) for a in scene.objects for b in scene.objects if a is not b and fits(a, b)]
    for first, second in shuffled(rng, pairs):
        words = refer(scene, first, rng, avoid), refer(scene, second, rng, avoid)
        if words[0] is not None and words[1] is not None:
            return words[0], words[1]
    return None
