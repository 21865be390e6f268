"""Lists of a scene's objects: what each of them is, behind the word that singles it out.

The densest supervision that there is: in "heart red small top left" every word must be found at the object that the
words before it name. Which colour belongs to which shape is learned from it in minutes; from questions with short
answers, which need the same look-up and another one to find what is asked for, it is not (docs/log.md has figures).
"""

from __future__ import annotations

import random

from data.scenes.scene import Scene
from data.scenes.vocabulary import pick, shuffled

ORDERS = {
    "shape": ("shape", "colour", "size", "quadrant"),
    "colour": ("colour", "shape", "size", "quadrant"),
    "place": ("quadrant", "shape", "colour", "size"),
}


def list_objects(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A request for a list of all objects, and the list: ``"heart red small top left, ring blue large top right."``.

    The request says which attribute comes first; the objects stand in random order.
    """
    first = pick(rng, tuple(ORDERS))
    items = [" ".join(getattr(item, name) for name in ORDERS[first]) for item in shuffled(rng, scene.objects)]
    return f"List the objects, {first} first.", ", ".join(items) + "."
