"""Lists of what is in a scene, in which all words of an item but the first are looked up behind those before.

In "2: heart red small top left, word sun, blue ring large top right" each next word belongs to the item that the last
ones name. That is the simplest form of what questions ask for, and learned first it opens the way to them: docs/log.md
has figures.
"""

from __future__ import annotations

import random

from data.synthetic.scene import Scene
from data.synthetic.vocabulary import pick, shuffled, text_noun

LIST = "List everything."
ORDERS = (("shape", "color", "size", "quadrant"), ("color", "shape", "size", "quadrant"))


def list_scene(scene: Scene, rng: random.Random) -> str:
    """How many objects, each of them with its shape or its color first, and the text, in random order.

    For example ``"2: heart red small top left, word sun, blue ring large top right."``.
    """
    items = [" ".join(getattr(item, name) for name in pick(rng, ORDERS)) for item in scene.objects]
    if scene.text is not None:
        items.append(f"{text_noun(scene.text)} {scene.text.lower()}")
    return f"{len(scene.objects)}: {', '.join(shuffled(rng, items))}."
